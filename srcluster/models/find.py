"""A network by what a person calls it: a file, a folder, an URL, a run, one that is shipped, or an interpolation."""

import os
import re
import tempfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple, get_args

import torch

from srcluster import models, storage
from srcluster.data.download import download
from srcluster.errors import UserError
from srcluster.models import shipped
from srcluster.models.network import Network
from srcluster.models.reach import reach_of
from srcluster.models.saved import SUFFIXES, load_model
from srcluster.pixels.resize import Kernel
from srcluster.recipe import Interpolation, Recipe

MODEL_HELP = (
    "A .safetensors or .pth file, also of other programs; a checkpoint or a run's folder; an s3:// or https:// URL of "
    "these; a run's name, an MLflow run's id, models:/name/version; a network that comes with srcluster"
    + (f" ({', '.join(shipped.names())})" if shipped.names() else "")
    + "; or nearest, bilinear, bicubic."
)

ALLOW_IMPORT_HELP = "A package that a model file may name as its network's code."

_IN_MLFLOW = re.compile(r"(models|runs):/.*|[0-9a-f]{32}")

_FILES = ("model", "best", "average", "network")
"""What weights are called: of a run; or of a checkpoint, which has the last three."""


class FoundModel(NamedTuple):
    """A network to evaluate with, what a person calls it, and its recipe, where one makes it."""

    name: str
    network: Network
    recipe: Recipe | None = None


def find_model(name: str, scale: int = 4, allow_import: Collection[str] = ()) -> FoundModel:
    """A network, on the GPU if there is one.

    Args:
        name: As `MODEL_HELP` says.
        scale: Of an interpolation; a network has its own.
        allow_import: Packages that a file may name as its network's.

    Raises:
        UserError: There is none, or it is damaged; or MLflow can't be reached.
        StorageError: It can't be read.
    """
    if name in get_args(Kernel):
        return FoundModel(name, models.build(Interpolation(kernel=name), scale).eval())
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_model(name, Path(folder))
        recipe, network = load_model(path, allow_import)
    network = network.to("cuda" if torch.cuda.is_available() else "cpu")
    reach_of(network)
    return FoundModel(_label(name), network, recipe)


def _label(name: str) -> str:
    """A run's or a network's name as it is; of a path or a URL the last part that says something."""
    if _IN_MLFLOW.fullmatch(name):
        return name
    path = PurePosixPath(name.removeprefix(shipped.PREFIX).partition("?")[0])
    if path.suffix in SUFFIXES:
        path = path.with_suffix("")
    return (path.parent if path.name in _FILES and path.parent.name else path).name or name


def holds_model(folder: str) -> bool:
    """Whether there are weights in a folder, or below a prefix."""
    return any(storage.exists(storage.join(folder, f"{name}.safetensors")) for name in _FILES)


def ambiguous(name: str, other: str) -> UserError:
    """To be raised where a shipped network and something of the person's have one name."""
    return UserError(
        f"{name} is a network that comes with srcluster, and {other} has the same name: say {shipped.PREFIX}{name} or "
        f"{other}"
    )


def fetch_model(name: str, folder: Path) -> Path:
    """A file of weights, or a folder with those of a checkpoint, on this machine.

    Args:
        name: As `MODEL_HELP` says, but no interpolation.
        folder: Where it goes if it is not on this machine.

    Raises:
        UserError: There is none, or a shipped network and something else have the name.
    """
    if _IN_MLFLOW.fullmatch(name):
        from srcluster import tracking  # Here: mlflow takes seconds to import.

        return tracking.download_model(name, folder)
    runs = os.environ.get("SRCLUSTER_STORAGE")
    run = storage.join(runs, "runs", name) if runs and re.fullmatch(r"[\w.-]+", name) else ""
    if name.startswith(shipped.PREFIX):
        return shipped.file_of(name.removeprefix(shipped.PREFIX))
    if name in shipped.names():
        if holds_model(name):
            raise ambiguous(name, f"./{name}")
        # Also a run that is not finished.
        if run and any(storage.exists(storage.join(run, file)) for file in ("recipe.json", "model.safetensors")):
            raise ambiguous(name, run)
        return shipped.file_of(name)
    for url in (name, storage.join(name, "model.safetensors"), run and storage.join(run, "model.safetensors")):
        suffix = Path(url.partition("?")[0]).suffix
        if suffix not in SUFFIXES:
            continue
        target = folder / url.partition("?")[0].rpartition("/")[2]
        if url.startswith(("http://", "https://")):
            if url == name:
                download(url, target)
                return target
        elif storage.exists(url):
            if not storage.is_s3(url):
                return Path(url)
            storage.download(url, target)
            return target
    if not name.startswith("http") and holds_model(name):
        for part in _FILES:
            if storage.exists(url := storage.join(name, f"{part}.safetensors")):
                storage.download(url, folder / f"{part}.safetensors")
        return folder
    raise UserError(f"there is no model {name!r}; it can be: {MODEL_HELP[0].lower()}{MODEL_HELP[1:]}")
