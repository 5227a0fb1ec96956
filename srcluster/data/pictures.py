"""Any picture that a person has, as arrays."""

import functools
import io
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import imagecodecs
import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError

from srcluster.data.raster import PhotoError, Raster, check_size, scaled
from srcluster.data.tiff import is_tiff, read_tiff
from srcluster.errors import UserError

_ENDINGS = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_NUMBER = _SPACE + rb"(\d+)"
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of what is taken: it reads more, whose layouts nobody has looked at."""

_DEEP_PPM = re.compile(rb"P([2356])" + 2 * _NUMBER + _SPACE + rb"(25[6-9]|2[6-9]\d|[3-9]\d\d|\d{4,5})\s")
"""Magic, width, height, and a maximum of 256 or more."""

_NOT_READ = (
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "a HEIC file, which pillow-heif reads (pip install 'srcluster[heic]')"),
    (rb"\xff\xd8.{0,65536}?\xff[\xc0-\xc2]..\x0c", "a JPEG of 12 bits a channel"),
    (rb"\xff\x0a|.{4}JXL ", "a JPEG XL file"),
    (rb"8BPS|P7\n|\x00\x00\x01\x00|v/1\x01", "a Photoshop, PAM, icon or OpenEXR file"),
    (rb"\s*<", "a web page or other text"),
)
"""How some files begin that are not read, and what they are."""

_COLOUR_CHUNKS = {b"cHRM": 32, b"gAMA": 4, b"sRGB": 1, b"cICP": 4, b"mDCV": 24, b"cLLI": 8}
"""Chunks of a PNG that are kept, and their lengths."""

_WHITE, _PRIMARIES = ExifTags.Base.WhitePoint, ExifTags.Base.PrimaryChromaticities

_SAVE = "save it as an RGB or grey PNG or TIFF of 8 or 16 bits"

_DESCRIPTIVE = {
    ExifTags.Base[name] for name in ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "Copyright")
}
"""What is kept of EXIF's first part: most of a TIFF's says how its pixels are stored."""

_SIZES = {ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight}

_UPRIGHT: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
"""What turns a picture upright, by EXIF's orientation."""

# `check_size` bounds by memory what Pillow bounds by pixels.
Image.MAX_IMAGE_PIXELS = None


@functools.cache
def endings() -> frozenset[str]:
    """The endings of the files that can be read, in lower case: HEIC where its plugin is installed."""
    try:
        import pillow_heif  # type: ignore[import-not-found]
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
        colour: What else it says of its colours, as chunks of a PNG file.
        notes: What is left out of the file, as clauses.
    """

    pixels: np.ndarray
    icc: bytes | None = None
    exif: bytes | None = None
    colour: Mapping[bytes, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_picture(encoded: bytes, name: str) -> Picture:
    """Decode a picture file.

    Grey stays grey and 16 bits stay 16; palettes become RGB, and CMYK too, by its colour profile if it has one.

    Raises:
        PhotoError: It is no picture, is damaged, too large, or can't be kept as it is.
    """
    with _explaining(encoded, name):
        raster, tags = _read(encoded, name)
        exif = _exif(tags, raster.notes)
        if _is_cmyk(raster):
            raster = _cmyk_to_rgb(raster, name)
    return Picture(np.ascontiguousarray(raster.pixels), raster.icc, exif, raster.colour, tuple(raster.notes))


def decode(encoded: bytes, name: str) -> np.ndarray:
    """Decode a picture file that a network can be trained or measured on.

    8-bit RGB, grey and palette pictures are taken, the latter two turned into RGB; an alpha channel is dropped if
    nothing in it is transparent; an EXIF rotation is applied.

    Returns:
        H x W x 3, uint8.

    Raises:
        PhotoError: It is no picture, is truncated, or its conversion to 8-bit RGB would have to guess.
    """
    with _explaining(encoded, name):
        raster, _ = _read(encoded, name)
    pixels = raster.pixels
    if pixels.dtype != np.uint8:
        raise PhotoError(f"{name} has 16 or more bits a channel; convert it to 8 bits first")
    if _is_cmyk(raster):
        raise PhotoError(f"{name} is in CMYK colours; convert it to RGB with its colour profile first")
    if raster.alpha:
        if pixels[..., -1].min() < 255:
            raise PhotoError(f"{name} has transparent pixels; flatten it onto a background first")
        pixels = pixels[..., :-1]
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _read(encoded: bytes, name: str) -> tuple[Raster, Image.Exif]:
    """A file's pixels, upright, and its tags."""
    if deep_ppm := _DEEP_PPM.match(encoded):
        return _read_ppm(encoded, deep_ppm, name), Image.Exif()
    raster, image = (read_tiff(encoded, name), None) if is_tiff(encoded) else _decoded(encoded, name)
    tags, orientation = Image.Exif(), raster.orientation
    with _noting(raster.notes, "metadata"):
        tags = (image or _opened(encoded)).getexif()
        orientation = orientation or tags.get(ExifTags.Base.Orientation)
        raster.colour = _colour(encoded, tags)
    if turn := _UPRIGHT.get(orientation or 1):
        raster.pixels = turn(raster.pixels)
    return raster, tags


