"""What every network here is."""

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
