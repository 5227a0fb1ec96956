"""Upscaling as a person does it: every kind of picture, folders, what is there already, what is broken."""

import io
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from srcluster import local, models, storage
from srcluster.data.listing import Photo
from srcluster.data.pictures import read_picture
from srcluster.data.png import write_png
from srcluster.errors import UserError
from srcluster.models.saved import save_weights
from srcluster.pixels.resize import imresize
from srcluster.recipe import recipe_from
from srcluster.upscale.__main__ import upscale
from srcluster.upscale.enlarge import Job, enlarge

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def run(*pictures: Path | str, out: Path, model: str = "bicubic", **options) -> None:
    upscale([str(picture) for picture in pictures], out=str(out), model=model, address="none", **options)


def enlarged(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return imresize(pixels, 4)
    return np.floor(np.clip(imresize(pixels.astype(float), 4), 0, 65535) + 0.5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_and_depth_are_kept(tmp_path, channels, dtype):
    pixels = noise(30, 41, channels, dtype=dtype)
    with (tmp_path / "a.png").open("wb") as file:
        write_png(file, pixels.shape[:2], [pixels], SRGB, None)
    # So little memory is many tiles.
    run(tmp_path / "a.png", out=tmp_path / "out", memory_gb=1e-6)
    made = read_picture((tmp_path / "out" / "a.png").read_bytes(), "a")
    assert made.icc == SRGB
    assert made.pixels.dtype == dtype
    assert made.pixels.shape == (120, 164, channels)
    assert np.abs(made.pixels.astype(float) - enlarged(pixels)).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB", "turned"])
def test_kinds_of_files(tmp_path, mode):
    image = Image.fromarray(noise(20, 31, 3))
    exif = Image.Exif()
    if mode == "turned":
        exif[0x0112] = 8
        expected = np.asarray(image.rotate(90, expand=True))
    else:
        image = image.convert(mode)
        expected = np.asarray(image.convert("L" if mode == "1" else "L" if mode == "L" else "RGB"))
    image.save(tmp_path / "a.tif", exif=exif)
    run(tmp_path / "a.tif", out=tmp_path / "out")
    with Image.open(tmp_path / "out" / "a.png") as made:
        assert made.getexif().get(0x0112, 1) == 1
        assert np.abs(np.asarray(made).astype(int) - enlarged(expected)).max() <= 1


def test_grey_through_a_network_for_rgb_is_its_luma(tmp_path):
    torch.manual_seed(0)
    recipe = recipe_from({"name": "a", "steps": 1, "model": {"kind": "srcnn"}})
    network = models.build(recipe.model, 4)
    network.conv3.weight.data += 0.02 * torch.randn(network.conv3.weight.shape)
    save_weights(tmp_path / "model.safetensors", network.state_dict(), recipe)
    pixels = noise(12, 13)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "rgb.png")
    run(tmp_path / "grey.png", tmp_path / "rgb.png", out=tmp_path / "out", model=str(tmp_path))
    grey, rgb = (Image.open(tmp_path / "out" / f"{name}.png") for name in ("grey", "rgb"))
    assert (grey.mode, rgb.mode) == ("L", "RGB")
    assert np.abs(np.asarray(grey).astype(int) - np.asarray(rgb)[..., 0]).max() <= 1
    run(tmp_path / "rgb.png", out=tmp_path / "eight", model=str(tmp_path), self_ensemble=True)
    assert (np.asarray(Image.open(tmp_path / "eight" / "rgb.png")) != np.asarray(rgb)).any()


def test_a_folder_with_a_bad_file(tmp_path, capsys):
    photos, out = tmp_path / "in", tmp_path / "in" / "large"
    (photos / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.png", "b.jpg", "sub/c.webp"):
        Image.fromarray(noise(8, 9, 3)).save(photos / name)
    (photos / "bad.png").write_bytes(b"no picture")
    (photos / "notes.txt").write_text("not meant")
    with pytest.raises(UserError, match="1 of 5 pictures failed"):
        run(photos, out=out)
    assert "bad.png is not a picture" in capsys.readouterr().out
    assert storage.names(str(out)) == ["a.png", "b.jpg.png", "b.png.png", "sub/c.png"]

    (photos / "bad.png").unlink()
    (out / "a.png").write_bytes(b"left as it is")
    run(photos, out=out)
    assert "0 made" in capsys.readouterr().out
    assert (out / "a.png").read_bytes() == b"left as it is"
    run(photos, out=out, overwrite=True)
    assert "4 made" in capsys.readouterr().out
    assert Image.open(out / "a.png").size == (36, 32)


def test_what_is_refused(tmp_path):
    Image.fromarray(noise(8, 9, 3)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(UserError, match="would be overwritten"):
        run(tmp_path / "a.png", out=tmp_path, overwrite=True)
    assert (tmp_path / "a.png").read_bytes() == before
    (tmp_path / "sub").mkdir()
    Image.fromarray(noise(8, 9, 3)).save(tmp_path / "sub" / "a.png")
    with pytest.raises(UserError, match="several pictures would become"):
        run(tmp_path / "a.png", tmp_path / "sub" / "a.png", out=tmp_path / "out")
    with pytest.raises(UserError, match="there is no picture"):
        run(tmp_path / "gone.png", out=tmp_path / "out")
    with pytest.raises(UserError, match="where to"):
        upscale([str(tmp_path / "a.png")], model="bicubic")
    with pytest.raises(UserError, match="no network of scale 7 comes with srcluster: say which network, --model"):
        upscale([str(tmp_path / "a.png")], out=str(tmp_path / "out"), scale=7)


class Greedy(torch.nn.Module):
    """Doubles a picture, and has the memory for tiles of so many pixels a side."""

    scale, reach = 2, 0

    def __init__(self, largest: int, error: Exception):
        super().__init__()
        self.largest, self.error = largest, error

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        if max(lr.shape[2:]) > self.largest:
            raise self.error
        return lr.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=repr,
)
def test_out_of_memory_means_smaller_tiles_and_ends_one_picture_at_most(tmp_path, error):
    pixels = noise(150, 90, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    job = Job(Photo("a.png", f"{tmp_path}/a.png", ""), f"{tmp_path}/out.png")
    assert enlarge(Greedy(40, error), job, 1e9, False).error == ""
    assert (np.asarray(Image.open(tmp_path / "out.png"))[::2, ::2] == pixels).all()
    (tmp_path / "out.png").unlink()
    failed = enlarge(Greedy(8, error), job, 1e9, False)
    assert failed.error == "a.png takes more memory than there is, even in the smallest tiles"
    assert storage.names(str(tmp_path)) == ["a.png"]
    with pytest.raises(RuntimeError, match="a defect"):
        enlarge(Greedy(8, RuntimeError("a defect")), job, 1e9, False)


def test_what_says_which_colours_are_meant_stays(tmp_path):
    plain = io.BytesIO()
    Image.fromarray(noise(8, 9, 3)).save(plain, "PNG")
    colour = {b"cHRM": bytes(range(32)), b"gAMA": struct.pack(">I", 100_000), b"sRGB": b"\0", b"cICP": b"\x09\x10\0\1"}
    write_png(tmp_path.joinpath("a.png").open("wb"), (8, 9), [noise(8, 9, 3)], colour=colour)
    Image.fromarray(noise(8, 9, 3)).save(tmp_path / "b.avif")
    run(tmp_path / "a.png", tmp_path / "b.avif", out=tmp_path / "out")
    assert read_picture((tmp_path / "out" / "a.png").read_bytes(), "a").colour == colour
    # BT.709's primaries and the curve of sRGB.
    assert read_picture((tmp_path / "out" / "b.png").read_bytes(), "b").colour == {b"cICP": b"\1\x0d\0\1"}


def test_metadata_that_can_not_be_read_cost_no_pixel(tmp_path, capsys):
    # Turned; a maker; and a part of its own that has itself as a part.
    entries = ((0x010F, 2, 4, b"abc\0"), (0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x8769, 4, 1, struct.pack("<I", 8)))
    exif = (
        b"II*\0" + struct.pack("<IH", 8, 3) + b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    )
    for name, data in (("loop", exif + bytes(4)), ("cut", exif[:20]), ("nonsense", b"nonsense" * 9)):
        with (tmp_path / f"{name}.png").open("wb") as file:
            write_png(file, (8, 9), [noise(8, 9, 3)], exif=data)
    run(*tmp_path.glob("*.png"), out=tmp_path / "out")
    assert {path.stem: Image.open(path).size for path in (tmp_path / "out").iterdir()} == {
        "loop": (32, 36), "cut": (36, 32), "nonsense": (36, 32),
    }  # fmt: skip
    assert "loop.png is made without EXIF tag 34665 that can't be read" in (printed := capsys.readouterr().out)
    assert "nonsense.png is made without metadata that can't be read" in printed
    assert Image.open(tmp_path / "out" / "loop.png").getexif()[0x010F] == "abc"


def test_pictures_of_a_zip_and_names_of_any_kind(tmp_path, capsys):
    image = io.BytesIO()
    Image.fromarray(noise(8, 9, 3)).save(image, "PNG")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in ("10:20.png", "sub\\a.png", "sub/b.jpe", "c.heic", "._c.png"):
            archive.writestr(name, image.getvalue())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"\xff.png")).write_bytes(image.getvalue())
    run(tmp_path / "in.zip", tmp_path / "in", out=tmp_path / "out")
    assert storage.names(str(tmp_path / "out")) == ["10:20.png", r"\udcff.png", "sub/b.png", "sub\\a.png"]
    assert "in.zip: 1 file not taken: 1 .heic" in capsys.readouterr().out


def test_keys_of_s3_lead_nowhere_else(tmp_path, monkeypatch):
    keys = ["a.png", "/a.png"]
    monkeypatch.setattr(storage, "versions", lambda url: dict.fromkeys(keys, "1"))
    monkeypatch.setattr(storage, "exists", lambda url: False)
    monkeypatch.setattr(storage, "check", lambda url: None)
    with pytest.raises(UserError, match="several pictures would become"):
        run("s3://bucket/in", out=tmp_path)
    keys[:] = ["../../a.png"]
    with pytest.raises(UserError, match="would be written outside of --out"):
        run("s3://bucket/in", out=tmp_path)


def test_a_picture_may_take_as_much_memory_as_is_said(tmp_path, capsys, monkeypatch):
    Image.fromarray(noise(8, 9, 3)).save(tmp_path / "a.png")
    monkeypatch.setenv("SRCLUSTER_PICTURE_GB", "2e-7")
    with pytest.raises(UserError, match="1 of 1 pictures failed"):
        run(tmp_path / "a.png", out=tmp_path / "out")
    assert "a.png is 9 x 8: its pixels take 2.16e-07 GB, more than the 2e-07 GB that" in capsys.readouterr().out
    monkeypatch.setenv("SRCLUSTER_PICTURE_GB", "3e-7")
    run(tmp_path / "a.png", out=tmp_path / "out")
    monkeypatch.setenv("SRCLUSTER_PICTURE_GB", "much")
    with pytest.raises(UserError, match="1 of 1 pictures failed"):
        run(tmp_path / "a.png", out=tmp_path / "again")
    assert "SRCLUSTER_PICTURE_GB must be a number" in capsys.readouterr().out


@pytest.mark.cluster
def test_pictures_and_benchmarks_over_a_cluster(tmp_path_factory):
    state, folder = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("pictures")
    for i in range(3):
        Image.fromarray(imresize(noise(9, 11, 3), 6)).save(folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    own = ("AWS_", "RAY_", "MLFLOW_", "SRCLUSTER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    try:
        cluster = local.start(["s3", "ray"], state)
        environment |= cluster.environment()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            url = f"s3://{cluster.bucket}/in"
            for path in folder.iterdir():
                storage.upload(path, f"{url}/{path.name}")
            typed = [[url, "--out", f"{url}/large", "--model", "bicubic"], ["bicubic", "--on", str(folder)]]
            (folder / "bad.png").unlink()
            done = [
                subprocess.run(
                    [sys.executable, "-m", f"srcluster.{verb}", *words],
                    env=environment, capture_output=True, text=True, timeout=200,
                )
                for verb, words in zip(("upscale", "evaluate"), typed, strict=True)
            ]  # fmt: skip
            assert [one.returncode for one in done] == [2, 0], done
            assert "bad.png is not a picture" in done[0].stdout
            assert storage.names(f"{url}/large") == ["0.png", "1.png", "2.png"]
            made = Image.open(io.BytesIO(storage.read(f"{url}/large/0.png")))
            assert made.size == (264, 216)
            assert "bicubic" in done[1].stdout
    finally:
        local.stop(local.SERVICES, state, timeout_s=0)
