"""The networks. `build` is the only door: every one takes LR, B x 3 x h x w in [0, 1], and gives HR.

HR is B x 3 x (scale h) x (scale w), around [0, 1] and not clipped, so that training has a gradient everywhere.
Each says as `scale` how many HR pixels an LR pixel becomes, and may say as `reach` up to how many LR pixels away an HR
pixel is made from: an upper bound, by the radii of its kernels. Where it does not, `models.reach` measures it.
"""

from srcluster.models.compact import Compact
from srcluster.models.imported import imported
from srcluster.models.interpolation import Interpolator
from srcluster.models.msrresnet import MSRResNet
from srcluster.models.network import Network
from srcluster.models.residual import ResidualNetwork
from srcluster.models.rrdb import RRDBNet
from srcluster.models.span import SPAN
from srcluster.models.srcnn import SRCNN
from srcluster.recipe import Interpolation, Model

__all__ = ["build"]


def build(spec: Model | Interpolation, scale: int) -> Network:
    """The network that the recipe describes, freshly initialised from torch's random state."""
    match spec.kind:
        case "interpolation":
            return Interpolator(scale, spec.kernel)
        case "srcnn":
            return SRCNN(scale, spec)
        case "residual":
            return ResidualNetwork(scale, spec)
        case "msrresnet":
            return MSRResNet(scale, spec)
        case "compact":
            return Compact(scale, spec)
        case "rrdb":
            return RRDBNet(scale, spec)
        case "span":
            return SPAN(scale, spec)
        case "import":
            return imported(scale, spec)
    raise AssertionError(spec.kind)
