"""PSNR and SSIM against definitions and against scikit-image, which the papers' authors did not use."""

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from srcluster.pixels.metrics import METRICS, Pair, psnr, ssim


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    hr = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return np.clip(hr + random.integers(-9, 10, hr.shape), 0, 255).astype(np.uint8), hr


def measured(sr: np.ndarray, hr: np.ndarray, scale: int = 4, grey: bool = False) -> dict[str, float]:
    compared = Pair(sr, hr, scale, grey)
    return {name: function(compared) for name, function in METRICS.items()}


def test_equal_images_are_infinitely_close(pair):
    for name, value in measured(pair[1], pair[1]).items():
        assert value == (math.inf if name.startswith("psnr") else pytest.approx(1))


def test_psnr_of_a_known_error():
    hr = np.full((30, 30, 3), 100, np.uint8)
    values = measured(hr + 5, hr)
    assert values["psnr_rgb"] == pytest.approx(10 * math.log10(255**2 / 25))
    # 5 levels of RGB are 5 * 219/255 = 4.29 of Y; 101.88 and 106.18 round to 102 and 106.
    assert values["psnr_y"] == pytest.approx(10 * math.log10(255**2 / 16))
    assert values["psnr_y_basicsr"] == pytest.approx(10 * math.log10(255**2 / (5 * 219 / 255) ** 2))
    # A grey file is measured on its plane by the one protocol, and as RGB by the other.
    grey = measured(hr + 5, hr, grey=True)
    assert grey == values | {"psnr_y": pytest.approx(values["psnr_rgb"]), "ssim_y": grey["ssim_y"]}


def basicsr_luma(image: np.ndarray) -> np.ndarray:
    """What BasicSR's bgr2ycbcr gives, in its float32, of an RGB picture inside a border of 4 pixels."""
    bgr = image[4:-4, 4:-4, ::-1].astype(np.float32) / 255
    return ((np.dot(bgr, [24.966, 128.553, 65.481]) + 16) / 255).astype(np.float32) * np.float64(255)


def wang(a: np.ndarray, b: np.ndarray) -> float:
    # scikit-image crops 5 pixels as well, and truncates its Gaussian at the same 11 x 11.
    known = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return structural_similarity(a, b, **known)


def test_each_protocol_is_as_it_is_defined(pair):
    exact = [basicsr_luma(image) for image in pair]
    rounded = [np.round(plane) for plane in exact]
    values = measured(*pair)
    for name, (a, b) in {"_basicsr": exact, "": rounded}.items():
        assert values[f"psnr_y{name}"] == pytest.approx(10 * np.log10(255**2 / np.mean((a - b) ** 2)), abs=1e-4)
        assert values[f"ssim_y{name}"] == pytest.approx(wang(a, b), abs=1e-6)
    assert abs(values["psnr_y"] - values["psnr_y_basicsr"]) > 1e-3


def test_both_protocols_stay_what_they_are():
    """Golden values, of colours that are quantised."""
    y, x = np.mgrid[:48, :56]
    hr = np.stack([127 + 120 * np.sin(x / 3 + y / 9), 4 * y + x / 3, 255 - 3 * x], axis=2).clip(0, 255).astype(np.uint8)
    sr = (hr.astype(int) // 6 * 6 + 2).astype(np.uint8)
    assert measured(sr, hr) == pytest.approx(
        {
            "psnr_y": 47.60322,
            "psnr_y_basicsr": 48.17302,
            "psnr_rgb": 43.72215,
            "ssim_y": 0.99599,
            "ssim_y_basicsr": 0.99646,
        },
        abs=1e-4,
    )


def test_the_border_does_not_count(pair):
    sr, hr = pair
    changed = sr.copy()
    changed[:4] = changed[-4:] = 0
    changed[:, :4] = changed[:, -4:] = 0
    assert measured(changed, hr) == measured(sr, hr)
    assert all(value < measured(sr, hr, 3)[name] for name, value in measured(changed, hr, 3).items())


@pytest.mark.parametrize("shape", [(11, 11), (32, 75), (43, 42), (100, 12)])
def test_ssim_is_that_of_wang(shape):
    a, b = np.random.default_rng(0).uniform(0, 255, (2, *shape))
    assert ssim(a, b) == pytest.approx(wang(a, b), abs=1e-6)


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
        Pair(sr, pair[1], 4)


def test_too_much_shaved(pair):
    with pytest.raises(ValueError, match="nothing is left"):
        Pair(*pair, 20)
    with pytest.raises(ValueError, match="11 x 11"):
        measured(*pair, 16)
    assert psnr(*Pair(*pair, 19).rgb) > 0
