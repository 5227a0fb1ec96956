"""MATLAB's imresize, as two matrices: one that acts on the rows of an image and one on its columns.

The super-resolution papers make their low-resolution images, and their bicubic baseline, with MATLAB's
`imresize`. It differs from what Pillow, OpenCV and torch call bicubic: the cubic kernel has a = -0.5 (Keys, 1981),
it is stretched when shrinking (antialiasing), borders are mirrored, and the output has ceil(scale * input) pixels.
One matrix per axis says all of that, and the same matrix serves NumPy and torch.
"""

from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Kernel = Literal["nearest", "bilinear", "bicubic"]


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


# Each kernel and its width, in pixels of the coarser image.
_KERNELS = {
    "nearest": (lambda x: ((x >= -0.5) & (x < 0.5)).astype(float), 1),
    "bilinear": (lambda x: np.maximum(1 - np.abs(x), 0), 2),
    "bicubic": (_cubic, 4),
}


@lru_cache(maxsize=256)
def resize_matrix(length: int, scale: Fraction, kernel: Kernel = "bicubic") -> np.ndarray:
    """The matrix that resizes one axis.

    Args:
        length: Pixels of the input axis.
        scale: Output pixels per input pixel; 4 enlarges four times, Fraction(1, 4) shrinks.
        kernel: Stretched by 1 / scale when shrinking, except for nearest.

    Returns:
        float64, ceil(length * scale) x length, read-only; each row sums to 1.
    """
    function, width = _KERNELS[kernel]
    stretch = max(1.0, float(1 / scale)) if kernel != "nearest" else 1.0
    support = width * stretch
    centre = np.arange(-(-length * scale // 1)) / float(scale) + 0.5 / float(scale) - 0.5
    first = np.floor(centre - support / 2).astype(int)
    taps = first[:, None] + np.arange(int(np.ceil(support)) + 2)
    weights = function((centre[:, None] - taps) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = taps % (2 * length)
    mirrored = np.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
    matrix = np.zeros((len(centre), length))
    np.add.at(matrix, (np.arange(len(centre))[:, None], mirrored), weights)
    matrix.flags.writeable = False
    return matrix


def imresize(image: np.ndarray, scale: Fraction | int, kernel: Kernel = "bicubic") -> np.ndarray:
    """Resize an image, H x W or H x W x C, as MATLAB does: to ceil(H * scale) x ceil(W * scale) (x C).

    uint8 in, uint8 out, rounded half up as im2uint8 does, once, after both axes; floating point of any range in,
    float64 out.
    """
    scale = Fraction(scale)
    rows, columns = (resize_matrix(length, scale, kernel) for length in image.shape[:2])
    resized = np.einsum("ih,hw...->iw...", rows, image.astype(np.float64), optimize=True)
    resized = np.einsum("jw,iw...->ij...", columns, resized, optimize=True)
    if image.dtype == np.uint8:
        return np.floor(np.clip(resized, 0, 255) + 0.5).astype(np.uint8)
    return resized


# One that is made in inference mode could not be used in training.
@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _matrix_tensor(length: int, scale: Fraction, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(resize_matrix(length, scale, kernel), dtype=dtype, device=device)


def resize(images: Tensor, scale: Fraction | int, kernel: Kernel = "bicubic") -> Tensor:
    """`imresize` on the device: floating-point images ... x H x W, in their own precision, not rounded."""
    scale = Fraction(scale)
    # Autocast knows no `meta`.
    if torch.compiler.is_exporting() or images.is_meta:
        return _enlarge(images, scale, kernel)
    return (_uncompiled if torch.compiler.is_compiling() else _resize)(images, scale, kernel)


def _resize(images: Tensor, scale: Fraction, kernel: Kernel) -> Tensor:
    rows, columns = (_matrix_tensor(length, scale, kernel, images.dtype, images.device) for length in images.shape[-2:])
    with torch.autocast(images.device.type, enabled=False):
        return rows @ images @ columns.T


_uncompiled = torch._disable_dynamo(_resize)
"""Two matrix products with nothing to fuse, and a cache that a compiler would bake in. To call it imports the compiler,
which takes seconds."""


def _enlarge(images: Tensor, scale: Fraction, kernel: Kernel) -> Tensor:
    """The same by a convolution, B x C x H x W of any size from 3 x 3: an exported network knows no size beforehand.

    Each LR pixel becomes scale x scale pixels, from 5 x 5 that are around it; there is no shrinking.
    """
    factor, channels = int(scale), images.shape[1]
    # The middle pixel's rows of a matrix that no border touches.
    taps = torch.tensor(resize_matrix(9, scale, kernel)[4 * factor : 5 * factor, 2:7], dtype=images.dtype)
    weight = torch.einsum("iy,jx->ijyx", taps, taps).reshape(factor**2, 1, 5, 5).to(images.device)
    for axis in (-2, -1):
        size = images.shape[axis]
        before, after = images.narrow(axis, 0, 2).flip(axis), images.narrow(axis, size - 2, 2).flip(axis)
        images = torch.cat([before, images, after], axis)
    planes = F.conv2d(images, weight.repeat(channels, 1, 1, 1), groups=channels)
    return F.pixel_shuffle(planes, factor)


def to_uint8(images: Tensor) -> Tensor:
    """[0, 1] to 0..255, clipped and rounded half up as MATLAB's im2uint8."""
    return images.clamp(0, 1).mul(255).add(0.5).floor().to(torch.uint8)
