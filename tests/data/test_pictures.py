"""Pictures of every kind, read as they are; and PNG files that others read back."""

import io
import random
import runpy
import struct
import zlib
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from srcluster.data.pictures import PhotoError, read_picture
from srcluster.data.png import write_png

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(pixels: np.ndarray, rows: int = 1000, icc: bytes | None = None, exif: bytes | None = None) -> bytes:
    buffer = io.BytesIO()
    write_png(buffer, pixels.shape[:2], (pixels[i : i + rows] for i in range(0, len(pixels), rows)), icc, exif)
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 64, 100])
def test_a_png_is_what_pillow_reads(channels, rows):
    pixels = noise(130, 37, channels)
    with Image.open(io.BytesIO(png(pixels, rows, SRGB))) as image:
        image.load()
        assert image.info["icc_profile"] == SRGB
        assert (np.asarray(image).reshape(pixels.shape) == pixels).all()


def test_a_png_is_as_small_as_pillows():
    smooth = np.asarray(Image.fromarray(noise(12, 16, 3)).resize((320, 240), Image.Resampling.BICUBIC))
    assert len(png(smooth)) < 1.15 * len(file_of(Image.fromarray(smooth)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_stay_16(channels):
    pixels = noise(70, 9, channels, dtype=np.uint16)
    encoded = png(pixels)
    picture = read_picture(encoded, "a")
    assert picture.pixels.dtype == np.uint16
    assert (picture.pixels == pixels).all()
    with Image.open(io.BytesIO(encoded)) as image:
        # All that Pillow reads of colours; it takes grey with alpha for these.
        seen = np.asarray(image.convert("LA") if channels == 2 else image).reshape(pixels.shape)
        assert (seen == (pixels if channels == 1 else pixels >> 8)).all()


@pytest.mark.parametrize(
    ("mode", "kept"), [("1", "L"), ("L", "L"), ("LA", "LA"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("P", "RGB")]
)
def test_modes(mode, kept):
    # A palette made of RGBA would have transparent colours.
    image = Image.fromarray(noise(11, 13, 4)).convert("RGB" if mode == "P" else "RGBA").convert(mode)
    expected = np.asarray(image.convert(kept)).reshape(11, 13, -1)
    assert (read_picture(file_of(image, "PNG"), "a").pixels == expected).all()


def test_a_transparent_colour_becomes_alpha():
    image = Image.fromarray(noise(11, 13, 3)).quantize(8)
    picture = read_picture(file_of(image, transparency=3), "a")
    assert picture.pixels.shape == (11, 13, 4)
    assert ((picture.pixels[..., 3] == 0) == (np.asarray(image) == 3)).all()
    grey = Image.fromarray(noise(11, 13))
    value = int(np.asarray(grey)[0, 0])
    assert read_picture(file_of(grey, transparency=value), "a").pixels[0, 0].tolist() == [value, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_an_exif_rotation_is_applied_once(kind):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    exif.get_ifd(0x8769).update({0x9003: "2026:01:02 03:04:05", 0xA002: 32})
    picture = read_picture(file_of(Image.fromarray(pixels), kind, exif=exif), "a")
    assert picture.pixels.shape == (32, 16, 3)
    # A quarter turn clockwise: what was on the top left is on the top right.
    assert picture.pixels[:8, 8:].min() > 200
    assert picture.pixels[8:].max() < 50
    with Image.open(io.BytesIO(png(picture.pixels, exif=picture.exif))) as again:
        assert again.getexif().get(0x0112, 1) == 1
        assert again.getexif()[0x010F] == "a camera"
        # Pillow writes no such part into a TIFF.
        assert kind == "TIFF" or again.getexif().get_ifd(0x8769) == {0x9003: "2026:01:02 03:04:05"}


def test_deep_pictures_of_other_formats():
    deep = noise(20, 30, 3, dtype=np.uint16)
    for bits in (12, 16):
        values = deep >> (16 - bits)
        made = read_picture(imagecodecs.jpeg2k_encode(values, codecformat="jp2", bitspersample=bits), "a").pixels
        assert np.abs(made - values / ((1 << bits) - 1) * 65535).max() <= 0.5
    ppm = b"P6\n# a comment\n30 20\n65535\n" + deep.astype(">u2").tobytes()
    assert (read_picture(ppm, "a").pixels == deep).all()
    words = " ".join(map(str, (deep[..., 0] // 66).ravel())).encode()
    made = read_picture(b"P2 30 20 1000\n# also here\n" + words, "a").pixels[..., 0]
    assert np.abs(made - deep[..., 0] // 66 * 65.535).max() <= 0.5


def test_a_transparent_colour_of_16_bits():
    pixels = noise(20, 30, 3, dtype=np.uint16)
    encoded = imagecodecs.png_encode(pixels)
    at = encoded.index(b"IDAT") - 4
    data = b"tRNS" + pixels[0, 0].astype(">u2").tobytes()
    chunk = struct.pack(">I", 6) + data + struct.pack(">I", zlib.crc32(data))
    made = read_picture(encoded[:at] + chunk + encoded[at:], "a").pixels
    assert made.shape == (20, 30, 4)
    assert (made[..., 3] == np.where((pixels == pixels[0, 0]).all(-1), 0, 65535)).all()


def test_16_bits_and_a_rotation():
    pixels = noise(5, 9, 3, dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = read_picture(png(pixels, exif=exif.tobytes().removeprefix(b"Exif\0\0")), "a")
    assert (picture.pixels == pixels[::-1, ::-1]).all()


def cmyk_profile() -> bytes:
    """A profile by which every ink is equally grey (ICC.1:2010, 10.8: lut8Type)."""
    inks = np.arange(16)[:, None] >> np.array([3, 2, 1, 0]) & 1
    lab = np.stack([255 - 50 * inks.sum(1), np.full(16, 128), np.full(16, 128)], 1).astype(np.uint8)
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel())
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * ramp + lab.tobytes() + 3 * ramp
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags = {b"A2B0": table, b"wtpt": white}
    start, entries, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        entries += name + struct.pack(">II", start + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    body = struct.pack(">I", len(tags)) + entries + data
    head = struct.pack(">I4sI4s4s4s12x4s", 128 + len(body), b"    ", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    return head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061).ljust(60, b"\0") + body


def test_cmyk_becomes_rgb_by_its_profile():
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    plain = read_picture(file_of(image, "TIFF"), "a")
    assert plain.pixels[0, 0].tolist() == [0, 255, 255]
    managed = read_picture(file_of(image, "TIFF", icc_profile=cmyk_profile()), "a")
    red, green, blue = managed.pixels[0, 0].tolist()
    assert max(red, green, blue) - min(red, green, blue) < 6
    assert 150 < green < 230
    assert managed.icc is None
    with pytest.raises(PhotoError, match="colour profile"):
        read_picture(file_of(image, "TIFF", icc_profile=b"nonsense" * 40), "a")


def test_profiles_are_kept():
    assert read_picture(file_of(Image.fromarray(noise(9, 9, 3)), "JPEG", icc_profile=SRGB), "a").icc == SRGB


def test_what_would_lose_something_is_refused():
    two = [Image.fromarray(noise(9, 9)), Image.fromarray(255 - noise(9, 9))]
    with pytest.raises(PhotoError, match="2 frames"):
        read_picture(file_of(two[0], "GIF", save_all=True, append_images=two[1:]), "a")
    with pytest.raises(PhotoError, match="32 bits of kind IEEEFP a channel"):
        read_picture(file_of(two[0].convert("F"), "TIFF"), "a")
    with pytest.raises(PhotoError, match="damaged"):
        read_picture(file_of(Image.fromarray(noise(99, 99, 3)))[:-2000], "a")
    for data, words in (
        (b"no picture", "not a picture of a kind that is read"),
        (b"<html>", "a web page or other text"),
        (b"\0\0\0\x18ftypheic" + bytes(50), r"HEIC file, which pillow-heif reads \(pip install 'srcluster\[heic\]'\)"),
        (imagecodecs.jpeg_encode(noise(16, 16, 3, dtype=np.uint16) >> 4, bitspersample=12), "a JPEG of 12 bits"),
        (
            imagecodecs.avif_encode(noise(16, 16, 3, dtype=np.uint16) >> 6, bitspersample=10),
            "an AVIF of more than 8 bits",
        ),
        (b"Pf\n2 2\n-1.0\n" + bytes(16), "pixels of kind F"),
        (b"P5 2 1 300 \1\0\2\0", "damaged or truncated .a value of 512, where 300 is the most"),
    ):
        with pytest.raises(PhotoError, match=words):
            read_picture(data, "a")


def test_damaged_pictures_are_refused_or_alike_for_a_second_decoder(tmp_path):
    """The fuzzer's 40 kinds of pictures, whole and damaged twice."""
    fuzzer = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "fuzz_pictures.py"))
    dice, counts = random.Random(0), Counter[str]()
    for name, (ending, content) in fuzzer["seeds"]().items():
        path = tmp_path / ending / f"a.{ending}"
        path.parent.mkdir(exist_ok=True)
        for data in (content, *(fuzzer["damaged"](content, content, dice) for _ in range(2))):
            path.write_bytes(data)
            counts.update(found := fuzzer["outcome"](path, ending, tmp_path))
            assert {word for word in found if word[0] != "_"} <= {"taken", "refused", "alike", "second refuses"}, name
    assert counts["alike"] > 40
    assert counts["refused"] > 40
