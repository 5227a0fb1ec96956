"""Any picture that a person has, as arrays; and pictures of any size and depth, as PNG files."""

import io
import struct
import sys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from srcluster.data.photos import PhotoError, opened

__all__ = ["Picture", "read_picture", "write_png"]

_ROWS = 8
"""That are filtered at a time: of a large picture these fit in the processor's cache, which is twice as fast as 64."""

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's, by channels."""

_DESCRIPTIVE = {
    ExifTags.Base[name] for name in ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "Copyright")
}
"""What is kept of EXIF's first part: most of a TIFF's says how its pixels are stored."""

_SIZES = {ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight}

_OTHER_ENDS = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


@dataclass(frozen=True)
class Picture:
    """A picture, upright.

    Attributes:
        pixels: H x W x C, uint8 or uint16; grey, grey and alpha, RGB, or RGB and alpha.
        icc: Its colour profile.
        exif: Its EXIF data, as a TIFF, without the orientation that is applied.
    """

    pixels: np.ndarray
    icc: bytes | None
    exif: bytes | None


def read_picture(encoded: bytes, name: str) -> Picture:
    """Decode a picture file.

    Grey stays grey and 16 bits stay 16; palettes become RGB, and CMYK too, by its colour profile if it has one.

    Args:
        encoded: The file's content.
        name: What to call it in an error.

    Raises:
        PhotoError: It is no picture, is damaged, or can't be kept as it is.
    """
    with opened(encoded, name) as image:
        _refuse(image, name)
        icc = image.info.get("icc_profile")
        if _is_16_bit_colour(image):
            # Pillow keeps the high byte of each value; with its ends exchanged, the low one.
            high, exif = _upright(image)
            with Image.open(io.BytesIO(encoded)) as again:
                again.tile = [tile._replace(args=_exchanged(tile.args)) for tile in again.tile]
                low, _ = _upright(again)
            pixels = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
        else:
            upright, exif = _upright(image)
            if image.mode == "CMYK":
                upright, icc = _cmyk_to_rgb(upright, icc, name), None
            pixels = _array(upright)
    return Picture(np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1)), icc, exif)


def write_png(
    file: BinaryIO, size: tuple[int, int], bands: Iterable[np.ndarray], icc: bytes | None, exif: bytes | None
) -> None:
    """Write a PNG file a band of rows at a time, so that the picture is never in memory as a whole.

    Pillow writes no colours of 16 bits, and has to have all of a picture.

    Args:
        file: To write to.
        size: Height and width.
        bands: From top to bottom, each rows x W x C, all uint8 or all uint16; C as of a `Picture`.
        icc: Its colour profile.
        exif: Its EXIF data, as a TIFF.
    """
    bands = iter(bands)
    first = next(bands)
    height, width = size
    channels = first.shape[2]
    header = struct.pack(">IIBBBBB", width, height, 8 * first.itemsize, _COLOUR_TYPES[channels], 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header))
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


def _refuse(image: Image.Image, name: str) -> None:
    """What would be lost silently."""
    # MPO is what phones call a JPEG with a second, smaller or deeper, view behind it.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise PhotoError(f"{name} has {image.n_frames} frames or pages; save the one that is meant by itself")
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise PhotoError(f"{name} has pixels of kind {image.mode}; convert it to RGB or grey of 8 or 16 bits first")
    if any("LA;16" in _raw_mode(tile.args) for tile in image.tile):
        raise PhotoError(f"{name} is grey with alpha in 16 bits, of which Pillow reads 8; save it as RGB with alpha")
    if "transparency" in image.info and (_is_16_bit_colour(image) or image.mode.startswith("I;16")):
        raise PhotoError(f"{name} has 16 bits and a colour that stands for transparent; save it with an alpha channel")


def _raw_mode(args: object) -> str:
    """How Pillow's decoder says that pixels are stored: an argument, or the first of several."""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _is_16_bit_colour(image: Image.Image) -> bool:
    # BGR;16 is another thing: 16 bits for all three channels.
    return image.mode in ("RGB", "RGBA") and any(
        _raw_mode(tile.args).startswith("RGB") and _raw_mode(tile.args)[-3:] in _OTHER_ENDS for tile in image.tile
    )


def _exchanged(args: object) -> object:
    """The decoder's arguments for values with their bytes the other way round."""
    mode = _raw_mode(args)
    other = mode[:-3] + _OTHER_ENDS[mode[-3:]]
    return (other, *args[1:]) if isinstance(args, tuple) else other


def _upright(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """The picture turned as its EXIF data says, and what these say of more than its pixels."""
    said, kept = image.getexif(), Image.Exif()
    for tag in _DESCRIPTIVE & said.keys():
        kept[tag] = said[tag]
    for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        words = {tag: word for tag, word in said.get_ifd(part).items() if tag not in _SIZES}
        if words:
            kept.get_ifd(part).update(words)
    exif = kept.tobytes().removeprefix(b"Exif\0\0") if said.keys() & {*_DESCRIPTIVE, *ExifTags.IFD} else None
    return ImageOps.exif_transpose(image), exif


def _array(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.has_transparency_data:
        return np.asarray(image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA"))
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None, name: str) -> Image.Image:
    if icc is None:
        return image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError) as error:
        raise PhotoError(
            f"{name} has a colour profile that can't be used ({error}); convert it to RGB first"
        ) from error


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
