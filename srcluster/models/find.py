"""A network by what a person calls it: a file, a folder, an URL, an MLflow run, or an interpolation."""

import re
import tempfile
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from srcluster import models, storage
from srcluster.models.saved import ModelError, load_model
from srcluster.pixels.resize import Kernel
from srcluster.recipe import Interpolation

__all__ = ["MODEL_HELP", "find_model", "holds_model"]

MODEL_HELP = (
    "A .safetensors file, a checkpoint or a run's folder, an s3:// URL of these, an MLflow run's id, "
    "models:/name/version, or nearest, bilinear, bicubic."
)

_IN_MLFLOW = re.compile(r"(models|runs):/.*|[0-9a-f]{32}")

_FILES = ("model", "best", "average", "network")
"""What weights are called: of a run; or of a checkpoint, which has the last three."""


def find_model(name: str, scale: int = 4) -> tuple[str, nn.Module]:
    """A network to evaluate with, on the GPU if there is one, and what to call it.

    Args:
        name: As `MODEL_HELP` says.
        scale: Of an interpolation; a network has its own.

    Raises:
        ModelError: There is none, or it is damaged.
        StorageError: It can't be read.
        TrackingError: MLflow can't be reached, or has none.
    """
    if name in get_args(Kernel):
        return name, models.build(Interpolation(kernel=name), scale).eval()
    with tempfile.TemporaryDirectory() as folder:
        find = _in_mlflow if _IN_MLFLOW.fullmatch(name) else _in_storage
        recipe, network = load_model(find(name, Path(folder)))
    return recipe.name, network.to("cuda" if torch.cuda.is_available() else "cpu")


def holds_model(folder: str) -> bool:
    """Whether there are weights in a folder, or below a prefix."""
    return any(storage.exists(storage.join(folder, f"{name}.safetensors")) for name in _FILES)


def _in_mlflow(name: str, folder: Path) -> Path:
    # Not before it is needed: mlflow takes seconds to import.
    from srcluster import tracking

    return tracking.download_model(name, folder)


def _in_storage(name: str, folder: Path) -> Path:
    """Where a file, or a folder with a run's file or a checkpoint, is on this machine."""
    if name.endswith(".safetensors"):
        source = name
    elif storage.exists(storage.join(name, "model.safetensors")):
        source = storage.join(name, "model.safetensors")
    elif holds_model(name):
        for part in _FILES:
            if storage.exists(url := storage.join(name, f"{part}.safetensors")):
                storage.download(url, folder / f"{part}.safetensors")
        return folder
    else:
        raise ModelError(f"there is no model {name!r}; it can be: {MODEL_HELP[0].lower()}{MODEL_HELP[1:]}")
    if not storage.is_s3(source):
        return Path(source)
    storage.download(source, folder / "model.safetensors")
    return folder / "model.safetensors"
