"""The networks. `build` is the only door: every one takes LR, B x 3 x h x w in [0, 1], and gives HR.

HR is B x 3 x (scale h) x (scale w), around [0, 1] and not clipped, so that training has a gradient everywhere.
A new one is a part of `recipe.model`, a `Network` and a case of `build`; `models.reach` measures a reach that is not
stated. A new upsampler is a case of `models.upsamplers`.
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
