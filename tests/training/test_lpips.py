"""LPIPS against its definition, written out anew, on random weights of VGG16's shape."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from srcluster.data.benchmarks import Benchmark, BenchmarkImage
from srcluster.models import build
from srcluster.objectives.weights import WeightsError, convolutions
from srcluster.recipe import Interpolation
from srcluster.training.evaluation import evaluate, means
from srcluster.training.lpips import lpips

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""The convolutions' indices in torchvision's `features`, up to each pooling."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> SimpleNamespace:
    """Files of weights and heads, and what is in them."""
    folder, random = tmp_path_factory.mktemp("lpips"), torch.Generator().manual_seed(0)
    vgg, heads = {}, {}
    for _, index, (before, after) in convolutions():
        vgg[f"features.{index}.weight"] = torch.randn(after, before, 3, 3, generator=random) / (2 * before**0.5)
        vgg[f"features.{index}.bias"] = torch.randn(after, generator=random) / 3
    for layer, count in enumerate((64, 128, 256, 512, 512)):
        heads[f"lin{layer}.model.1.weight"] = torch.rand(1, count, 1, 1, generator=random)
    torch.save(vgg, folder / "vgg16.pth")
    torch.save(heads, folder / "heads.pth")
    return SimpleNamespace(weights=str(folder / "vgg16.pth"), heads=str(folder / "heads.pth"), vgg=vgg, lins=heads)


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


@pytest.mark.parametrize(
    ("layers", "heads", "name"),
    [
        (5, True, "lpips_vgg"),
        (2, True, "lpips_vgg_12"),
        (2, False, "lpips_vgg_12_plain"),
        (5, False, "lpips_vgg_plain"),
    ],
)
def test_it_is_as_defined(files, pair, layers, heads, name):
    found = lpips(files.heads if heads else None, files.weights, normalization="torchvision", layers=layers)
    assert list(found) == [name]
    assert found[name](*pair) == pytest.approx(defined(*pair, files, layers, heads), rel=1e-4)
    assert found[name](pair[1], pair[1]) == 0


def test_it_is_one_more_column_of_an_evaluation(files):
    measure = lpips(None, files.weights, normalization="caffe", layers=1)
    hr = np.random.default_rng(0).integers(0, 256, (32, 28, 3), dtype=np.uint8)
    image = BenchmarkImage("noise", hr, hr[::4, ::4], grey=False)
    scores = evaluate(build(Interpolation(kernel="nearest"), 4), Benchmark("noise", "", (image,), ""), 4, measure)
    assert means("noise", scores)["lpips_vgg_1_plain/noise"] == measure["lpips_vgg_1_plain"](scores[0].sr, hr) > 0


def test_heads_are_for_the_network_that_they_were_learned_on(files):
    with pytest.raises(WeightsError, match=r"torchvision's VGG16, and .*vgg16.pth is another: leave them out"):
        lpips(files.heads, files.weights, normalization="caffe", layers=1)
    with pytest.raises(WeightsError, match=r"has not the heads .* get them with `python -m srcluster.fetch lpips-vgg`"):
        lpips(files.weights, files.weights, normalization="torchvision", layers=1)
