"""What every network here is, and what several are made of."""

import torch
from torch import nn


class Network(nn.Module):
    """Takes LR, B x C x h x w in [0, 1], and gives HR, B x C x (scale h) x (scale w)."""

    scale: int
    """HR pixels per LR pixel."""
    reach: int
    """Up to how many LR pixels away an HR pixel is made from: an upper bound, by the radii of the kernels."""


def device_of(network: nn.Module) -> torch.device:
    """Where a network computes; on the CPU, if it has no weights."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def conv3(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


@torch.no_grad()
def init_small(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """A tenth of He et al.'s normal deviation, biases 0: for deep residual networks (Wang et al., ESRGAN, 2018)."""
    nn.init.kaiming_normal_(conv.weight).mul_(0.1)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
