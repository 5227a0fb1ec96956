"""TIFF files of every layout: what is taken has the pixels that were meant, all else is refused by its name."""

import io
import struct
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from srcluster.data.pictures import PhotoError, decode, read_picture

DEEP = np.random.default_rng(0).integers(0, 65536, (20, 30, 4), dtype=np.uint16)
RGB, GREY = DEEP[..., :3], DEEP[..., 0]


def tiff(pixels: np.ndarray, photometric: str = "rgb", **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric=photometric, metadata=None, **options)
    return buffer.getvalue()


def changed(content: bytes, **tags: int) -> bytes:
    """With other values in tags of one short or long."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        found = [(file.pages[0].tags[name], value) for name, value in tags.items()]
    data = bytearray(content)
    for tag, value in found:
        struct.pack_into("<H" if tag.dtype == 3 else "<I", data, tag.valueoffset, value)
    return bytes(data)


def planes(pixels: np.ndarray) -> np.ndarray:
    return np.moveaxis(pixels, 2, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 7},
        {"tile": (16, 16)},
        {"tile": (16, 16), "compression": "deflate", "predictor": True},
        {"compression": "lzw", "rowsperstrip": 7},
        {"compression": "zstd", "predictor": True, "bigtiff": True},
        {"compression": "packbits"},
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "compression": "lzw", "rowsperstrip": 7},
    ],
    ids=str,
)
def test_layouts_have_the_same_pixels(dtype, byteorder, options):
    pixels = RGB.astype(dtype)
    stored = planes(pixels) if "planarconfig" in options else pixels
    assert (read_picture(tiff(stored, byteorder=byteorder, **options), "a").pixels == pixels).all()


def test_white_is_zero():
    assert (read_picture(tiff(GREY, "miniswhite"), "a").pixels[..., 0] == 65535 - GREY).all()
    eight = GREY.astype(np.uint8)
    assert (decode(tiff(eight, "miniswhite"), "a") == 255 - eight[..., None]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_kept_as_it_is_meant(dtype):
    pixels, full = DEEP.astype(dtype), np.iinfo(dtype).max
    assert (read_picture(tiff(pixels, extrasamples=["unassalpha"]), "a").pixels == pixels).all()
    alpha = pixels[..., 3:].astype(float) / full
    stored = np.concatenate([np.rint(pixels[..., :3] * alpha).astype(dtype), pixels[..., 3:]], axis=2)
    made = read_picture(tiff(stored, extrasamples=["assocalpha"]), "a").pixels
    assert (made[..., 3] == pixels[..., 3]).all()
    # What is stored is rounded, which counts the more, the less of it is seen.
    allowed = np.where(alpha > 0, 0.5 / np.maximum(alpha, 1 / full) + 0.5, full)
    assert (np.abs(made[..., :3].astype(float) - pixels[..., :3]) <= allowed).all()


def test_channels_that_are_not_named_are_noted():
    picture = read_picture(tiff(np.dstack([DEEP, GREY]), extrasamples=["unspecified", "unassalpha"]), "a")
    assert (picture.pixels == np.dstack([RGB, GREY])).all()
    assert "1 extra channel that it does not name" in picture.notes
    assert (read_picture(tiff(DEEP, extrasamples=["unspecified"]), "a").pixels == RGB).all()


def test_cmyk_of_16_bits():
    colours, black = 65535 - RGB.astype(float), 65535 - DEEP[..., 3:].astype(float)
    made = read_picture(tiff(DEEP, "separated"), "a").pixels
    assert made.dtype == np.uint16
    assert np.abs(made - colours * black / 65535).max() <= 0.5
    with pytest.raises(PhotoError, match="CMYK colours of 16 bits and a profile"):
        read_picture(tiff(DEEP, "separated", iccprofile=b"a profile" * 20), "a")
    with pytest.raises(PhotoError, match="CMYK colours; convert"):
        decode(tiff(DEEP.astype(np.uint8), "separated"), "a")


def test_palettes_have_8_or_16_bits():
    index = (GREY % 256).astype(np.uint8)
    deep = np.random.default_rng(1).integers(0, 65536, (3, 256), dtype=np.uint16)
    assert (
        read_picture(tiff(index, "palette", colormap=deep), "a").pixels == planes(deep.T[index]).transpose(1, 2, 0)
    ).all()
    for factor in (256, 257):
        made = read_picture(tiff(index, "palette", colormap=(deep >> 8) * np.uint16(factor)), "a").pixels
        assert made.dtype == np.uint8
        assert (made == (deep >> 8).T[index]).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
def test_other_depths_become_8_or_16(bits):
    if sys.version_info < (3, 11) and bits > 1:
        pytest.skip("the imagecodecs of Python 3.10 packs no bits")
    values = (DEEP[:, :16, 0] % (1 << bits)).astype(np.uint8 if bits <= 8 else np.uint16)
    made = read_picture(
        tiff(values.astype(bool) if bits == 1 else values, "minisblack", bitspersample=bits), "a"
    ).pixels
    full = 255 if bits <= 8 else 65535
    assert np.abs(made[..., 0] - values / ((1 << bits) - 1) * full).max() <= 0.5


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the imagecodecs of Python 3.10 knows no codes for fax")
def test_jpeg_and_fax_inside():
    smooth = np.asarray(Image.fromarray(RGB.astype(np.uint8)[:4, :5]).resize((64, 48), Image.Resampling.BICUBIC))
    for image, options in (
        (Image.fromarray(smooth), {"compression": "jpeg", "quality": 100}),
        (Image.fromarray(smooth).convert("YCbCr"), {"compression": "jpeg", "quality": 100}),
        (Image.fromarray(smooth).convert("1"), {"compression": "group4"}),
        (Image.fromarray(smooth).convert("1"), {"compression": "group3"}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "TIFF", **options)
        with Image.open(io.BytesIO(buffer.getvalue())) as again:
            expected = np.asarray(again.convert("L" if image.mode == "1" else "RGB"))
        assert (read_picture(buffer.getvalue(), "a").pixels.squeeze() == expected).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_tiff_is_turned(turn):
    made = read_picture(tiff(RGB, extratags=[(274, "H", 1, turn, True)]), "a").pixels
    # TIFF 6.0: where the 0th row and the 0th column are.
    first_row_seen = {1: RGB[0], 2: RGB[0, ::-1], 3: RGB[-1, ::-1], 4: RGB[-1]}
    first_row_seen |= {5: RGB[:, 0], 6: RGB[::-1, 0], 7: RGB[::-1, -1], 8: RGB[:, -1]}
    assert (made[0] == first_row_seen[turn]).all()
    assert made.shape == ((20, 30, 3) if turn < 5 else (30, 20, 3))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiff(RGB.astype(np.float32)), "32 bits of kind IEEEFP"),
        (tiff(GREY.astype(np.uint32), "minisblack"), "32 bits of kind UINT"),
        (tiff(GREY.astype(np.int16), "minisblack"), "16 bits of kind INT"),
        (tiff(RGB, "cielab"), "3 channels of kind CIELAB"),
        (changed(tiff(GREY, "minisblack"), PhotometricInterpretation=32803), "kind CFA"),
        (tiff(DEEP, "separated", extratags=[(332, "H", 1, 2, True)]), "other inks"),
        (tiff(planes(DEEP), "minisblack"), "4 frames or pages"),
        (tiff(RGB).replace(struct.pack("<HH", 262, 3), struct.pack("<HH", 65000, 3)), "does not say what they are"),
        (tiff(RGB)[:-100], "truncated"),
        (tiff(RGB, compression="deflate")[:-100], "truncated"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(content, words):
    with pytest.raises(PhotoError, match=words):
        read_picture(content, "a")
    with pytest.raises(PhotoError, match=words):
        decode(content, "a")


def test_pages_in_a_circle():
    content = bytearray(tiff(RGB))
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * count, first)
    with pytest.raises(PhotoError, match="go round in a circle"):
        read_picture(bytes(content), "a")


def test_a_reduced_view_is_no_page():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(RGB, photometric="rgb", metadata=None)
        file.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    assert (read_picture(buffer.getvalue(), "a").pixels == RGB).all()


def test_pixels_that_are_missing_are_not_made_up():
    whole = tiff(RGB, compression="deflate", rowsperstrip=20)
    for content in (
        changed(whole, ImageLength=2000),
        changed(whole, ImageLength=0),
        changed(whole, StripByteCounts=0),
        changed(tiff(RGB), ImageLength=21),
    ):
        with pytest.raises(PhotoError, match=r"truncated|damaged"):
            read_picture(content, "a")
    with pytest.raises(
        PhotoError, match=r"30 x 4000000000: its pixels take 720 GB, more than the 1 GB .* SRCLUSTER_PIC"
    ):
        read_picture(changed(whole, ImageLength=4_000_000_000), "a")
    flipped = bytearray(whole)
    flipped[len(whole) - 2] ^= 1
    with pytest.raises(PhotoError, match="damaged"):
        read_picture(bytes(flipped), "a")
    for compression in ("deflate", "lzw", "zstd", "packbits"):
        with tifffile.TiffFile(io.BytesIO(encoded := tiff(RGB, compression=compression))) as file:
            page = file.pages[0]
            cut = changed(encoded, StripByteCounts=page.databytecounts[0] // 2)
        with pytest.raises(PhotoError, match="damaged"):
            read_picture(cut, "a")
