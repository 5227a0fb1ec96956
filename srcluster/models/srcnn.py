"""SRCNN: Dong et al., "Image Super-Resolution Using Deep Convolutional Networks" (TPAMI 2016, section 3)."""

from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srcluster import recipe
from srcluster.models.network import Network
from srcluster.pixels.colour import rgb_to_ycbcr, ycbcr_to_rgb
from srcluster.pixels.resize import resize


class SRCNN(Network):
    """Three convolutions over the luma of the bicubically enlarged picture; its chroma stays bicubic.

    While training, nothing is padded (section 3.3): what comes out is the central part of HR that no border reaches,
    and an objective compares that part. This also spares a third of the arithmetic of a 64-pixel patch.
    """

    def __init__(self, scale: int, spec: recipe.SRCNN):
        super().__init__()
        self.scale, self.radius = scale, sum(size // 2 for size in spec.kernel_sizes)
        self.reach = 2 + ceil(self.radius / scale)
        channels = [1, *spec.features, 1]
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(before, after, size)
            for before, after, size in zip(channels, channels[1:], spec.kernel_sizes, strict=False)
        )
        self._initialise(spec.init)

    @torch.no_grad()
    def _initialise(self, init: str) -> None:
        for conv in (self.conv1, self.conv2, self.conv3):
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            if init == "paper":
                nn.init.normal_(conv.weight, std=1e-3)
            else:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        if init == "identity":
            self.conv2.weight[0] = 0
            self.conv3.weight.zero_()
            for conv in (self.conv1, self.conv2, self.conv3):
                middle = conv.kernel_size[0] // 2
                conv.weight[0, 0] = 0
                conv.weight[0, 0, middle, middle] = 1

    def forward(self, lr: Tensor) -> Tensor:
        y, cb, cr = rgb_to_ycbcr(*resize(lr, self.scale).split(1, dim=1))
        if self.training:
            cb, cr = (F.pad(plane, (-self.radius,) * 4) for plane in (cb, cr))
        else:
            # As in the authors' test code the border is repeated outwards, but once, on the one plane that goes in.
            y = F.pad(y, (self.radius,) * 4, mode="replicate")
        y = self.conv3(self.conv2(self.conv1(y).relu_()).relu_())
        return torch.cat(ycbcr_to_rgb(y, cb, cr), dim=1)
