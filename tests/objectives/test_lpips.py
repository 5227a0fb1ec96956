"""LPIPS against its definition, written out anew, on random weights of VGG16's shape; what gives it; what shows it."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from srcluster.data import benchmarks
from srcluster.errors import UserError
from srcluster.evaluate.__main__ import evaluate
from srcluster.fetch import __main__ as fetch
from srcluster.models import build
from srcluster.models.saved import save_weights
from srcluster.models.tiling import restore
from srcluster.objectives import lpips, weights
from srcluster.objectives.lpips import LPIPS
from srcluster.objectives.weights import convolutions
from srcluster.recipe import MEASURES, Interpolation, recipe_from
from srcluster.train.settings import resolve_recipe
from srcluster.training.measures import lpips_at_hand

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""The convolutions' indices in torchvision's `features`, up to each pooling."""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> SimpleNamespace:
    """Files of weights and heads, side by side, and what is in them."""
    folder, random = tmp_path_factory.mktemp("lpips"), torch.Generator().manual_seed(0)
    vgg, heads = {}, {}
    for _, index, (before, after) in convolutions():
        vgg[f"features.{index}.weight"] = torch.randn(after, before, 3, 3, generator=random) / (2 * before**0.5)
        vgg[f"features.{index}.bias"] = torch.randn(after, generator=random) / 3
    for layer, count in enumerate((64, 128, 256, 512, 512)):
        heads[f"lin{layer}.model.1.weight"] = torch.rand(1, count, 1, 1, generator=random)
    torch.save(vgg, folder / "vgg16.pth")
    torch.save(heads, folder / "vgg.pth")
    return SimpleNamespace(weights=folder / "vgg16.pth", heads=folder / "vgg.pth", vgg=vgg, lins=heads)


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch):
    for name in ("WEIGHTS", "DATA", "STORAGE", "CACHE"):
        monkeypatch.delenv(f"SRCLUSTER_{name}", raising=False)


@pytest.fixture
def catalogued(monkeypatch, files) -> None:
    """As if the files were those that torchvision and the authors publish."""
    monkeypatch.setitem(weights._TORCHVISION, "vgg16", ("vgg16-397923af.pth", sha256(files.weights)))
    monkeypatch.setattr(lpips, "_HEADS_SHA256", sha256(files.heads))


def upto(files: SimpleNamespace, index: int, folder: Path) -> str:
    """A file that ends with one of the convolutions."""
    part = {name: tensor for name, tensor in files.vgg.items() if int(name.split(".")[1]) <= index}
    torch.save(part, folder / "part.pth")
    return str(folder / "part.pth")


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    hr = random.integers(0, 256, (37, 32, 3), dtype=np.uint8)
    return np.clip(hr + random.normal(0, 20, hr.shape), 0, 255).astype(np.uint8), hr


