"""Every kind of picture that a person has, and what is said of those that can't be used."""

import io
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from srcluster.data import benchmarks
from srcluster.data.photos import HELD_OUT, find
from srcluster.data.pictures import PhotoError, decode

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_rgb_comes_out_as_it_went_in():
    assert (decode(encoded(Image.fromarray(RGB)), "x.png") == RGB).all()


def test_grey_and_palette_become_rgb():
    grey = decode(encoded(Image.fromarray(RGB[..., 0])), "x.png")
    assert (grey == RGB[..., :1]).all()
    palette = Image.fromarray(RGB).quantize(16)
    assert (decode(encoded(palette), "x.png") == np.asarray(palette.convert("RGB"))).all()


def test_an_opaque_alpha_channel_is_dropped():
    opaque = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    assert (decode(encoded(Image.fromarray(opaque)), "x.png") == RGB).all()


def test_an_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(encoded(Image.fromarray(RGB), "PNG", exif=exif), "x.png")
    assert (turned == np.rot90(RGB, -1)).all()


def sixteen_bit_rgb() -> bytes:
    """A PNG of 16 bits a channel, which Pillow can't write: one black pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 7)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(Image.fromarray(np.dstack([RGB, RGB[..., 0]]))), "has transparent pixels; flatten it"),
        (encoded(Image.fromarray(RGB[..., 0].astype(np.uint16) * 257)), "has 16 or more bits a channel; convert it"),
        (sixteen_bit_rgb(), "has 16 or more bits a channel; convert it"),
        (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "is in CMYK colours; convert it to RGB"),
        (encoded(Image.fromarray(RGB), "JPEG")[:-300], "is damaged or truncated"),
        (encoded(Image.fromarray(RGB))[:200], "is damaged or truncated"),
        (b"not a picture", "is not a picture"),
        (b"", "is not a picture"),
    ],
)
def test_what_can_not_be_used_is_said(content, words):
    with pytest.raises(PhotoError) as error:
        decode(content, "photo.xyz")
    assert str(error.value).startswith("photo.xyz ")
    assert words in str(error.value)


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PhotoError, match="bomb"):
        decode(encoded(Image.fromarray(RGB)), "x.png")


def test_the_wheels_photographs_are_there_and_none_is_held_out():
    photos = find("wheels")
    held_out = {name for names in HELD_OUT.values() for name in names}
    assert len(photos) == 7
    assert not held_out & {photo.name for photo in photos}
    for photo in photos:
        assert min(photo.decode().shape[:2]) >= 300


def test_a_folder_is_read_by_name(tmp_path):
    for name in ("b.png", "a.jpg", "c.txt"):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(RGB)))
    assert [photo.name for photo in find(str(tmp_path))] == ["a.jpg", "b.png"]


def test_a_photo_is_small_and_read_in_any_process(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(RGB)))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "sub/a.png")
    monkeypatch.chdir(tmp_path)
    found = [*find("."), *find("photos.zip")]
    assert [photo.name for photo in found] == ["a.png", "sub/a.png"]
    monkeypatch.chdir("/")
    for photo in found:
        sent = pickle.dumps(photo)
        assert len(sent) < 1000
        assert (pickle.loads(sent).decode() == RGB).all()


def test_a_damaged_photograph_of_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.png", b"content")
    packed = (tmp_path / "photos.zip").read_bytes()
    (tmp_path / "photos.zip").write_bytes(packed.replace(b"content", b"damaged"))
    (photo,) = find(str(tmp_path / "photos.zip"))
    with pytest.raises(PhotoError, match=r"a.png can't be read from photos.zip"):
        photo.decode()


def test_no_photographs(tmp_path, monkeypatch):
    with pytest.raises(PhotoError, match="no photographs in"):
        find(str(tmp_path))
    monkeypatch.delenv("SRCLUSTER_DATA", raising=False)
    with pytest.raises(PhotoError, match="no folder of photographs 'T91', and SRCLUSTER_DATA is not set"):
        find("T91")
    monkeypatch.setenv("SRCLUSTER_DATA", str(tmp_path))
    with pytest.raises(PhotoError, match="nor is there a"):
        find("T91")
    monkeypatch.setenv("SRCLUSTER_DATA", str(tmp_path / "absent"))
    with pytest.raises(PhotoError, match="which is no folder"):
        find("T91")


def test_wheel3_needs_no_data_sets(monkeypatch):
    monkeypatch.delenv("SRCLUSTER_DATA", raising=False)
    assert benchmarks.at_hand() == ("Wheel3",)
    wheel3 = benchmarks.load("Wheel3", 4)
    assert [image.name for image in wheel3.images] == ["astronaut", "chelsea", "flower"]
    for image in wheel3.images:
        assert image.hr.shape == (4 * image.lr.shape[0], 4 * image.lr.shape[1], 3)


def test_a_picture_too_small_to_measure(tmp_path):
    Image.fromarray(RGB[:16]).save(tmp_path / "tiny.png")
    with pytest.raises(PhotoError, match=r"tiny of 28 x 16 pixels is too small to measure at x4"):
        benchmarks.load(str(tmp_path), 4)
