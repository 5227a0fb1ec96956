"""Blur kernels of blind super-resolution: Gaussian, generalised Gaussian, plateau and sinc.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data" (ICCV-W 2021), sections
3.2 and 3.4.
"""

import math
from typing import Literal

import numpy as np
import torch

Shape = Literal["gaussian", "generalized", "plateau"]


def blur_kernel(
    size: int, sigma: tuple[float, float], angle: float = 0.0, shape: Shape = "gaussian", beta: float = 1.0
) -> np.ndarray:
    """A kernel that falls off along two axes: size x size float64, sum 1.

    Args:
        size: Side in pixels; odd.
        sigma: Standard deviations along the two axes, in pixels; equal ones make an isotropic kernel.
        angle: Of the first axis, in radians.
        shape: With d the squared distance in standard deviations: exp(-d / 2), exp(-d^beta / 2) or 1 / (1 + d^beta).
        beta: The exponent; below 1 the tails are heavier, above it the top is flatter.
    """
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    precision = turn @ np.diag(1 / np.square(sigma)) @ turn.T
    offsets = np.arange(size) - size // 2
    points = np.stack(np.meshgrid(offsets, offsets), axis=-1)
    distance = np.einsum("hwi,ij,hwj->hw", points, precision, points)
    match shape:
        case "gaussian":
            kernel = np.exp(-distance / 2)
        case "generalized":
            kernel = np.exp(-(distance**beta) / 2)
        case "plateau":
            kernel = 1 / (1 + distance**beta)
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """The circular low-pass filter that causes ringing: size x size float64, sum 1.

    Args:
        size: Side in pixels; odd.
        cutoff: Highest frequency that passes, in radians per pixel: pi is all of them.
    """
    offsets = np.arange(size) - size // 2
    radius = np.hypot(*np.meshgrid(offsets, offsets))
    radius[size // 2, size // 2] = 1.0
    kernel = cutoff * torch.special.bessel_j1(torch.from_numpy(cutoff * radius)).numpy() / (2 * math.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()
