"""MATLAB's imresize: known values, its symmetries, and NumPy against torch."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srcluster.pixels.resize import imresize, resize, resize_matrix, to_uint8

SCALES = [2, 3, 4, Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(3, 2), Fraction(2, 5)]


def matlab_contributions(length: int, scale: float) -> np.ndarray:
    """The bicubic weights as imresize.m computes them: index by index, counted from 1."""

    def cubic(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    shrinking = scale < 1
    kernel_width = 4 / scale if shrinking else 4
    matrix = np.zeros((math.ceil(length * scale - 1e-9), length))
    mirror = [*range(1, length + 1), *range(length, 0, -1)]
    for x in range(1, len(matrix) + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(u - kernel_width / 2)
        taps = range(left, left + math.ceil(kernel_width) + 2)
        weights = [scale * cubic(scale * (u - tap)) if shrinking else cubic(u - tap) for tap in taps]
        for tap, weight in zip(taps, weights, strict=True):
            matrix[x - 1, mirror[(tap - 1) % (2 * length)] - 1] += weight / sum(weights)
    return matrix


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("length", [1, 5, 12, 37])
def test_weights_are_those_of_imresize(length, scale):
    expected = matlab_contributions(length, float(scale))
    np.testing.assert_allclose(resize_matrix(length, Fraction(scale)), expected, atol=1e-9)


def test_weights_of_a_quarter_are_the_antialiased_cubic():
    row = resize_matrix(64, Fraction(1, 4))[8]
    offset = (np.arange(64) - (8 * 4 + 1.5)) / 4
    near, far = np.abs(offset) <= 1, (np.abs(offset) > 1) & (np.abs(offset) <= 2)
    cubic = near * (1.5 * abs(offset) ** 3 - 2.5 * offset**2 + 1)
    cubic += far * (-0.5 * abs(offset) ** 3 + 2.5 * offset**2 - 4 * abs(offset) + 2)
    np.testing.assert_allclose(row, cubic / 4, atol=1e-15)


def test_enlarging_twice_uses_the_keys_kernel():
    row = resize_matrix(16, Fraction(2))[16]
    assert row[6:10] == pytest.approx([-0.0234375, 0.2265625, 0.8671875, -0.0703125], abs=1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kernel", ["nearest", "bilinear", "bicubic"])
def test_a_constant_stays_and_size_is_the_ceiling(scale, kernel):
    image = np.full((13, 7, 3), 77, np.uint8)
    resized = imresize(image, scale, kernel)
    assert resized.shape == (-(-13 * scale // 1), -(-7 * scale // 1), 3)
    assert (resized == 77).all()


def test_nearest_repeats_pixels():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (imresize(image, 4, "nearest") == image.repeat(4, 0).repeat(4, 1)).all()


def test_uint8_is_rounded_half_up_once():
    image = np.array([[0, 1], [0, 1]], np.uint8)
    assert imresize(image, Fraction(1, 2)).tolist() == [[1]]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from(SCALES), st.sampled_from(["nearest", "bilinear", "bicubic"])
)
def test_torch_equals_numpy(height, width, scale, kernel):
    image = np.random.default_rng(height * 41 + width).random((height, width, 3))
    tensor = torch.from_numpy(image).float().permute(2, 0, 1)
    resized = resize(tensor, scale, kernel).permute(1, 2, 0)
    np.testing.assert_allclose(resized.numpy(), imresize(image, scale, kernel), atol=1e-5)


def test_autocast_does_not_touch_it():
    image = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = resize(image, 4)
    assert torch.equal(inside, resize(image, 4))


def test_to_uint8_is_im2uint8():
    values = torch.tensor([-0.1, 0.0, 0.5 / 255, 0.49 / 255, 0.5, 1.0, 1.2])
    assert to_uint8(values).tolist() == [0, 0, 1, 0, 128, 255, 255]


def test_what_was_resized_without_gradient_is_resized_with_it():
    with torch.inference_mode():
        resize(torch.rand(1, 3, 19, 23), 2)
    lr = torch.rand(1, 3, 19, 23, requires_grad=True)
    resize(lr, 2).sum().backward()
    assert lr.grad is not None