def defined(sr: np.ndarray, hr: np.ndarray, files: SimpleNamespace, layers: int, heads: bool) -> float:
    """The authors' steps: [-1, 1], shift and scale, five slices of VGG16, unit vectors, 1 x 1 convolutions, means."""
    x = torch.from_numpy(np.stack([sr, hr])).permute(0, 3, 1, 2) / 127.5 - 1
    x = (x - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    total = 0.0
    for layer, block in enumerate(BLOCKS[:layers]):
        x = F.max_pool2d(x, 2) if layer else x
        for index in block:
            x = F.relu(
                F.conv2d(x, files.vgg[f"features.{index}.weight"], files.vgg[f"features.{index}.bias"], padding=1)
            )
        a, b = x / x.norm(dim=1, keepdim=True)
        head = files.lins[f"lin{layer}.model.1.weight"]
        total += F.conv2d((a - b)[None] ** 2, head if heads else torch.ones_like(head)).mean().item()
    return total


def test_it_is_as_defined(files, pair, catalogued):
    distance = LPIPS(str(files.weights))
    assert distance.name == "lpips_vgg"
    assert distance(*pair) == pytest.approx(defined(*pair, files, layers=5, heads=True), rel=1e-4)
    assert distance(pair[1], pair[1]) == 0


@pytest.mark.parametrize(
    ("last", "layers", "name"),
    [
        (28, 5, "lpips_vgg_plain"),
        (26, 4, "lpips_vgg_1234_plain"),
        (14, 3, "lpips_vgg_123_plain"),
        (7, 2, "lpips_vgg_12_plain"),
        (2, 1, "lpips_vgg_1_plain"),
    ],
)
def test_other_weights_give_the_plain_variant_as_far_as_they_reach(files, pair, tmp_path, last, layers, name):
    distance = LPIPS(upto(files, last, tmp_path), "torchvision")
    assert distance.name == name
    assert distance(*pair) == pytest.approx(defined(*pair, files, layers, heads=False), rel=1e-4)
    assert distance(pair[1], pair[1]) == 0


def test_weights_that_end_before_the_first_layer(files, tmp_path):
    with pytest.raises(UserError, match=r"has no features.2.weight \(conv1_2\)"):
        LPIPS(upto(files, 0, tmp_path), "caffe")


def test_the_heads_are_those_that_fetch_leaves():
    source = fetch.SOURCES["lpips-vgg"]
    assert (source.file, source.sha256) == (lpips._HEADS, lpips._HEADS_SHA256)


def test_heads_are_found_where_weights_are(files, catalogued, monkeypatch, tmp_path):
    alone = shutil.copy(files.weights, tmp_path / "alone.pth")
    with pytest.raises(UserError, match=rf"no {tmp_path}/vgg.pth: get .* `python -m srcluster.fetch lpips-vgg"):
        LPIPS(str(alone))
    for variable, below in (("WEIGHTS", ""), ("DATA", ""), ("STORAGE", "weights")):
        place = tmp_path / variable / below / "vgg.pth"
        place.parent.mkdir(parents=True)
        shutil.copy(files.heads, place)
        with monkeypatch.context() as patch:
            patch.setenv(f"SRCLUSTER_{variable}", str(tmp_path / variable))
            assert LPIPS(str(alone)).name == "lpips_vgg"
    monkeypatch.setenv("SRCLUSTER_WEIGHTS", str(files.weights))
    assert LPIPS("auto").name == "lpips_vgg"
    monkeypatch.setattr(lpips, "_HEADS_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"vgg.pth has SHA-256 .*, and should have 00"):
        LPIPS("auto")


def test_it_is_a_column_of_all_that_is_written(files, tmp_path, capsys):
    folder = tmp_path / "One"
    folder.mkdir()
    Image.fromarray(benchmarks.load("Wheel3", 4).images[0].hr[80:144, 120:176]).save(folder / "piece.png")
    weights = upto(files, 7, tmp_path)
    evaluate(
        ["nearest", f"original={folder}"],
        on=[str(folder)],
        lpips=weights,
        lpips_input="caffe",
        json=tmp_path / "all.json",
        csv=tmp_path / "all.csv",
        address="none",
    )
    (image,) = benchmarks.load(str(folder), 4).images
    expected = LPIPS(weights, "caffe")(image.lr.repeat(4, 0).repeat(4, 1), image.hr)
    nearest, original = json.loads((tmp_path / "all.json").read_text())["models"]
    assert nearest["means"]["lpips_vgg_12_plain/One"] == expected > 0
    assert original["means"]["lpips_vgg_12_plain/One"] == 0
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert [float(row["lpips_vgg_12_plain"]) for row in rows] == [expected, 0]
    printed = capsys.readouterr().out
    assert "LPIPS" in printed
    assert "vgg 12 plain" in printed
    assert f"{expected:.4f}" in printed


def test_real_weights_rank_interpolations(real_weights):
    distance = LPIPS(str(real_weights / "vgg16_features_conv2_2.pth"), "caffe")
    assert distance.name == "lpips_vgg_12_plain"
    image = benchmarks.load("Wheel3", 4).images[0]
    nearest, bicubic = (
        distance(restore(build(Interpolation(kernel=kernel), 4), image.lr), image.hr)
        for kernel in ("nearest", "bicubic")
    )
    assert nearest > bicubic > 0


def test_it_stands_beside_psnr_where_psnr_is_no_judge(catalogued, files, tmp_path, monkeypatch, capsys):
    spec = {"kind": "compact", "features": 4, "convs": 1}
    plain = recipe_from({"name": "plain", "steps": 1, "model": spec, "data": {"shards": str(tmp_path)}})
    features = {"kind": "vgg", "weights": str(files.weights)}
    features = {"kind": "sum", "terms": {"eye": {"objective": features}, "pixel": {"objective": {"kind": "l1"}}}}
    perceptual = recipe_from({**plain.model_dump(mode="json"), "objective": features})
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 52, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    model = tmp_path / "model.safetensors"
    save_weights(model, build(plain.model, 4).state_dict(), perceptual)

    def measured() -> list[str]:
        lpips_at_hand.cache_clear()
        evaluate([str(model)], on=[str(tmp_path)], json=tmp_path / "all.json", address="none")
        (said,) = json.loads((tmp_path / "all.json").read_text())["models"]
        return [key.partition("/")[0] for key in said["means"]]

    assert measured() == list(MEASURES)
    assert "LPIPS is not measured: there is no vgg16-397923af.pth: get the whole file" in capsys.readouterr().out
    monkeypatch.setenv("SRCLUSTER_WEIGHTS", str(files.weights))
    assert measured() == [*MEASURES, "lpips_vgg"]
    assert resolve_recipe(perceptual).evaluation.metrics == (*MEASURES, "lpips_vgg")
    assert resolve_recipe(plain).evaluation.metrics == tuple(MEASURES)
    lpips_at_hand.cache_clear()
