"""What can be known to fail of a training before anything starts."""

import functools
from collections.abc import Iterator

import torch

from srcluster import models
from srcluster.data.pipeline import check_steps
from srcluster.errors import UserError
from srcluster.recipe import Model, Optimizer, Recipe
from srcluster.recipe.objective import VGG, Adversarial, Objective
from srcluster.training.optimizer import make_optimizer


def check_trainable(recipe: Recipe) -> None:
    """Build the network and the optimiser without memory for weights, and put a batch through.

    Raises:
        UserError: The recipe's parts don't fit together.
    """
    side = _trained_side(recipe.model, recipe.scale, recipe.optimizer, recipe.data.batch, recipe.data.patch)
    if recipe.degradation.kind == "pipeline":
        check_steps(recipe.degradation.steps)
    for spec in _vggs(recipe.objective):
        deepest = max(int(layer[4]) for layer in spec.layers)
        if side < (least := 2 ** (deepest - 1)):
            raise UserError(
                f"{' and '.join(spec.layers)} of {spec.network.upper()} need {least} x {least} pixels, and the network "
                f"gives {side} x {side} in training: raise data.patch, which is {recipe.data.patch}"
            )


@functools.lru_cache
def _trained_side(model: Model, scale: int, optimizer: Optimizer, batch: int, patch: int) -> int:
    """The side of what the network gives for a training patch."""
    # A person's own network may ask for values, which `meta` has none of.
    device, batch = ("cpu", 2) if model.kind == "import" else ("meta", batch)
    with torch.device(device):
        network = models.build(model, scale).train()
        make_optimizer(network, optimizer)
        try:
            lr = torch.zeros(batch, 3, patch // scale, patch // scale)
            return (model.trial(network, lr) if model.kind == "import" else network(lr)).shape[-1]
        except (RuntimeError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise UserError(
                f"the network can't be trained on data.patch = {patch}, which is {patch // scale} of LR: {why}"
            ) from error


def _vggs(spec: Objective | Adversarial) -> Iterator[VGG]:
    match spec.kind:
        case "vgg":
            yield spec
        case "sum":
            for term in spec.terms.values():
                yield from _vggs(term.objective)
