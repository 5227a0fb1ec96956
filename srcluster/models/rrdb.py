"""RRDB: ESRGAN's generator (Wang et al., ECCV-W 2018), under the parameter names of BasicSR and Real-ESRGAN."""

from math import log2

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srcluster import recipe
from srcluster.models.network import Network, conv3, init_small

_GROWTH = 32
"""Channels that each convolution of a dense block adds; other programs know no other number."""


class RRDBNet(Network):
    """Residual in residual dense blocks, then a nearest neighbour and a convolution for each factor of 2."""

    def __init__(self, scale: int, spec: recipe.RRDB):
        super().__init__()
        features = spec.features
        self.scale, self.multiple, self.stages = scale, spec.unshuffle, int(log2(scale * spec.unshuffle))
        self.conv_first = conv3(3 * spec.unshuffle**2, features)
        self.body = nn.Sequential(*(_Block(features) for _ in range(spec.blocks)))
        self.conv_body = conv3(features, features)
        for stage in range(self.stages):
            self.add_module(f"conv_up{stage + 1}", conv3(features, features))
        self.conv_hr = conv3(features, features)
        self.conv_last = conv3(features, 3)

    def forward(self, lr: Tensor) -> Tensor:
        height, width = (self.scale * side for side in lr.shape[-2:])
        if self.multiple > 1:
            lr = F.pad(lr, (0, -lr.shape[-1] % self.multiple, 0, -lr.shape[-2] % self.multiple), "reflect")
            lr = F.pixel_unshuffle(lr, self.multiple)
        x = self.conv_first(lr)
        x = x + self.conv_body(self.body(x))
        for stage in range(self.stages):
            x = _lrelu(self.get_submodule(f"conv_up{stage + 1}")(F.interpolate(x, scale_factor=2, mode="nearest")))
        return self.conv_last(_lrelu(self.conv_hr(x)))[..., :height, :width]


class _Block(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_DenseBlock(features) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=0.2)


class _DenseBlock(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        for number in range(5):
            conv = conv3(features + number * _GROWTH, _GROWTH if number < 4 else features)
            init_small(conv)
            self.add_module(f"conv{number + 1}", conv)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for number in range(1, 5):
            seen.append(_lrelu(self.get_submodule(f"conv{number}")(torch.cat(seen, 1))))
        return torch.add(x, self.get_submodule("conv5")(torch.cat(seen, 1)), alpha=0.2)


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)
