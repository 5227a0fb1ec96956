import numpy as np
import pytest
import torch

from srcluster.pixels.colour import luma, rgb_to_ycbcr, ycbcr_to_rgb


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [((0, 0, 0), (16, 128, 128)), ((1, 1, 1), (235, 128, 128)), ((1, 0, 0), (81.481, 90.203, 240))],
)
def test_matlab_values(rgb, ycbcr):
    assert [255 * plane for plane in rgb_to_ycbcr(*rgb)] == pytest.approx(ycbcr)


def test_there_and_back():
    rgb = np.random.default_rng(0).random((3, 5, 7))
    np.testing.assert_allclose(ycbcr_to_rgb(*rgb_to_ycbcr(*rgb)), rgb, atol=1e-12)


def test_tensors_and_arrays_agree():
    rgb = np.random.default_rng(0).random((3, 5, 7))
    np.testing.assert_allclose(luma(*torch.from_numpy(rgb)).numpy(), luma(*rgb))
