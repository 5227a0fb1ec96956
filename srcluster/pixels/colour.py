"""RGB to YCbCr and back: ITU-R BT.601, studio range, as MATLAB's rgb2ycbcr and ycbcr2rgb.

The functions take and give planes, so they serve NumPy arrays and torch tensors of any shape alike.
RGB lies in [0, 1]; Y in [16/255, 235/255]; Cb and Cr in [16/255, 240/255].
"""

import numpy as np

__all__ = ["luma", "rgb_to_ycbcr", "ycbcr_to_rgb"]

_FORWARD = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_OFFSET = tuple((np.array([16.0, 128.0, 128.0]) / 255).tolist())
_INVERSE = np.linalg.inv(_FORWARD).tolist()
_FORWARD = _FORWARD.tolist()


def luma(r, g, b):
    """The Y plane of an RGB picture."""
    weight_r, weight_g, weight_b = _FORWARD[0]
    return weight_r * r + weight_g * g + weight_b * b + _OFFSET[0]


def rgb_to_ycbcr(r, g, b):
    """Planes R, G, B in [0, 1] to planes Y, Cb, Cr."""
    return tuple(wr * r + wg * g + wb * b + offset for (wr, wg, wb), offset in zip(_FORWARD, _OFFSET, strict=True))


def ycbcr_to_rgb(y, cb, cr):
    """Planes Y, Cb, Cr to planes R, G, B; the exact inverse of `rgb_to_ycbcr`, nothing is clipped."""
    y, cb, cr = (plane - offset for plane, offset in zip((y, cb, cr), _OFFSET, strict=True))
    return tuple(wy * y + wb * cb + wr * cr for wy, wb, wr in _INVERSE)
