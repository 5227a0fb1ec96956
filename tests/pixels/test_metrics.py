"""PSNR and SSIM against definitions and against scikit-image, which the papers' authors did not use."""

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from srcluster.pixels.metrics import psnr, ssim


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    hr = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return np.clip(hr + random.integers(-9, 10, hr.shape), 0, 255).astype(np.uint8), hr


def test_equal_images_are_infinitely_close(pair):
    assert psnr(pair[1], pair[1], shave=4) == math.inf
    assert ssim(pair[1], pair[1], shave=4) == pytest.approx(1)


def test_psnr_of_a_known_error():
    hr = np.full((30, 30, 3), 100, np.uint8)
    assert psnr(hr + 5, hr, shave=4, channels="rgb") == pytest.approx(10 * math.log10(255**2 / 25))
    # 5 levels of RGB are 5 * 219/255 = 4.29 of Y; 101.88 and 106.18 round to 102 and 106.
    assert psnr(hr + 5, hr, shave=4) == pytest.approx(10 * math.log10(255**2 / 16))
    assert psnr(hr + 5, hr, shave=4, channels="grey") == pytest.approx(10 * math.log10(255**2 / 25))


def test_the_border_does_not_count(pair):
    sr, hr = pair
    changed = sr.copy()
    changed[:4] = changed[-4:] = 0
    changed[:, :4] = changed[:, -4:] = 0
    assert psnr(changed, hr, shave=4) == psnr(sr, hr, shave=4)
    assert psnr(changed, hr, shave=3) < psnr(sr, hr, shave=3)


def test_ssim_is_that_of_wang(pair):
    sr, hr = pair
    expected = structural_similarity(
        sr[4:-4, 4:-4],
        hr[4:-4, 4:-4],
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    # scikit-image crops 5 pixels as well, and truncates its Gaussian at the same 11 x 11.
    assert ssim(sr, hr, shave=4, channels="rgb") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("sr", "message"),
    [
        (np.zeros((40, 49, 3), np.uint8), "differ in size"),
        (np.zeros((40, 50, 3), np.float32), "uint8"),
        (np.zeros((40, 50), np.uint8), "differ in size"),
    ],
)
def test_what_is_not_comparable(pair, sr, message):
    with pytest.raises(ValueError, match=message):
        psnr(sr, pair[1], shave=4)


def test_too_much_shaved(pair):
    with pytest.raises(ValueError, match="nothing is left"):
        psnr(*pair, shave=20)
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(*pair, shave=16)
