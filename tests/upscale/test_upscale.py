"""Upscaling as a person does it: every kind of picture, folders, what is there already, what is broken."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from srcluster import local, models, storage
from srcluster.data.pictures import read_picture
from srcluster.data.png import write_png
from srcluster.errors import UserError
from srcluster.models.export import export
from srcluster.models.saved import save_weights
from srcluster.pixels.resize import imresize
from srcluster.recipe import SRCNN, Interpolation, Residual, recipe_from
from srcluster.upscale.__main__ import upscale

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def run(*pictures: Path, out: Path, model: str = "bicubic", **options) -> None:
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
    with pytest.raises(UserError, match="--model"):
        upscale([str(tmp_path / "a.png")], out=str(tmp_path / "out"))


EXPORTED = [
    Interpolation(kernel="bicubic"),
    SRCNN(kind="srcnn", init="he"),
    Residual(kind="residual", features=4, blocks=1),
    Residual(kind="residual", features=4, blocks=1, upsampler="deconv3", base="bilinear", output="linear"),
    Residual(kind="residual", features=4, blocks=1, upsampler="nearest_conv", activation="relu", output="tanh"),
]


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
@pytest.mark.parametrize("spec", EXPORTED, ids=str)
def test_an_exported_network_takes_any_size(tmp_path, spec, ending):
    network, path = models.build(spec, 3).eval(), tmp_path / f"a.{ending}"
    if ending == "onnx":
        pytest.importorskip("onnxscript")
        runtime = pytest.importorskip("onnxruntime")
    export(network, path)
    if ending == "onnx":
        session = runtime.InferenceSession(path)

        def exported(lr):
            return torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])
    else:
        exported = torch.export.load(path).module()
    for shape in ((1, 3, 7, 31), (3, 3, 20, 20), (1, 3, 3, 3)):
        lr = torch.rand(shape)
        torch.testing.assert_close(exported(lr), network(lr), rtol=0, atol=1e-4)


def test_an_export_needs_its_packages(tmp_path, monkeypatch):
    network = models.build(Interpolation(), 4)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"srcluster\[export\]"):
        export(network, tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"\.onnx or \.pt2"):
        export(network, tmp_path / "a.pt")


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
