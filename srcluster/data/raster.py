"""Decoded pixels, whatever file they come from, and how large a picture may be."""

import os
from dataclasses import dataclass, field

import numpy as np

from srcluster.errors import UserError

_LIMIT = "SRCLUSTER_PICTURE_GB"
_LIMIT_GB = 1.0
"""About 330 megapixels of 8-bit RGB: a phone's 200 fit in. It is fixed, so that any machine packs the same pictures."""


class PhotoError(UserError):
    """A picture can't be used as it is, or there is none."""


@dataclass
class Raster:
    """The pixels of a file.

    Attributes:
        pixels: H x W x C, uint8 or uint16; grey, RGB or CMYK, each with or without alpha, not premultiplied.
        alpha: Whether the last channel is one.
        icc: The colour profile.
        colour: What else says which colours are meant, as chunks of a PNG file: gAMA, cHRM, sRGB, cICP, ...
        notes: What is left out of the file, as clauses.
        orientation: That the file itself gives, as EXIF's; else EXIF is asked.
    """

    pixels: np.ndarray
    alpha: bool = False
    icc: bytes | None = None
    colour: dict[bytes, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    orientation: int | None = None


def check_size(name: str, width: int, height: int, pixel_bytes: float) -> None:
    """Refuse a picture whose pixels take more memory than SRCLUSTER_PICTURE_GB allows, before they are decoded."""
    given = os.environ.get(_LIMIT) or _LIMIT_GB
    try:
        limit_bytes = float(given) * 1e9
    except ValueError as error:
        raise PhotoError(f"{_LIMIT} must be a number of 10^9 bytes, not {given!r}") from error
    if width < 1 or height < 1:
        raise PhotoError(f"{name} is damaged: it has {width} x {height} pixels; fetch it again or remove it")
    if not width * height * pixel_bytes <= limit_bytes:
        raise PhotoError(
            f"{name} is {width} x {height}: its pixels take {width * height * pixel_bytes / 1e9:.3g} GB, more than the "
            f"{limit_bytes / 1e9:.3g} GB that guard against decompression bombs; if it is no bomb, set {_LIMIT} to more"
        )


def scaled(values: np.ndarray, largest: int) -> np.ndarray:
    """Values up to `largest` as uint8, or uint16 where that is more than 255, of the whole range; ValueError beyond."""
    full, dtype = (255, np.uint8) if largest <= 255 else (65535, np.uint16)
    if largest == full:
        return values.astype(dtype, copy=False)
    if values.size and values.max() > largest:
        raise ValueError(f"a value of {values.max()}, where {largest} is the most")
    return ((values.astype(np.uint32) * full + largest // 2) // largest).astype(dtype)
