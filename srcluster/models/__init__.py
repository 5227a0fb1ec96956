"""The networks. `build` is the only door: every one takes LR, B x 3 x h x w in [0, 1], and gives HR.

HR is B x 3 x (scale h) x (scale w), around [0, 1] and not clipped, so that training has a gradient everywhere.
Each says as `scale` how many HR pixels an LR pixel becomes, and as `reach` up to how many LR pixels away an HR pixel is
made from: an upper bound, by the radii of its kernels.
"""

from torch import nn

from srcluster.models.interpolation import Interpolator
from srcluster.models.residual import ResidualNetwork
from srcluster.models.srcnn import SRCNN
from srcluster.recipe import Interpolation, Model

__all__ = ["build"]


def build(spec: Model | Interpolation, scale: int) -> nn.Module:
    """The network that the recipe describes, freshly initialised from torch's random state."""
    match spec.kind:
        case "interpolation":
            return Interpolator(scale, spec.kernel)
        case "srcnn":
            return SRCNN(scale, spec.kernel_sizes, spec.features, spec.init)
        case "residual":
            return ResidualNetwork(scale, spec)
    raise AssertionError(spec.kind)
