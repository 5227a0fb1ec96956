"""TIFF files, by what their tags say.

Pillow cuts, inverts or garbles many layouts of 16 bits without a word: here a layout is taken because its tags are
understood, and refused by name otherwise.
"""

import enum
import io
import logging
import math
import struct

import imagecodecs
import numpy as np
import tifffile

from srcluster.data.raster import PhotoError, Raster, check_size, scaled

# What it says of damaged files is said here.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_CHANNELS = {"MINISWHITE": 1, "MINISBLACK": 1, "RGB": 3, "PALETTE": 1, "SEPARATED": 4, "YCBCR": 3}
"""Without alpha, by TIFF's photometric interpretation."""

_DEFLATE = (8, 32946)

_FAX = (2, 3, 4, 32771)
"""Compressions that are codes for fax."""

_PREMULTIPLIED, _ALPHA = 1, 2
"""Kinds of extra samples."""


def is_tiff(encoded: bytes) -> bool:
    return encoded[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(encoded: bytes, name: str) -> Raster:
    """Decode a TIFF file of one page; its pixels are not yet turned as its orientation says.

    Raises:
        PhotoError: Its layout is none that is understood, or it is too large; a damaged file raises anything.
    """
    with tifffile.TiffFile(io.BytesIO(encoded)) as file:
        # Reduced views may stand behind the picture; an ImageJ stack is pages without tags of their own.
        pages, seen = 0, set()
        for page in file.pages:
            if page.offset in seen:
                raise PhotoError(f"{name} is damaged: its pages go round in a circle; fetch it again or remove it")
            seen.add(page.offset)
            pages += not page.is_reduced
        pages = max(pages, int((file.imagej_metadata or {}).get("images", 1)))
        page = file.pages[0]
        if pages > 1:
            raise PhotoError(f"{name} has {pages} frames or pages; save the one that is meant by itself")
        _refuse(page, name)
        samples, bits = page.samplesperpixel, page.bitspersample
        tile = (page.tilewidth, page.tilelength) if page.is_tiled else (1, 1)
        for width, height in ((page.imagewidth, page.imagelength), tile):
            check_size(name, width, height, samples * (1 if bits <= 8 else 2))
        parts = [*zip(page.dataoffsets, page.databytecounts, strict=False)][: math.prod(page.chunked)]
        whole = page.is_contiguous or len(parts) == math.prod(page.chunked)
        # What is missing would be black.
        if not whole or any(not count or start + count > len(encoded) for start, count in parts):
            raise PhotoError(f"{name} is truncated: some of its pixels are missing; fetch it again or remove it")
        pixels = _decoded(encoded, page)
        # A fax code has no checksum, and what is damaged becomes noise: by each decoder another.
        if pixels.shape != page.shape or (page.compression in _FAX and not np.array_equal(pixels, page.asarray())):
            raise PhotoError(f"{name} is damaged: its tags, or two decoders, differ; fetch it again or remove it")
        pixels = np.moveaxis(pixels, 0, 2) if page.axes == "SYX" else np.atleast_3d(pixels)
        raster = _raster(pixels, page)
        raster.icc = page.iccprofile
        raster.orientation = page.tags.valueof("Orientation")
    return raster


def _refuse(page: tifffile.TiffPage, name: str) -> None:
    photometric, bits = _name(tifffile.PHOTOMETRIC, page.photometric), page.bitspersample
    kind = _name(tifffile.SAMPLEFORMAT, page.sampleformat)
    compression = _name(tifffile.COMPRESSION, page.compression)
    what = ""
    if "PhotometricInterpretation" not in page.tags:
        what = "channels of which it does not say what they are"
    elif photometric not in _CHANNELS or page.samplesperpixel < _CHANNELS[photometric]:
        what = f"{page.samplesperpixel} channels of kind {photometric}"
    elif kind != "UINT" or not isinstance(bits, int) or not 1 <= bits <= 16:
        what = f"{bits} bits of kind {kind} a channel"
    elif photometric == "YCBCR" and compression != "JPEG":
        what = f"YCbCr colours and compression {compression}"
    elif photometric == "PALETTE" and page.colormap is None:
        what = "a palette without colours"
    elif page.planarconfig not in (1, 2):
        what = f"planes of kind {page.planarconfig}"
    elif photometric != "RGB" and page.samplesperpixel > _CHANNELS[photometric] + len(page.extrasamples):
        what = f"{page.samplesperpixel} channels of which it names {_CHANNELS[photometric]}"
    elif page.axes not in ("YX", "YXS", "SYX"):
        what = f"pixels in the order {page.axes}"
    elif photometric == "SEPARATED" and page.tags.valueof("InkSet", 1) != 1:
        what = "other inks than cyan, magenta, yellow and black"
    if what:
        raise PhotoError(f"{name} is a TIFF with {what}; convert it to RGB or grey of 8 or 16 bits first")


def _name(kinds: type[enum.IntEnum], value: int) -> str:
    """A tag's value as TIFF calls it, or as it is where that is none of its."""
    return kinds(value).name if value in kinds.__members__.values() else str(value)


def _decoded(encoded: bytes, page: tifffile.TiffPage) -> np.ndarray:
    """Values as they are stored, by libtiff: tifffile's own decoder of LZW crashes on some damaged files."""
    if page.compression in _DEFLATE or (page.compression == 1 and page.bitspersample not in (8, 16)):
        # Here the stream's checksum counts, which libtiff passes over; and not all of its versions unpack bits.
        return np.asarray(page.asarray())
    if page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
        # Of CMYK, imagecodecs would give RGB of 8 bits.
        data, kind = bytearray(encoded), page.tags["PhotometricInterpretation"]
        struct.pack_into(page.parent.byteorder + "H", data, kind.valueoffset, tifffile.PHOTOMETRIC.RGB)
        encoded = bytes(data)
    return np.asarray(imagecodecs.tiff_decode(encoded))


def _raster(values: np.ndarray, page: tifffile.TiffPage) -> Raster:
    """Channels by what the tags say of them."""
    largest, photometric = (1 << page.bitspersample) - 1, tifffile.PHOTOMETRIC(page.photometric).name
    count = _CHANNELS[photometric]
    extras = [*map(int, page.extrasamples), *[0] * values.shape[2]][: values.shape[2] - count]
    pixels = scaled(values[..., :count], largest)
    if photometric == "MINISWHITE":
        pixels = np.iinfo(pixels.dtype).max - pixels
    elif photometric == "PALETTE" and page.colormap is not None:
        pixels = _palette(page.colormap)[values[..., 0].astype(np.intp)]
    kind = next((kind for kind in extras if kind in (_PREMULTIPLIED, _ALPHA)), 0)
    raster = Raster(pixels, alpha=kind > 0)
    if unknown := len(extras) - raster.alpha:
        raster.notes.append(f"{unknown} extra channel{'s' if unknown > 1 else ''} that it does not name")
    if raster.alpha:
        alpha = scaled(values[..., count + extras.index(kind)], largest)[..., None]
        if pixels.dtype != alpha.dtype:
            # A palette of 16 bits.
            alpha = alpha.astype(np.uint16) * 257
        if kind == _PREMULTIPLIED:
            full, wide = int(np.iinfo(pixels.dtype).max), np.maximum(alpha, 1).astype(np.uint64)
            pixels = np.minimum((pixels * np.uint64(full) + wide // 2) // wide, full).astype(pixels.dtype)
        raster.pixels = np.concatenate([pixels, alpha], axis=2)
    return raster


def _palette(colours: np.ndarray) -> np.ndarray:
    """Colours x RGB; 16 bits only where they say more than 8 do, as many files have bytes times 256 or 257 here."""
    colours = np.asarray(colours, np.uint16).T
    high = (colours >> 8).astype(np.uint8)
    return high if not (colours & 255).any() or (colours == high * np.uint16(257)).all() else colours
