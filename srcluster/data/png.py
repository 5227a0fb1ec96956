"""Pictures of any size and depth, as PNG files."""

import struct
import zlib
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import IO

import numpy as np

_ROWS = 8
"""That are filtered at a time: of a large picture these fit in the processor's cache, which is twice as fast as 64."""

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's, by channels."""


def write_png(
    file: IO[bytes],
    size: tuple[int, int],
    bands: Iterable[np.ndarray],
    icc: bytes | None = None,
    exif: bytes | None = None,
    colour: Mapping[bytes, bytes] | None = None,
) -> None:
    """Write a PNG file a band of rows at a time, so that the picture is never in memory as a whole.

    Pillow writes no colours of 16 bits, and has to have all of a picture.

    Args:
        size: Height and width.
        bands: From top to bottom, each rows x W x C, all uint8 or all uint16; this and the rest as of a `Picture`.
    """
    bands = iter(bands)
    first = next(bands)
    height, width = size
    channels = first.shape[2]
    header = struct.pack(">IIBBBBB", width, height, 8 * first.itemsize, _COLOUR_TYPES[channels], 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header))
    for kind, data in (colour or {}).items():
        file.write(_chunk(kind, data))
    if icc:
        file.write(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if exif:
        file.write(_chunk(b"eXIf", exif))
    # Made for filtered pixels: two to three times as fast as level 4, and as small to within a few per cent.
    compressor = zlib.compressobj(strategy=zlib.Z_RLE)
    above = np.zeros(width * channels * first.itemsize, np.uint8)
    written = 0
    for rows in (band[i : i + _ROWS] for band in chain([first], bands) for i in range(0, len(band), _ROWS)):
        # PNG's most significant byte comes first.
        raw = rows.astype(">u2" if rows.itemsize == 2 else "u1").reshape(len(rows), -1).view(np.uint8)
        if data := compressor.compress(_filtered(raw, above, channels * first.itemsize)):
            file.write(_chunk(b"IDAT", data))
        above, written = raw[-1], written + len(rows)
    assert written == height, (written, height)
    file.write(_chunk(b"IDAT", compressor.flush()) + _chunk(b"IEND", b""))


def _filtered(raw: np.ndarray, above: np.ndarray, pixel_bytes: int) -> bytes:
    """Rows by PNG's filter 4: what is left when Paeth's guess, from left, up and up left, is subtracted."""
    up = np.concatenate([above[None], raw[:-1]]).astype(np.int16)
    left, up_left = (np.pad(rows[:, :-pixel_bytes], ((0, 0), (pixel_bytes, 0))) for rows in (raw.astype(np.int16), up))
    far_left, far_up = np.abs(up - up_left), np.abs(left - up_left)
    far_up_left = np.abs(left + up - 2 * up_left)
    guess = np.where(far_up <= far_up_left, up, up_left)
    guess = np.where((far_left <= far_up) & (far_left <= far_up_left), left, guess)
    filtered = np.empty((len(raw), raw.shape[1] + 1), np.uint8)
    filtered[:, 0] = 4
    np.subtract(raw, guess.astype(np.uint8), out=filtered[:, 1:])
    return filtered.tobytes()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
