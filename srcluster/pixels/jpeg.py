"""JPEG's loss on the device: what libjpeg's baseline coder, 4:2:0, leaves of an image.

ITU-T T.81, annexes A and K. Entropy coding is left out, since it loses nothing.
"""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from srcluster.pixels.resize import to_uint8

_LUMA = """
16 11 10 16 24 40 51 61    12 12 14 19 26 58 60 55    14 13 16 24 40 57 69 56      14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
_CHROMA = (
    """
17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99
"""
    + 32 * "99 "
)
_TABLES = torch.from_numpy(np.array([_LUMA.split(), _CHROMA.split()], dtype=np.float32).reshape(2, 8, 8))

_TO_YCBCR = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_TO_RGB = torch.tensor([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
"""BT.601 in full range, as in JFIF."""

_DCT = torch.tensor(
    [
        [math.sqrt((1 if k == 0 else 2) / 8) * math.cos(math.pi * k * (2 * n + 1) / 16) for n in range(8)]
        for k in range(8)
    ]
)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """An image, 3 x H x W in [0, 1], compressed by libjpeg's quality, 1 to 100, and decompressed to 256 levels."""
    height, width = image.shape[-2:]
    to_ycbcr, to_rgb, dct = _constants(image.device)
    grey_steps, colour_steps = _steps(quality, image.device)
    ycbcr = torch.einsum("ij,jhw->ihw", to_ycbcr, to_uint8(image).float())[None]
    ycbcr = F.pad(ycbcr, (0, -width % 16, 0, -height % 16), mode="replicate")[0]
    luma = _quantised(ycbcr[:1].round() - 128, grey_steps, dct)
    chroma = _quantised(F.avg_pool2d(ycbcr[1:].round(), 2).round(), colour_steps, dct)
    chroma = F.interpolate(chroma[None], scale_factor=2, mode="bilinear")[0]
    rgb = torch.einsum("ij,jhw->ihw", to_rgb, torch.cat([luma + 128, chroma]))
    return rgb[:, :height, :width].round().clamp(0, 255) / 255


# Each copy to a GPU makes the CPU wait for it.
@cache
@torch.inference_mode(False)
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    return _TO_YCBCR.to(device), _TO_RGB.to(device), _DCT.to(device)


@cache
@torch.inference_mode(False)
def _steps(quality: int, device: torch.device) -> Tensor:
    """Of the frequencies of luma and of chroma: 2 x 8 x 8."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((_TABLES * percent + 50) / 100).floor().clamp(1, 255).to(device)


def _quantised(planes: Tensor, steps: Tensor, dct: Tensor) -> Tensor:
    """Planes C x H x W, centred on 0, with each block's frequencies rounded to multiples of their steps."""
    channels, height, width = planes.shape
    blocks = planes.reshape(channels, height // 8, 8, width // 8, 8).transpose(2, 3)
    blocks = dct.T @ ((dct @ blocks @ dct.T / steps).round() * steps) @ dct
    return blocks.transpose(2, 3).reshape(planes.shape).round().clamp(-128, 127)
