"""RGB to YCbCr and back: ITU-R BT.601, studio range, as MATLAB's rgb2ycbcr and ycbcr2rgb.

The functions take and give planes, so they serve NumPy arrays and torch tensors of any shape alike.
RGB lies in [0, 1]; Y in [16/255, 235/255]; Cb and Cr in [16/255, 240/255].
"""

from typing import TypeVar

import numpy as np
from torch import Tensor

Plane = TypeVar("Plane", np.ndarray, Tensor)

_MATRIX = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_FORWARD: list[list[float]] = _MATRIX.tolist()
_INVERSE: list[list[float]] = np.linalg.inv(_MATRIX).tolist()
_OFFSET = (16 / 255, 128 / 255, 128 / 255)


def luma(r: Plane, g: Plane, b: Plane) -> Plane:
    """The Y plane of an RGB picture."""
    return _sum(_FORWARD[0], r, g, b) + _OFFSET[0]


def rgb_to_ycbcr(r: Plane, g: Plane, b: Plane) -> tuple[Plane, Plane, Plane]:
    """Planes R, G, B in [0, 1] to planes Y, Cb, Cr."""
    y, cb, cr = (_sum(weights, r, g, b) + offset for weights, offset in zip(_FORWARD, _OFFSET, strict=True))
    return y, cb, cr


def ycbcr_to_rgb(y: Plane, cb: Plane, cr: Plane) -> tuple[Plane, Plane, Plane]:
    """Planes Y, Cb, Cr to planes R, G, B; the exact inverse of `rgb_to_ycbcr`, nothing is clipped."""
    centred = [plane - offset for plane, offset in zip((y, cb, cr), _OFFSET, strict=True)]
    r, g, b = (_sum(weights, *centred) for weights in _INVERSE)
    return r, g, b


def _sum(weights: list[float], first: Plane, second: Plane, third: Plane) -> Plane:
    return weights[0] * first + weights[1] * second + weights[2] * third
