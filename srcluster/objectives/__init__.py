"""What training minimises. `build` is the only door."""

from collections.abc import Callable

from torch import Tensor

from srcluster.objectives.pixel import PixelObjective
from srcluster.recipe import Objective

__all__ = ["build"]


def build(spec: Objective) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of SR and HR, B x 3 x H x W float32 in [0, 1], that gives the loss, a scalar."""
    return PixelObjective(spec.kind, spec.channels)