def _decoded(encoded: bytes, name: str) -> tuple[Raster, Image.Image]:
    """The pixels of a file that is no TIFF, and Pillow's view of it."""
    image = _opened(encoded)
    if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
        # MPO is what phones call a JPEG with a second, smaller or deeper, view behind it.
        raise PhotoError(f"{name} has {frames} frames or pages; save the one that is meant by itself")
    if image.format == "GIF" and image.tile[0].extents != (0, 0, *image.size):
        raise PhotoError(f"{name} has a frame that does not cover all of it; {_SAVE}")
    largest = _largest(image, encoded, name)
    check_size(name, image.width, image.height, len(image.getbands()) * (1 if largest == 255 else 2))
    raster = _shallow(image, name) if largest == 255 else _deep(image, encoded, largest, name)
    raster.icc = image.info.get("icc_profile")
    if raster.icc is None and "icc_profile" in image.info:
        raster.notes.append("a colour profile that can't be read")
    return raster, image


def _opened(encoded: bytes) -> ImageFile.ImageFile:
    endings()  # Registers the plugin of HEIC.
    Image.init()
    return Image.open(io.BytesIO(encoded), formats=[kind for kind in _FORMATS if kind in Image.OPEN])


def _largest(image: Image.Image, encoded: bytes, name: str) -> int:
    """The largest value of a channel, by the file itself: of most kinds Pillow reads 8 bits of more without a word."""
    match image.format:
        case "PNG" if encoded[24] == 16:
            return 65535
        case "JPEG2000":
            start = encoded.index(b"\xff\x4f\xff\x51")
            (count,) = struct.unpack_from(">H", encoded, start + 40)
            # Bits less one, or 128 more where they are signed, and the steps in x and y.
            first, *others = (encoded[start + 42 + 3 * i : start + 45 + 3 * i] for i in range(count))
            if any(other != first for other in others) or first[1:] != b"\1\1" or not 7 <= first[0] < 16:
                raise PhotoError(f"{name} is a JPEG 2000 with channels that differ or are signed; {_SAVE}")
            if any(kind == 2 for kind in encoded[encoded.find(b"cdef") :][9:30:6] if b"cdef" in encoded):
                raise PhotoError(f"{name} is a JPEG 2000 with premultiplied alpha; {_SAVE}")
            return (2 << first[0]) - 1
        case "AVIF" if any(config[0] & 0x40 for config in re.findall(rb"av1C\x81.(.)", encoded, re.DOTALL)):
            raise PhotoError(f"{name} is an AVIF of more than 8 bits a channel; {_SAVE}")
        case "HEIF" if image.info.get("bit_depth", 8) > 8:
            raise PhotoError(f"{name} is a HEIF of more than 8 bits a channel; {_SAVE}")
    return 255


def _shallow(image: Image.Image, name: str) -> Raster:
    """What Pillow decodes: 8 bits, or palettes of them."""
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr"):
        raise PhotoError(f"{name} has pixels of kind {image.mode}; convert it to RGB or grey of 8 or 16 bits first")
    if image.mode == "CMYK":
        return Raster(np.asarray(image))
    grey, alpha = image.mode in ("1", "L", "LA", "La"), image.has_transparency_data
    mode = ("L" if grey else "RGB") + ("A" if alpha else "")
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return Raster(pixels.reshape(*pixels.shape[:2], -1), alpha)


def _deep(image: Image.Image, encoded: bytes, largest: int, name: str) -> Raster:
    """A PNG or JPEG 2000 of more than 8 bits."""
    if image.mode not in ("I;16", "L", "LA", "RGB", "RGBA"):
        raise PhotoError(f"{name} has more than 8 bits a channel and pixels of kind {image.mode}; {_SAVE}")
    read = imagecodecs.png_decode if image.format == "PNG" else imagecodecs.jpeg2k_decode
    pixels = np.atleast_3d(scaled(read(encoded), largest))
    return Raster(pixels, alpha=pixels.shape[2] in (2, 4))


