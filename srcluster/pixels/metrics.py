"""PSNR and SSIM by the two protocols of the super-resolution papers, under names that say which.

Both shave `scale` pixels off each border, and measure 8-bit RGB, or its luma Y (BT.601, studio range: 16..235). On the
luma they differ:

- `psnr_y`, `ssim_y`: MATLAB's protocol, of the tables until about 2018. Y is rounded to 8 bits, as rgb2ycbcr does.
  A grey original (Set14's `bridge`) has no YCbCr to convert to: its one plane is measured, which spans 0..255, and so
  Set14 is 0.09 dB lower.
- `psnr_y_basicsr`, `ssim_y_basicsr`: BasicSR's protocol, also KAIR's and that of most code since. Y is not rounded,
  which gives 0.01 to 0.02 dB more at 32 dB, and grey is read as RGB.

`psnr_rgb` is the same in both, and about 1.8 dB below Y for the same network.
"""

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

from srcluster.pixels.colour import luma

_WINDOW = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
_WINDOW /= _WINDOW.sum()

_BLOCK = 32
"""Rows that are blurred by one small matrix product: six times as fast as a sliding window."""


class Pair:
    """A restored image and its original.

    Args:
        sr: H x W x 3 uint8 RGB.
        hr: Of the same shape.
        scale: HR pixels per LR pixel; as many are left out at each border.
        grey: Whether the original is a grey file.

    Raises:
        ValueError: The shapes differ, an image is not 8-bit RGB, or nothing is left of it.
    """

    def __init__(self, sr: np.ndarray, hr: np.ndarray, scale: int, grey: bool = False):
        if sr.shape != hr.shape:
            raise ValueError(f"images to compare differ in size: {sr.shape} and {hr.shape}")
        if any(image.dtype != np.uint8 or image.shape[2:] != (3,) for image in (sr, hr)):
            raise ValueError(f"an image to measure is H x W x 3 uint8, not {sr.shape} {sr.dtype}")
        if min(hr.shape[:2]) <= 2 * scale:
            raise ValueError(f"nothing is left of an image of {hr.shape} when {scale} pixels are shaved off")
        self.sr, self.hr, self.scale, self.grey = sr, hr, scale, grey

    @cached_property
    def rgb(self) -> tuple[np.ndarray, ...]:
        """H x W x 3 float64 of SR and HR, 0..255, inside the border, as all that follow."""
        inside = slice(self.scale, -self.scale)
        return tuple(image[inside, inside].astype(np.float64) for image in (self.sr, self.hr))

    @cached_property
    def luma(self) -> tuple[np.ndarray, ...]:
        """H x W, 16..235, not rounded."""
        return tuple(255 * luma(*np.moveaxis(image / 255, -1, 0)) for image in self.rgb)

    @cached_property
    def full_luma(self) -> tuple[np.ndarray, ...]:
        """H x W, whole numbers in 0..255."""
        return tuple(_rounded((plane - 16) * (255 / 219)) for plane in self.luma)

    @cached_property
    def matlab_luma(self) -> tuple[np.ndarray, ...]:
        """H x W, whole numbers: in 16..235, or in 0..255 of a grey file."""
        return self.full_luma if self.grey else tuple(map(_rounded, self.luma))


def _rounded(plane: np.ndarray) -> np.ndarray:
    return np.floor(plane + 0.5)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, relative to 255; infinity for equal images."""
    error = np.square(a - b).mean()
    return math.inf if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two planes (Wang et al., 2004), as their ssim_index.m without its downsampling.

    An 11 x 11 Gaussian window of sigma 1.5 that stays inside the image, K1 = 0.01, K2 = 0.03: so does BasicSR's
    `calculate_ssim`, which gives MSRResNet 0.8651 on Set5's RGB where mmagic's gives 0.8491, at 0.02 dB less PSNR.
    """
    if min(a.shape) < len(_WINDOW):
        raise ValueError(f"SSIM needs 11 x 11 pixels or more inside the shaved border, not {a.shape}")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b, squares, product = _blur(np.stack([a, b, a * a + b * b, a * b]))
    means, mean_squares = mean_a * mean_b, mean_a**2 + mean_b**2
    similarity = (2 * means + c1) * (2 * (product - means) + c2)
    return float(np.mean(similarity / ((mean_squares + c1) * (squares - mean_squares + c2))))


def _blur(planes: np.ndarray) -> np.ndarray:
    """N x H x W to N x (H - 10) x (W - 10)."""
    for _ in range(2):
        planes = _blur_rows(planes).swapaxes(1, 2)
    return planes


def _blur_rows(planes: np.ndarray) -> np.ndarray:
    reach = len(_WINDOW) - 1
    blurred = np.empty((len(planes), planes.shape[1] - reach, planes.shape[2]))
    taps = np.zeros((_BLOCK, _BLOCK + reach))
    for row in range(_BLOCK):
        taps[row, row : row + reach + 1] = _WINDOW
    for top in range(0, blurred.shape[1], _BLOCK):
        rows = min(_BLOCK, blurred.shape[1] - top)
        blurred[:, top : top + rows] = taps[:rows, : rows + reach] @ planes[:, top : top + rows + reach]
    return blurred


METRICS: dict[str, Callable[[Pair], float]] = {
    "psnr_y": lambda pair: psnr(*pair.matlab_luma),
    "psnr_y_basicsr": lambda pair: psnr(*pair.luma),
    "psnr_rgb": lambda pair: psnr(*pair.rgb),
    "ssim_y": lambda pair: ssim(*pair.matlab_luma),
    "ssim_y_basicsr": lambda pair: ssim(*pair.luma),
}
"""What is measured, by its name in tables, files and MLflow."""
