"""The checkerboard measure on lattices of known strength, and on photographs that have none."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from srcluster.data import benchmarks
from srcluster.pixels.checkerboard import checkerboard
from srcluster.pixels.metrics import Pair
from srcluster.pixels.resize import imresize, to_uint8

LEVELS = (0.25, 0.5, 1, 2, 4, 8)


def lattice(shape: tuple[int, ...], kind: str, period: int = 4) -> np.ndarray:
    """H x W x 1, of zero mean and unit mean square."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    match kind:
        case "chessboard":
            plane = (-1.0) ** (x + y)
        case "columns":
            plane = np.cos(2 * np.pi * x / period)
        case "grid":
            plane = ((x % period == 0) | (y % period == 0)).astype(float)
        case "any":
            plane = np.random.default_rng(0).standard_normal((period, period))[y % period, x % period]
    plane -= plane.mean()
    return (plane / plane.std())[..., None]


def eight_bits(image: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Originals and what bicubic makes of them, not rounded, and away from black and white, which clip."""
    images = benchmarks.load("Wheel3", 4).images
    return [(0.8 * image.hr + 25, 0.8 * imresize(image.lr.astype(float), 4) + 25) for image in images]


def read(sr: np.ndarray, hr: np.ndarray, scale: int = 4) -> float:
    """The measure of images that are rounded to 8 bits first, as a network's are."""
    return checkerboard(Pair(eight_bits(sr), eight_bits(hr), scale))


@pytest.mark.parametrize("kind", ["chessboard", "columns", "grid", "any"])
def test_a_lattice_reads_its_strength(photographs, kind):
    for hr, bicubic in photographs:
        for base, within_db in ((bicubic, 0.1), (hr, 0.5)):
            pattern = lattice(hr.shape, kind)
            readings = [read(base + level * pattern, hr) for level in LEVELS]
            assert readings == sorted(readings)
            assert readings == pytest.approx([10 * np.log10(1 + level**2) for level in LEVELS], abs=within_db)


def test_a_lattice_on_edges_and_texture_alone_reads_up_to_3_db_less(photographs):
    for hr, bicubic in photographs:
        steepness = np.hypot(*np.gradient(bicubic.mean(axis=2)))[..., None]
        pattern = lattice(hr.shape, "any") * steepness / np.sqrt(np.mean(steepness**2))
        readings = np.array([read(bicubic + level * pattern, hr) for level in (1, 2, 4)])
        expected = 10 * np.log10(1 + np.array([1, 2, 4]) ** 2)
        assert np.all(readings < expected)
        assert np.all(readings > expected - 3)


@pytest.mark.parametrize("scale", [2, 3])
def test_other_scales(photographs, scale):
    hr, bicubic = photographs[0]
    sr = bicubic + 2 * lattice(hr.shape, "grid", scale)
    assert read(sr, hr, scale) == pytest.approx(10 * np.log10(1 + 4), abs=0.1)


def test_a_small_image(photographs):
    hr, bicubic = (image[200:224, 200:231] for image in photographs[0])
    sr = bicubic + 4 * lattice(hr.shape, "chessboard")
    assert read(sr, hr) == pytest.approx(10 * np.log10(1 + 16), abs=0.5)


def test_texture_is_no_lattice(photographs):
    for hr, bicubic in photographs:
        assert read(hr, hr) == 0
        assert read(hr[:, ::-1], hr) < 0.5
        assert read(bicubic, hr) < 0.02
        assert read(hr + np.random.default_rng(0).normal(0, 5, hr.shape), hr) < 0.5
        y, x = np.mgrid[: hr.shape[0], : hr.shape[1]]
        for period, angle in ((3.5, 0), (4.6, 0), (6, 0), (2.2, 1.57), (4, 0.5)):
            stripes = 10 * np.sin(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)))
            assert read(bicubic + stripes[..., None], hr) < 0.02


def test_a_lattice_of_the_original_is_its_own(photographs):
    hr, bicubic = photographs[1]
    fabric = hr + 5 * lattice(hr.shape, "grid")
    blurred = 0.7 * fabric + 0.3 * np.roll(fabric, 1, axis=1)
    assert read(fabric, hr) > 10
    assert read(blurred, fabric) < 0.5
    assert read(bicubic, fabric) < 0.02
    # It hides nothing either.
    sr = bicubic + 2 * lattice(hr.shape, "any")
    assert read(sr, fabric) == pytest.approx(10 * np.log10(1 + 4), abs=0.5)


def test_flat_images():
    grey = np.full((100, 90, 3), 128.0)
    assert read(grey + 9, grey) == 0
    assert read(grey + 10 * lattice(grey.shape, "grid"), grey) == pytest.approx(20.04, abs=0.1)


def test_the_overlap_of_transposed_convolutions():
    """Odena et al.: a 3 x 3 kernel of stride 2 writes some pixels twice and others once; a 4 x 4 kernel does not."""
    image = benchmarks.load("Wheel3", 4).images[1]

    def restored(side: int) -> np.ndarray:
        plane = torch.from_numpy(image.lr).permute(2, 0, 1)[:, None].float() / 255
        for _ in range(2):
            crop = {"padding": 1, "output_padding": int(side == 3)}
            plane = F.conv_transpose2d(plane, torch.full((1, 1, side, side), 4 / side**2), stride=2, **crop)
        return to_uint8(plane[:, 0]).permute(1, 2, 0).numpy()

    assert read(restored(3), image.hr) > 25
    assert read(restored(4), image.hr) < 0.5


def test_what_is_not_comparable():
    image = np.zeros((23, 40, 3), np.uint8)
    with pytest.raises(ValueError, match="16 x 16"):
        read(image, image)
    with pytest.raises(ValueError, match="differ in size"):
        read(image[1:], image)
