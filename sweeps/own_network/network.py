"""A network of one's own: nothing of it is in srcluster, which calls it by its name in the sweep beside it."""

from collections.abc import Callable

import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    """Convolutions whose results are all kept, one sub-pixel convolution, and LR enlarged bilinearly.

    Args:
        scale: HR pixels per LR pixel; every network is given it.
        width: Channels that each convolution adds.
        depth: Convolutions.
    """

    def __init__(self, scale: int, width: int = 32, depth: int = 8):
        super().__init__()
        self.factor = scale
        self.layers = nn.ModuleList(nn.Conv2d(3 + i * width, width, 3, padding=1) for i in range(depth))
        self.last = nn.Conv2d(3 + depth * width, 3 * scale**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, lr: Tensor) -> Tensor:
        """From B x 3 x h x w in [0, 1] to B x 3 x (scale h) x (scale w)."""
        seen = lr
        for layer in self.layers:
            seen = torch.cat([seen, F.relu(layer(seen))], 1)
        return F.pixel_shuffle(self.last(seen), self.factor) + F.interpolate(
            lr, scale_factor=self.factor, mode="bilinear"
        )


class Edges(nn.Module):
    """A loss of one's own: the mean distance of pixels, and of the differences between neighbours."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        edges = sum(F.l1_loss(sr.diff(dim=axis), hr.diff(dim=axis)) for axis in (-2, -1))
        return F.l1_loss(sr, hr) + self.weight * edges


def fade(least: float = 0.8) -> Callable[[Tensor, Generator], Tensor]:
    """A step of the degradation: darker by a random factor. Its image is 3 x H x W in [0, 1]."""
    return lambda image, random: image * random.uniform(least, 1)
