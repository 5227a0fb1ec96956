import math

import numpy as np
import pytest

from srcluster.pixels.blur_kernels import blur_kernel, sinc_kernel


def moments(kernel: np.ndarray) -> np.ndarray:
    """Covariance of a kernel's weights over (x, y), in pixels."""
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    points = np.stack(np.meshgrid(offsets, offsets), -1)
    return np.einsum("hw,hwi,hwj->ij", kernel, points, points)


def test_a_gaussian_has_the_deviations_it_was_asked_for():
    assert moments(blur_kernel(41, (3, 2))) == pytest.approx(np.diag([9, 4]), abs=0.01)
    assert moments(blur_kernel(41, (3, 2), angle=math.pi / 2)) == pytest.approx(np.diag([4, 9]), abs=0.01)


def test_shapes_with_exponent_1():
    gaussian = blur_kernel(21, (2, 2))
    assert blur_kernel(21, (2, 2), shape="generalized", beta=1) == pytest.approx(gaussian)
    plateau = blur_kernel(21, (2, 2), shape="plateau", beta=1)
    assert plateau[10, 12] / plateau[10, 10] == pytest.approx(1 / 2)
    flat = blur_kernel(21, (4, 4), shape="generalized", beta=8)
    assert flat[10, 12] == pytest.approx(flat[10, 10], rel=1e-4)


def test_sinc_passes_what_is_below_its_cutoff():
    response = np.abs(np.fft.fft2(sinc_kernel(41, math.pi / 2), (256, 256)))[0]
    assert response[0] == pytest.approx(1)
    assert response[32] == pytest.approx(1, abs=0.1)
    assert response[96] == pytest.approx(0, abs=0.05)
