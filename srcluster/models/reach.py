"""How far a network sees, where it does not say so: measured by the gradient of one pixel."""

import logging

import torch

from srcluster.models.network import Network

_FARTHEST = 64
_TOLERANCE = 0.5 / 255

_log = logging.getLogger(__name__)


def reach_of(network: Network) -> int:
    """A network's `reach`; one that does not state it is measured, once."""
    if not hasattr(network, "reach"):
        network.reach = measure_reach(network)
    return network.reach


def measure_reach(network: Network) -> int:
    """LR pixels beyond which an HR pixel depends on LR by less than half a step of 8 bits, on noise.

    Args:
        network: In eval mode; says its `scale`, and as `multiple` what its tiles' sides are multiples of, if not 1.
    """
    multiple, scale = getattr(network, "multiple", 1), network.scale
    side = -(-(2 * _FARTHEST + 1) // multiple) * multiple
    centre = side // 2
    parameter = next(network.parameters(), torch.zeros(()))
    lr = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(parameter.device).requires_grad_()
    with torch.inference_mode(False), torch.enable_grad():
        hr = slice(centre * scale, (centre + 1) * scale)
        pixels = network(lr)[..., hr, hr]
        # Signs, lest what one pixel has more another has less.
        signs = torch.randint(2, pixels.shape, generator=torch.Generator().manual_seed(1)).to(pixels.device) * 2 - 1
        (gradient,) = torch.autograd.grad((pixels * signs).sum(), lr)
    distance = (torch.arange(side, device=lr.device) - centre).abs()
    farther = torch.maximum(distance[:, None], distance)
    influence = gradient.abs().sum((0, 1))
    for reach in range(_FARTHEST):
        if influence[farther > reach].sum() < _TOLERANCE:
            return -(-reach // multiple) * multiple
    _log.warning("the network sees farther than %s LR pixels: large pictures may show the seams of tiles", _FARTHEST)
    return _FARTHEST
