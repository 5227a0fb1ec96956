"""The protocol: bicubic through the code that measures every network gives the papers' numbers."""

import numpy as np
import pytest

from srcluster.data import benchmarks
from srcluster.models import build
from srcluster.models.tiling import restore
from srcluster.recipe import Interpolation
from srcluster.training.evaluation import evaluate


@pytest.mark.parametrize(("name", "published"), [("Set5", 28.42), ("Set14", 26.00), ("BSD100", 25.96)])
def test_bicubic_is_the_published_baseline(data_sets, name, published):
    metrics = evaluate(build(Interpolation(kernel="bicubic"), 4), benchmarks.load(name, 4), 4)
    assert metrics[f"psnr_y/{name}"] == pytest.approx(published, abs=0.01)


def test_wheel3_is_where_it_was():
    metrics = evaluate(build(Interpolation(kernel="bicubic"), 4), benchmarks.load("Wheel3", 4), 4)
    assert metrics == pytest.approx(
        {
            "psnr_y/Wheel3": 29.6683,
            "psnr_y_basicsr/Wheel3": 29.6792,
            "psnr_rgb/Wheel3": 28.2024,
            "ssim_y/Wheel3": 0.8545,
            "ssim_y_basicsr/Wheel3": 0.8558,
            "checkerboard_db/Wheel3": 0,
        },
        abs=0.001,
    )


def test_kernels_rank_as_expected():
    wheel3 = benchmarks.load("Wheel3", 4)
    nearest, bilinear, bicubic = (
        evaluate(build(Interpolation(kernel=kernel), 4), wheel3, 4)["psnr_y/Wheel3"]
        for kernel in ("nearest", "bilinear", "bicubic")
    )
    assert nearest < bilinear < bicubic


def test_restored_images_are_8_bit():
    lr = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    sr = restore(build(Interpolation(kernel="nearest"), 4), lr)
    assert sr.dtype == np.uint8
    assert (sr == lr.repeat(4, 0).repeat(4, 1)).all()
