"""Any picture that a person has, as arrays."""

import functools
import io
import re
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from srcluster.errors import UserError

__all__ = ["PhotoError", "Picture", "decode", "endings", "opened", "read_picture"]

_ENDINGS = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)

_DESCRIPTIVE = {
    ExifTags.Base[name] for name in ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "Copyright")
}
"""What is kept of EXIF's first part: most of a TIFF's says how its pixels are stored."""

_SIZES = {ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight}

_OTHER_ENDS = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


class PhotoError(UserError):
    """A picture can't be used as it is, or there is none."""


@functools.cache
def endings() -> frozenset[str]:
    """The endings of the files that can be read, in lower case: HEIC where its plugin is installed."""
    try:
        import pillow_heif
    except ImportError:
        return _ENDINGS
    pillow_heif.register_heif_opener()
    return _ENDINGS | {".heic", ".heif", ".hif"}


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


def decode(encoded: bytes, name: str) -> np.ndarray:
    """Decode a picture file that a network can be trained or measured on.

    8-bit RGB, grey and palette pictures are taken, the latter two turned into RGB; an alpha channel is dropped if
    nothing in it is transparent; an EXIF rotation is applied.

    Args:
        encoded: The file's content.
        name: What to call it in an error.

    Returns:
        H x W x 3, uint8.

    Raises:
        PhotoError: It is no picture, is truncated, or its conversion to 8-bit RGB would have to guess.
    """
    with opened(encoded, name) as image:
        _refuse_guesses(image, name)
        image.load()
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise PhotoError(f"{name} has transparent pixels; flatten it onto a background first")
    return np.asarray(image.convert("RGB"))


@contextmanager
def opened(encoded: bytes, name: str) -> Iterator[Image.Image]:
    """The picture of a file that is still to be loaded, and what Pillow raises meanwhile as a PhotoError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError as error:
        raise PhotoError(f"{name} is not a picture that Pillow can read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"{name} is refused as a decompression bomb: {error}") from error
    # Of damaged files, and of their EXIF data, Pillow raises whatever comes of them.
    except (OSError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error) as error:
        raise PhotoError(f"{name} is damaged or truncated ({error}); fetch it again or remove it") from error


def _refuse_guesses(image: Image.Image, name: str) -> None:
    # Pillow gives a 16-bit RGB PNG as 8 bits without a word; how it is stored is said by its raw mode alone: RGB;16B.
    # (BGR;16 is another thing, a BMP of 16 bits for all three channels.)
    stored = " ".join(str(tile[3]) for tile in image.tile)
    if image.mode.startswith(("I", "F")) or re.search(r";16[BLNS]", stored):
        raise PhotoError(f"{name} has 16 or more bits a channel; convert it to 8 bits first")
    if image.mode in ("CMYK", "LAB", "HSV", "YCbCr"):
        raise PhotoError(f"{name} is in {image.mode} colours; convert it to RGB with its colour profile first")


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
