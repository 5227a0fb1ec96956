"""Benchmark folders as people have them: the right pictures in each layout, or one sentence why not."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srcluster.data import benchmarks
from srcluster.data.pictures import PhotoError
from srcluster.models import build
from srcluster.pixels.resize import imresize
from srcluster.recipe import Interpolation
from srcluster.training.evaluation import evaluate
from srcluster.training.measures import STANDARD


def picture(seed: int, height: int = 48, width: int = 60) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    return imresize(noise, 6)


HR = {"baby": picture(0), "bird": picture(1), "matrix4": picture(2)}

LARGE = picture(3, 192, 240)


def save(folder: Path, name: str, pixels: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


def lay_out(folder: Path, hr: str, lr: str = "", scales: tuple[int, ...] = (2, 4)) -> str:
    """A folder with HR and LR pictures by patterns of {name} and {scale}."""
    for name, pixels in HR.items():
        for scale in scales:
            save(folder, hr.format(name=name, scale=scale), pixels)
            if lr:
                save(folder, lr.format(name=name, scale=scale), imresize(pixels, Fraction(1, scale)))
    return str(folder)


LAYOUTS = {
    "flat": ("{name}.png", ""),
    "EDSR": ("HR/{name}.png", "LR_bicubic/X{scale}/{name}x{scale}.png"),
    "torchSR": ("DIV2K_valid_HR/{name}.png", "DIV2K_valid_LR_bicubic/X{scale}/{name}x{scale}.png"),
    "BasicSR": ("GTmod12/{name}.png", "LRbicx{scale}/{name}.png"),
    "KAIR": ("original/{name}.bmp", "LRbicx{scale}/{name}x{scale}.png"),
    "SelfExSR": ("image_SRF_{scale}/{name}_SRF_{scale}_HR.png", "image_SRF_{scale}/{name}_SRF_{scale}_LR.png"),
    "RCAN": ("HR/{name}_HR_x{scale}.png", "LR/{name}_LRBI_x{scale}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_numbers(tmp_path, layout):
    scales = (4,) if layout == "RCAN" else (2, 4)
    source = lay_out(tmp_path / "Set5", *LAYOUTS[layout], scales)
    if layout == "SelfExSR":
        save(tmp_path, "Set5/image_SRF_4/baby_SRF_4_SRCNN.png", HR["bird"])
    for rubbish in (
        "._baby.png",
        ".DS_Store",
        "Thumbs.db",
        "__MACOSX/HR/._baby.png",
        "@eaDir/baby.png/SYNO.png",
        "a.txt",
    ):
        (tmp_path / "Set5" / rubbish).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "Set5" / rubbish).write_bytes(b"none")
    read = benchmarks.load(source, 4)
    assert (read.name, [image.name for image in read.images]) == ("Set5", list(HR))
    for image in read.images:
        assert (image.hr == HR[image.name]).all()
        assert (image.lr == imresize(image.hr, Fraction(1, 4))).all()
    assert read.notes[-1:] == (
        ("the x4 LR that is there and the LR that is computed are the same bytes",) * (layout != "flat")
    )
    flat = benchmarks.load(lay_out(tmp_path / "flat" / "Set5", "{name}.png"), 4)
    network = build(Interpolation(), 4).eval()
    assert evaluate(network, read, 4) == evaluate(network, flat, 4)


def test_lr_that_is_given_and_differs_says_so_in_the_name(tmp_path):
    source = lay_out(tmp_path / "Set5", *LAYOUTS["EDSR"])
    lr = imresize(HR["bird"], Fraction(1, 4))
    lr[0, 0] = np.where(lr[0, 0] > 99, lr[0, 0] - 3, lr[0, 0] + 3)
    save(tmp_path / "Set5", "LR_bicubic/X4/birdx4.png", lr)
    computed, given = (benchmarks.load(source, 4, which) for which in ("computed", "given"))
    assert computed.notes == given.notes
    assert "not the LR that is computed, in 1 of 3 pictures, by up to 3 levels" in computed.notes[0]
    assert (computed.name, given.name) == ("Set5", "Set5-given-LR")
    assert (given.images[1].lr == lr).all()
    assert computed.digest != given.digest
    assert benchmarks.load(source, 2, "given").name == "Set5"
    with pytest.raises(PhotoError, match="brings no LR picture of baby for x8"):
        benchmarks.load(str(tmp_path / "Set5"), 8, "given")


def test_the_originals_that_lr_was_made_of_are_taken(tmp_path):
    """BasicSR's folder has both the originals and GTmod12, of which its LR is."""
    lay_out(tmp_path / "Set5", *LAYOUTS["BasicSR"])
    for name, pixels in HR.items():
        save(tmp_path, f"Set5/original/{name}.png", np.pad(pixels, ((0, 3), (0, 5), (0, 0)), mode="edge"))
    computed, given = (benchmarks.load(str(tmp_path / "Set5"), 4, which) for which in ("computed", "given"))
    assert [image.hr.shape for image in computed.images] == [(48, 64, 3)] * 3
    assert [image.hr.shape for image in given.images] == [(48, 60, 3)] * 3
    assert "sides of its originals are cut to multiples of 12" in given.notes[0]
    assert "same bytes" in given.notes[1]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"baby.png": LARGE, "babyx4.png": imresize(LARGE, Fraction(1, 4))}, r"twice, baby \(240 x 192\) and babyx4"),
        ({"a.png": LARGE, "out/a_SR.png": imresize(imresize(LARGE, Fraction(1, 4)), 4)}, "twice, a .* and out/a_SR"),
        ({"a/baby.png": HR["baby"], "b/baby.png": HR["baby"]}, "same picture twice, a/baby .* and b/baby"),
        ({"HR/baby.png": HR["baby"], "other/bird.png": HR["bird"]}, "originals in HR and other pictures .* other/bird"),
        ({"X_HR/a.png": HR["baby"], "Y_HR/a.png": HR["bird"]}, "originals in X_HR and in Y_HR: name one of them"),
        ({"LR_bicubic/X4/babyx4.png": HR["baby"]}, "has LR pictures alone"),
        ({"baby.png": HR["baby"], "baby.bmp": HR["bird"]}, "several originals of one name: baby.bmp and baby.png"),
        ({"i/a_SRF_2_HR.png": HR["baby"]}, "has pictures for x2, and no originals for x4"),
        ({"i/a_SRF_4_HR.png": HR["baby"], "b.png": HR["bird"]}, "and others, such as b.png"),
        ({"HR/a.png": HR["baby"], "LR/X4/a.png": HR["baby"], "LR/ax4.png": HR["baby"]}, "two LR pictures of a"),
        ({"tiny.png": HR["baby"][:20]}, "too small to measure at x4"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_sentence(tmp_path, files, sentence):
    for name, pixels in files.items():
        save(tmp_path / "set", name, pixels)
    with pytest.raises(PhotoError, match=sentence) as refused:
        benchmarks.load(str(tmp_path / "set"), 4)
    assert "\n" not in str(refused.value)


def test_a_folder_of_lr_is_no_benchmark(tmp_path):
    lay_out(tmp_path / "Set5", *LAYOUTS["EDSR"])
    with pytest.raises(PhotoError, match="is a folder of LR pictures"):
        benchmarks.load(str(tmp_path / "Set5/LR_bicubic/X4"), 4)
    assert benchmarks.load(str(tmp_path / "Set5/HR"), 4).name == "Set5"


def test_pictures_and_benchmarks_of_one_name_are_told_apart(tmp_path):
    for folder, seeds in {"a/Set5/HR": (1, 2), "b/Set5/HR": (3, 4)}.items():
        for sub, seed in zip("xy", seeds, strict=True):
            save(tmp_path, f"{folder}/{sub}/0001.png", picture(seed))
    one, other = benchmarks.load_all([str(tmp_path / "a/Set5"), str(tmp_path / "b/Set5/HR")], 4)
    assert [image.name for image in one.images] == ["x/0001", "y/0001"]
    assert (one.name, other.name) == ("a-Set5", "b-Set5")
    metrics = evaluate(build(Interpolation(), 4).eval(), one, 4)
    assert metrics["psnr_y/a-Set5"] > 0
    with pytest.raises(PhotoError, match="named twice"):
        benchmarks.load_all([str(tmp_path / "a/Set5")] * 2, 4)


@pytest.mark.parametrize(
    ("folder", "name"), [("B100", "BSD100"), ("BSDS100", "BSD100"), ("urban100", "Urban100"), ("manga109", "Manga109")]
)
def test_twins_of_a_name_are_found(tmp_path, monkeypatch, folder, name):
    lay_out(tmp_path / folder, "HR/{name}.png")
    monkeypatch.setenv("SRCLUSTER_DATA", str(tmp_path))
    assert benchmarks.at_hand() == (name,)
    assert benchmarks.load(name, 4).name == benchmarks.load(folder.upper(), 4).name == name


@pytest.mark.parametrize(
    ("scale", "published"), [(2, (33.66, 30.24, 29.56)), (3, (30.39, 27.55, 27.21)), (4, (28.42, 26.00, 25.96))]
)
def test_bicubic_is_the_published_baseline_at_every_scale(data_sets, scale, published):
    """Set14's is 0.01 to 0.02 dB below it at x2 and x3, where the sides of its pictures are cut."""
    network = build(Interpolation(), scale).eval()
    measure = {"psnr_y": STANDARD["psnr_y"]}
    for name, value in zip(("Set5", "Set14", "BSD100"), published, strict=True):
        metrics = evaluate(network, benchmarks.load(name, scale), scale, measure)
        assert metrics[f"psnr_y/{name}"] == pytest.approx(value, abs=0.02)
