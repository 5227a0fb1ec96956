"""A network as one file, and what a file holds: nothing in it is run as code.

Files of this package are safetensors with the recipe in the header. Those of others, .safetensors or .pth, are
recognised by the names of their weights.
"""

import json
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from srcluster.errors import UserError
from srcluster.models import build, foreign, zoo
from srcluster.models.network import Network
from srcluster.recipe import Recipe, recipe_from

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
"""Of files of weights."""

_WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net")
"""Under what other programs keep the weights in a .pth, the best first."""


def weights_bytes(weights: dict[str, Tensor], recipe: Recipe) -> bytes:
    """A file's content: tensors, and what they are of."""
    # safetensors takes no channels_last tensor.
    portable = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    return save(portable, metadata={"recipe": recipe.model_dump_json()})


def recipe_in(content: bytes) -> Recipe:
    """The recipe in the header of a file's content."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return Recipe.model_validate_json(header["__metadata__"]["recipe"])


def save_weights(path: Path, weights: dict[str, Tensor], recipe: Recipe) -> None:
    """Write tensors, and what they are of, to a file."""
    path.write_bytes(weights_bytes(weights, recipe))


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of any of SUFFIXES, or of a checkpoint's folder, under the names they have there.

    Args:
        path: Of a checkpoint, its best weights are taken, or before the first evaluation, the latest.

    Raises:
        UserError: It is missing, damaged, or holds something else than tensors.
    """
    if path.is_dir():
        network, average, best = (load_weights(path / f"{name}.safetensors") for name in ("network", "average", "best"))
        # The average is of what is learned alone, and not of batch norm's statistics.
        return best or network | average
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds code, which is not run, or is no file of weights: ask for it as .safetensors"
        ) from error
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"the weights {path} are missing or damaged ({str(error).partition(chr(10))[0]})") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"{path} holds no weights, which are tensors by name")
    shared = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if shared else name: tensor for name, tensor in content.items()}


def load_model(path: Path, allow_import: Collection[str] = ()) -> tuple[Recipe | None, Network]:
    """The network of a file of any of SUFFIXES, or of a checkpoint's folder, to evaluate with.

    Args:
        path: See `load_weights`.
        allow_import: Packages that a file may name as its network's.

    Returns:
        The recipe, none for a network that only spandrel knows, and the network.

    Raises:
        UserError: It is missing, damaged, of an unknown network, or of one that is not allowed.
    """
    weights = load_weights(path)
    recipe = _recipe_of(path)
    if recipe is None:
        return _foreign(path, weights)
    if recipe.model.kind == "import" and recipe.model.package not in allow_import:
        raise UserError(
            f"{path} is of the network {recipe.model.target}: if you trust that code, allow it by "
            f"--allow-import {recipe.model.package}"
        )
    return recipe, _filled(recipe, weights, path)


def named_weights(path: Path) -> dict[str, Tensor]:
    """What `load_weights` gives, under the names that the networks here have."""
    weights = load_weights(path)
    found = None if _recipe_of(path) else foreign.recognise(weights)
    return found[2] if found else weights


def _recipe_of(path: Path) -> Recipe | None:
    """What a file says that its weights are of; nothing, where it is not of this package."""
    file = path / "network.safetensors" if path.is_dir() else path
    if file.suffix != ".safetensors":
        return None
    with safe_open(file, "pt") as opened:
        said = (opened.metadata() or {}).get("recipe")
    try:
        return said and Recipe.model_validate_json(said)
    except ValidationError as error:
        raise UserError(f"{path} is of another version of srcluster ({error.errors()[0]['msg']})") from error


def _filled(recipe: Recipe, weights: Mapping[str, Tensor], path: Path) -> Network:
    network = build(recipe.model, recipe.scale)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{path} is of another version of this network ({' '.join(str(error).split())[:200]})"
        ) from error
    # Torch's types leave the layout out.
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def _foreign(path: Path, weights: dict[str, Tensor]) -> tuple[Recipe | None, Network]:
    if found := foreign.recognise(weights):
        scale, spec, renamed = found
        name = re.sub(r"[^A-Za-z0-9_.-]+|^[_.-]+", "-", path.stem).lstrip("-") or "foreign"
        try:
            recipe = recipe_from({"name": name[:100], "steps": 0, "scale": scale, "model": spec})
            return recipe, _filled(recipe, renamed, path)
        except UserError:
            # Other networks begin with the same names.
            pass
    return None, zoo.load(weights, str(path))
