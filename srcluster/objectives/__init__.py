"""What training minimises. `build` is the only door to it, `resolve` to what it needs."""

from collections.abc import Callable

import torch
from torch import Tensor

from srcluster.objectives.pixel import PixelObjective, total_variation
from srcluster.objectives.vgg import Perceptual
from srcluster.objectives.weights import read
from srcluster.recipe.objective import Objective, Sum

__all__ = ["build", "resolve"]


def build(spec: Objective, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of SR and HR, B x 3 x H x W float32 in [0, 1], that gives the loss, a scalar.

    Args:
        spec: What it is.
        device: Where SR and HR are.
        dtype: Of the forward and backward passes.

    Raises:
        UserError: Weights that it needs can't be had: `resolve` finds that out before.
    """
    match spec.kind:
        case "mse" | "l1" | "charbonnier":
            return PixelObjective(spec.kind, spec.channels)
        case "vgg":
            return Perceptual(spec, device, dtype)
        case "total_variation":
            return total_variation
        case "sum":
            terms = [(term.weight, build(term.objective, device, dtype)) for term in spec.terms.values()]
            return lambda sr, hr: torch.stack([weight * objective(sr, hr) for weight, objective in terms]).sum()
    raise AssertionError(spec.kind)


def resolve(spec: Objective) -> Objective:
    """The objective with what `auto` means written out, once all that it needs is found to be there and right.

    It is for a driver, before workers start: they read the same files without looking for them, each node once.

    Raises:
        UserError: Weights are missing, damaged, partial for the layers asked, or of another network.
    """
    match spec.kind:
        case "vgg":
            return read(spec)[0]
        case "sum":
            terms = {
                name: term.model_copy(update={"objective": resolve(term.objective)})
                for name, term in spec.terms.items()
            }
            return Sum(kind="sum", terms=terms)
    return spec
