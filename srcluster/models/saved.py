"""A network as one file: safetensors, with the recipe that made it in the header. Nothing in it is code."""

from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from srcluster.errors import UserError
from srcluster.models import build
from srcluster.recipe import Recipe

__all__ = ["ModelError", "load_model", "load_weights", "save_weights", "weights_bytes"]


class ModelError(UserError):
    """A file of weights that can't be read, or is of something else."""


def weights_bytes(weights: dict[str, Tensor], recipe: Recipe) -> bytes:
    """A file's content: tensors, and what they are of."""
    # safetensors takes no channels_last tensor.
    portable = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    return save(portable, metadata={"recipe": recipe.model_dump_json()})


def save_weights(path: Path, weights: dict[str, Tensor], recipe: Recipe) -> None:
    """Write tensors, and what they are of, to a file."""
    path.write_bytes(weights_bytes(weights, recipe))


def load_weights(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        ModelError: It is missing or damaged.
    """
    try:
        return load_file(path, str(device))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the weights {path} are missing or damaged ({error})") from error


def load_model(path: Path) -> tuple[Recipe, nn.Module]:
    """The network of a file that `save_weights` wrote, or of a checkpoint's folder, to evaluate with.

    Args:
        path: Of a checkpoint, its best weights are taken, or before the first evaluation, the latest.

    Raises:
        ModelError: It is missing, damaged, or not one of ours.
    """
    if path.is_dir():
        network, average, best = (path / f"{name}.safetensors" for name in ("network", "average", "best"))
        # The average is of what is learned alone, and not of batch norm's statistics.
        weights = load_weights(best) or load_weights(network) | load_weights(average)
        path = network
    else:
        weights = load_weights(path)
    with safe_open(path, "pt") as file:
        said = (file.metadata() or {}).get("recipe")
    if said is None:
        raise ModelError(f"{path} does not say which network its weights are of: it was not written by srcluster")
    try:
        recipe = Recipe.model_validate_json(said)
        model = build(recipe.model, recipe.scale)
        model.load_state_dict(weights)
    except (ValidationError, RuntimeError) as error:
        raise ModelError(f"{path} is of another version of srcluster ({str(error).splitlines()[0]})") from error
    return recipe, model.to(memory_format=torch.channels_last).eval()
