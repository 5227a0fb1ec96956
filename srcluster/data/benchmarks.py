"""The benchmark images: Set5, Set14, BSD100, the wheels' Wheel3, or any folder of pictures."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from srcluster.data.listing import Photo
from srcluster.data.photos import HELD_OUT, data_folder, find, in_wheels
from srcluster.data.pictures import PhotoError, decode
from srcluster.pixels.resize import imresize

NAMED = ("Set5", "Set14", "BSD100")


@dataclass(frozen=True)
class BenchmarkImage:
    """An original, and the LR image that a network is to restore it from.

    Attributes:
        name: The file's name without its ending.
        hr: H x W x 3 uint8, its sides cut to multiples of the scale.
        lr: H/scale x W/scale x 3 uint8, MATLAB's bicubic imresize of it.
        grey: Whether the file is grey: it is measured on its one plane.
    """

    name: str
    hr: np.ndarray
    lr: np.ndarray
    grey: bool


@dataclass(frozen=True)
class Benchmark:
    """Images that networks are compared on; `digest` names their very pixels."""

    name: str
    source: str
    images: tuple[BenchmarkImage, ...]
    digest: str


def at_hand() -> tuple[str, ...]:
    """The named benchmarks below SRCLUSTER_DATA; without it, Wheel3."""
    folder = data_folder()
    named = tuple(name for name in NAMED if folder and (folder / name).is_dir())
    return named or ("Wheel3",)


def load(name: str, scale: int) -> Benchmark:
    """Read a benchmark.

    Args:
        name: Set5, Set14, BSD100 or any other folder under SRCLUSTER_DATA; Wheel3; a folder; or an s3:// URL.
        scale: HR pixels per LR pixel.

    Raises:
        PhotoError: There is no such benchmark, or a picture of it can't be measured.
        StorageError: It can't be reached.
    """
    photos = in_wheels(HELD_OUT) if name == "Wheel3" else find(name)
    images = tuple(_image(photo, scale) for photo in photos)
    pixels = hashlib.sha256()
    for image in images:
        pixels.update(repr(image.hr.shape).encode() + image.hr.tobytes())
    return Benchmark(PurePosixPath(name).name, name, images, pixels.hexdigest()[:12])


def load_all(names: Iterable[str], scale: int) -> list[Benchmark]:
    """Read several benchmarks, as `load` does."""
    return [load(name, scale) for name in names]


def _image(photo: Photo, scale: int) -> BenchmarkImage:
    encoded = photo.read()
    pixels = decode(encoded, photo.name)
    height, width = (length - length % scale for length in pixels.shape[:2])
    # The shaved border must fit in, and SSIM's and the checkerboard's windows.
    if min(height, width) < max(11, 4 * scale) + 2 * scale:
        raise PhotoError(f"{photo.name} of {width} x {height} pixels is too small to measure at x{scale}")
    hr = np.ascontiguousarray(pixels[:height, :width])
    # What counts is the file: the papers convert an RGB file without colour to YCbCr like any other.
    grey = Image.open(io.BytesIO(encoded)).mode in ("1", "L", "LA")
    return BenchmarkImage(PurePosixPath(photo.name).stem, hr, imresize(hr, Fraction(1, scale)), grey)
