"""The pictures of a sweep show what it is about, whatever one of its trials came to."""

import pytest

from srcluster.recipe import Criterion
from srcluster.sweep.plots import _limits, curves, parameters


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([29.5, 29.4, 29.0, 28.8, 28.5, 12.7], (27.1, 29.5)),  # One diverged.
        ([19.1, 18.2, 16.8, 15.8], (15.8, 28.4)),  # All are below bicubic.
        ([29.5], (28.4, 29.5)),
    ],
)
def test_an_axis_shows_most_values_and_bicubic(values, limits):
    assert _limits(values, 28.4, Criterion("psnr_y/Set5")) == pytest.approx(limits, abs=0.01)
    mirrored = _limits([-value for value in values], -28.4, Criterion("lpips/Set5", higher=False))
    assert mirrored == pytest.approx((-limits[1], -limits[0]), abs=0.01)


def test_one_trial_is_enough_for_a_picture():
    assert curves({"lr=1": [(10, 28.4)]}, 28.4, Criterion("psnr_y/Set5")).size > (500, 300)
    assert parameters([({"lr": "1"}, 28.4)], 28.4, Criterion("psnr_y/Set5")) is None
