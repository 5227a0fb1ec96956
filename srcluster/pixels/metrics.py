"""PSNR and SSIM by the protocol of the super-resolution papers.

The protocol: both images are 8-bit RGB; `shave` pixels are cut off each border (the scale, by custom); the Y
channel is BT.601 in studio range, itself rounded to 8 bits as MATLAB's rgb2ycbcr does for 8-bit images. Numbers on
the RGB channels are about 1.8 dB below those on Y for the same network, so the names say which it is. A grey
original (Set14's `bridge`) has no YCbCr to convert to: the papers measure its one plane, which spans 0..255 where Y
spans 16..235, and by it their Set14 is 0.09 dB lower than it would be on Y.
"""

import math
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from srcluster.pixels.colour import luma

__all__ = ["Channels", "measured", "psnr", "ssim"]

Channels = Literal["y", "grey", "rgb"]


def _measured(image: np.ndarray, shave: int, channels: Channels) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image to measure is H x W x 3 uint8, not {image.shape} {image.dtype}")
    inside = image[shave : image.shape[0] - shave, shave : image.shape[1] - shave].astype(np.float64)
    if not inside.size:
        raise ValueError(f"nothing is left of an image of {image.shape} when {shave} pixels are shaved off")
    if channels == "rgb":
        return inside
    plane = 255 * luma(*np.moveaxis(inside / 255, -1, 0))
    if channels == "grey":
        plane = (plane - 16) * (255 / 219)
    return np.floor(plane + 0.5)


def measured(sr: np.ndarray, hr: np.ndarray, shave: int, channels: Channels) -> tuple[np.ndarray, np.ndarray]:
    """What of two images is compared: float64 of whole numbers in 0..255. Arguments and errors are those of `psnr`."""
    if sr.shape != hr.shape:
        raise ValueError(f"images to compare differ in size: {sr.shape} and {hr.shape}")
    return _measured(sr, shave, channels), _measured(hr, shave, channels)


def psnr(sr: np.ndarray, hr: np.ndarray, *, shave: int, channels: Channels = "y") -> float:
    """Peak signal-to-noise ratio.

    Args:
        sr: The restored image, H x W x 3 uint8 RGB.
        hr: The original, of the same shape.
        shave: Pixels to leave out at each border.
        channels: `y` measures luma, `grey` the luma of a grey original in full range, `rgb` all three channels.

    Returns:
        dB, relative to 255; infinity for equal images.

    Raises:
        ValueError: The shapes differ, or an image is not 8-bit RGB.
    """
    a, b = measured(sr, hr, shave, channels)
    error = np.mean((a - b) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(255**2 / error))


def _blur(plane: np.ndarray, window: np.ndarray) -> np.ndarray:
    plane = sliding_window_view(plane, len(window), axis=0) @ window
    return sliding_window_view(plane, len(window), axis=1) @ window


def ssim(sr: np.ndarray, hr: np.ndarray, *, shave: int, channels: Channels = "y") -> float:
    """Structural similarity (Wang et al., 2004), as their ssim_index.m without its downsampling.

    An 11 x 11 Gaussian window of sigma 1.5 that stays inside the image, K1 = 0.01, K2 = 0.03; for `rgb`, the mean
    of the three channels. It is BasicSR's `calculate_ssim`, which gives MSRResNet 0.8651 on Set5's RGB where mmagic's
    gives 0.8491, at 0.02 dB less PSNR; on Y, BasicSR does not round. Arguments and errors are those of `psnr`.
    """
    a, b = measured(sr, hr, shave, channels)
    if a.ndim == 3:
        return float(np.mean([_ssim_plane(a[..., c], b[..., c]) for c in range(3)]))
    return _ssim_plane(a, b)


def _ssim_plane(a: np.ndarray, b: np.ndarray) -> float:
    if min(a.shape) < 11:
        raise ValueError(f"SSIM needs 11 x 11 pixels or more inside the shaved border, not {a.shape}")
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _blur(a, window), _blur(b, window)
    var_a = _blur(a * a, window) - mean_a**2
    var_b = _blur(b * b, window) - mean_b**2
    cov = _blur(a * b, window) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return float(np.mean(similarity / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))))