def _read_ppm(encoded: bytes, header: re.Match[bytes], name: str) -> Raster:
    """A PPM or PGM of more than 8 bits."""
    width, height, largest = map(int, header.groups()[1:])
    channels = 3 if header[1] in b"36" else 1
    check_size(name, width, height, 2 * channels)
    if header[1] in b"56":
        values = np.frombuffer(encoded, ">u2", width * height * channels, header.end())
    else:
        words = re.sub(rb"#[^\r\n]*", b"", encoded[header.end() :]).split()
        values = np.array(words[: width * height * channels], int)
    return Raster(scaled(values, largest).reshape(height, width, channels))


def _colour(encoded: bytes, tags: Image.Exif) -> dict[bytes, bytes]:
    """What says which colours are meant, besides a profile, as PNG has it."""
    colour = {}
    if encoded.startswith(b"\x89PNG"):
        at = 8
        while (kind := encoded[at + 4 : at + 8]) not in (b"IDAT", b""):
            (length,) = struct.unpack_from(">I", encoded, at)
            if _COLOUR_CHUNKS.get(kind) == length:
                colour[kind] = encoded[at + 8 : at + 8 + length]
            at += 12 + length
    elif coded := re.search(rb"ftyp.{4,600}?colrnclx\0(.)\0(.)", encoded, re.DOTALL):
        # Primaries and transfer of an AVIF or HEIF; its matrix is undone, and its range is full by now.
        colour[b"cICP"] = coded[1] + coded[2] + b"\0\1"
    elif is_tiff(encoded) and {_WHITE, _PRIMARIES} <= tags.keys():
        chromaticities = [round(100_000 * value) for value in (*tags[_WHITE], *tags[_PRIMARIES])]
        colour[b"cHRM"] = struct.pack(">8I", *chromaticities)
    return colour


def _exif(tags: Image.Exif, notes: list[str]) -> bytes | None:
    """What the tags say of more than the pixels; each that can't be written again is left out."""

    def usable(words: Mapping[int, Any]) -> dict[int, Any]:
        kept = {}
        for tag, word in words.items():
            with _noting(notes, f"EXIF tag {tag}"):
                one = Image.Exif()
                one[tag] = word
                one.tobytes()
                kept[tag] = word
        return kept

    kept = Image.Exif()
    kept.update(usable({tag: tags[tag] for tag in _DESCRIPTIVE & tags.keys()}))
    for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        with _noting(notes, f"the {part.name} part of its metadata"):
            if words := usable({tag: word for tag, word in tags.get_ifd(part).items() if tag not in _SIZES}):
                kept.get_ifd(part).update(words)
    with _noting(notes, "metadata"):
        if tags.keys() & {*_DESCRIPTIVE, *ExifTags.IFD}:
            return kept.tobytes().removeprefix(b"Exif\0\0")
    return None


def _is_cmyk(raster: Raster) -> bool:
    return raster.pixels.shape[2] - raster.alpha == 4


def _cmyk_to_rgb(raster: Raster, name: str) -> Raster:
    inks, alpha = raster.pixels[..., :4], raster.pixels[..., 4:]
    if raster.icc is None:
        full = np.iinfo(inks.dtype).max
        colours, black = full - inks[..., :3].astype(np.uint64), full - inks[..., 3:].astype(np.uint64)
        rgb = ((colours * black + full // 2) // full).astype(inks.dtype)
    elif inks.dtype == np.uint8:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(raster.icc))
            image = Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes())
            srgb = ImageCms.createProfile("sRGB")
            rgb = np.asarray(ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB"))
        except (OSError, ImageCms.PyCMSError) as error:
            raise PhotoError(f"{name} has a colour profile that can't be used ({error}); {_SAVE}") from error
    else:
        raise PhotoError(f"{name} has CMYK colours of 16 bits and a profile, which is applied to 8 bits alone; {_SAVE}")
    return Raster(np.concatenate([rgb, alpha], axis=2), raster.alpha, notes=raster.notes)


@contextmanager
def _noting(notes: list[str], what: str) -> Iterator[None]:
    """Metadata cost no pixel: whatever is raised of them is noted."""
    try:
        yield
    except Exception:
        notes.append(f"{what} that can't be read")


@contextmanager
def _explaining(encoded: bytes, name: str) -> Iterator[None]:
    """Whatever decoders raise of a file, as a PhotoError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except UnidentifiedImageError as error:
        kinds = (kind for magic, kind in _NOT_READ if re.match(magic, encoded, re.DOTALL))
        what = next(kinds, "not a picture of a kind that is read, or its header is damaged")
        raise PhotoError(f"{name} is {what}; {_SAVE}") from error
    except MemoryError as error:
        raise PhotoError(f"{name} needs more memory than there is") from error
    # There is no end to what comes of damaged files.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise PhotoError(f"{name} is damaged or truncated ({reason}); fetch it again or remove it") from error
