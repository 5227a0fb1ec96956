"""Training that starts from weights that are there: found and kept by a driver, read by each worker."""

import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from srcluster import storage
from srcluster.errors import UserError
from srcluster.models import build
from srcluster.models.find import fetch_model
from srcluster.models.saved import load_weights, named_weights
from srcluster.recipe import Model, Start


@functools.cache
def resolve_start(start: Start, model: Model, scale: int) -> Start:
    """The start with a copy of its weights that every worker can read, by their SHA-256, once they are known to fit.

    Raises:
        UserError: There are no such weights, they are not those of the SHA-256 given, or they don't fit.
    """
    if not start.weights:
        return start
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_model(start.weights, Path(folder))
        if path.is_dir():
            path, weights = Path(folder, "checkpoint.safetensors"), load_weights(path)
            safetensors.torch.save_file(weights, path)
        with torch.device("cpu" if model.kind == "import" else "meta"):
            network = build(model, scale)
        kept = fitting(network, named_weights(path), start)
        if left := [name for name in network.state_dict() if name not in kept]:
            print(f"{start.weights} has no weights that fit {len(left)} of this network's: {', '.join(left)}")
        content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if start.sha256 not in (None, sha256):
        raise UserError(f"{start.weights} has SHA-256 {sha256}, and start.sha256 says {start.sha256}: name that file")
    url = storage.join(os.environ["SRCLUSTER_STORAGE"], "weights", f"{sha256}{path.suffix}")
    if not storage.exists(url):
        storage.write(url, content)
    return Start(weights=url, strict=start.strict, sha256=sha256)


def fitting(network: nn.Module, weights: Mapping[str, Tensor], start: Start) -> dict[str, Tensor]:
    """Those of the weights that a network has a place for, by name and shape.

    Raises:
        UserError: Not all do, where `start.strict`; or none.
    """
    places = network.state_dict()
    fit = {name: tensor for name, tensor in weights.items() if name in places and tensor.shape == places[name].shape}
    wrong = [name for name in {**places, **weights} if name not in fit]
    if wrong and start.strict:
        others = f", and so with {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"{start.weights} does not fit this network: {_why(wrong[0], places, weights)}{others}; start.strict=false "
            "takes what fits, for another scale or upsampler"
        )
    if not fit:
        raise UserError(f"{start.weights} has no weights that fit this network by name and shape: choose its kind")
    return fit


def _why(name: str, places: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    sizes = [" x ".join(map(str, which[name].shape)) if name in which else "missing" for which in (places, weights)]
    return f"{name} is {sizes[1]} there, and {sizes[0]} here"


def begin_with(network: nn.Module, start: Start) -> None:
    """Give a network the weights of a start that `resolve_start` gave; a UserError if they changed meanwhile."""
    content = storage.read(start.weights)
    if hashlib.sha256(content).hexdigest() != start.sha256:
        raise UserError(f"{start.weights} is not the file that its name says: remove it, and begin the run again")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, start.weights.rpartition("/")[2])
        path.write_bytes(content)
        network.load_state_dict(fitting(network, named_weights(path), start), strict=False)
