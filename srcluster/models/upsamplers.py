"""From the LR grid to the HR grid: one stage for each prime factor of the scale."""

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srcluster.models.network import conv3


def stages(scale: int) -> tuple[int, ...]:
    """What the stages of a scale enlarge by."""
    return {4: (2, 2), 8: (2, 2, 2)}.get(scale, (scale,))


def upsampler(kind: str, features: int, scale: int, follow: Callable[[], list[nn.Module]]) -> nn.Sequential:
    """Layers that enlarge B x features x h x w to B x features x (scale h) x (scale w), for any h and w.

    Args:
        kind: `pixel_shuffle`: sub-pixel convolution 3x3 (Shi et al., "Real-Time Single Image and Video
            Super-Resolution", 2016); `deconv3`, `deconv4`: transposed convolution of that side, which overlap unevenly
            and evenly (Odena et al., "Deconvolution and Checkerboard Artifacts", 2016); `nearest_conv`: nearest
            neighbour, then a convolution 3x3 (the same).
        follow: Makes what follows each stage.
    """
    return nn.Sequential(*(layer for factor in stages(scale) for layer in (*_stage(kind, features, factor), *follow())))


def _stage(kind: str, features: int, factor: int) -> list[nn.Module]:
    match kind:
        case "pixel_shuffle":
            return [SubPixel(features, factor)]
        case "deconv3" | "deconv4":
            size = int(kind[-1])
            padding = ceil((size - factor) / 2)
            extra = factor + 2 * padding - size
            return [nn.ConvTranspose2d(features, features, size, factor, padding, output_padding=extra)]
        case "nearest_conv":
            return [nn.UpsamplingNearest2d(scale_factor=factor), conv3(features, features)]
    raise AssertionError(kind)


class SubPixel(nn.Conv2d):
    """A convolution 3x3 to factor^2 times the channels, which become factor x factor pixels.

    It is `nn.PixelShuffle` after `nn.Conv2d`, weight by weight. To have the channels of a pixel side by side in memory,
    where they belong in channels_last, the weights are put into the order of the pixels before the convolution.
    """

    bias: Tensor

    def __init__(self, features: int, factor: int):
        super().__init__(features, features * factor**2, 3, padding=1)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        f, c = self.factor, self.in_channels
        weight, bias = (p.unflatten(0, (c, f * f)).transpose(0, 1).flatten(0, 1) for p in (self.weight, self.bias))
        x = F.conv2d(x, weight, bias, padding=1)
        batch, _, height, width = x.shape
        x = x.permute(0, 2, 3, 1).reshape(batch, height, width, f, f * c)
        x = x.transpose(2, 3).reshape(batch, height * f, width * f, c)
        return x.permute(0, 3, 1, 2)

    @torch.no_grad()
    def as_nearest(self) -> None:
        """ICNR: the pixels made of one begin alike (Aitken et al., "Checkerboard artifact free sub-pixel convolution",
        2017).
        """
        for parameter in (self.weight, self.bias):
            pixels = parameter.unflatten(0, (self.in_channels, -1))
            pixels.copy_(pixels[:, :1].expand_as(pixels).clone())
