"""The benchmark images: Set5, Set14, BSD100, the wheels' Wheel3, or any folder of pictures."""

import functools
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from srcluster import storage
from srcluster.data.layouts import Original, check_distinct, name_parts, originals
from srcluster.data.listing import Listing, Photo
from srcluster.data.photos import HELD_OUT, data_folder, find, in_wheels
from srcluster.data.pictures import PhotoError, decode
from srcluster.data.pipeline import degrade_by_steps
from srcluster.pixels.resize import imresize
from srcluster.recipe import Recipe
from srcluster.recipe.pipeline import Step

NAMED = ("Set5", "Set14", "BSD100", "Urban100", "Manga109")

_TWINS = {"b100": "BSD100", "bsds100": "BSD100"} | {name.lower(): name for name in NAMED}
"""What the named benchmarks are called elsewhere, in lower case."""


_DRAWS = 5
"""Sets the draws of degraded benchmarks apart from those of training."""


@dataclass(frozen=True)
class BenchmarkImage:
    """An original, and the LR image that a network is to restore it from.

    Attributes:
        name: The file's name without its ending, below its folder where there are several.
        hr: H x W x 3 uint8, its sides cut to multiples of the scale.
        lr: H/scale x W/scale x 3 uint8.
        grey: Whether the file is grey: MATLAB's protocol measures it on its one plane.
    """

    name: str
    hr: np.ndarray
    lr: np.ndarray
    grey: bool


@dataclass(frozen=True)
class Benchmark:
    """Images that networks are compared on; `digest` names their very pixels.

    Attributes:
        name: Of its metrics.
        source: Its folder.
        images: By name.
        digest: Of the originals and, where it is not ours, LR.
        notes: On its folder: how LR pictures in it differ from computed ones, which files are not taken.
    """

    name: str
    source: str
    images: tuple[BenchmarkImage, ...]
    digest: str
    notes: tuple[str, ...] = ()


def at_hand() -> tuple[str, ...]:
    """The named benchmarks below SRCLUSTER_DATA; without any, Wheel3."""
    return tuple(name for name in NAMED if _below_data(name)) or ("Wheel3",)


def _below_data(name: str) -> str | None:
    """The folder below SRCLUSTER_DATA of a benchmark, whatever twin of its name it bears."""
    folder, wanted = data_folder(), _TWINS.get(name.lower(), name)
    found = sorted(folder.iterdir()) if folder else []
    exact = [path for path in found if path.name == name]
    twins = [path for path in found if _TWINS.get(path.name.lower()) == wanted]
    return next((str(path) for path in (*exact, *twins) if path.is_dir()), None)


def load(name: str, scale: int, lr: Literal["computed", "given"] = "computed") -> Benchmark:
    """Read a benchmark.

    Args:
        name: Set5, Set14, BSD100 or any other folder under SRCLUSTER_DATA; Wheel3; a folder; or an s3:// URL.
        scale: HR pixels per LR pixel.
        lr: MATLAB's bicubic imresize of the originals; or the pictures that the folder brings, of which the
            benchmark's name says that they are given, if they differ.

    Raises:
        PhotoError: There is no such benchmark, or its pictures can't be measured or told from others.
    """
    source = name
    if not Path(name).exists() and not storage.is_s3(name):
        source = _below_data(name) or name
    listing = Listing(in_wheels(HELD_OUT), Counter()) if name == "Wheel3" else find(source)
    found = originals(source, listing, scale, lr == "given")
    decoded = [(one.name, *_decoded(one.photo)) for one in found]
    check_distinct(source, [(name, pixels) for name, pixels, _ in decoded])
    images = tuple(_image(*one, scale) for one in decoded)
    given, differing, note = _given(found, images, scale)
    if lr == "given" and len(given) < len(images):
        missing = next(image.name for image in images if image.name not in given)
        raise PhotoError(f"{source} brings no LR picture of {missing} for x{scale}, of the size that it should have")
    if lr == "given":
        images = tuple(replace(image, lr=given[image.name]) for image in images)
    pixels = hashlib.sha256()
    for image in images:
        pixels.update(repr(image.hr.shape).encode() + image.hr.tobytes())
        if lr == "given" and differing:
            pixels.update(image.lr.tobytes())
    called = name_parts(source)[-1]
    called = _TWINS.get(called.lower(), called) + "-given-LR" * (lr == "given" and bool(differing))
    cut = re.search(r"gtmod(\d+)", f"{source}/{found[0].photo.name}", re.IGNORECASE)
    sides = f"the sides of its originals are cut to multiples of {cut[1]}" if cut else ""
    notes = tuple(note for note in (listing.note, sides, note) if note)
    return Benchmark(called, source, images, pixels.hexdigest()[:12], notes)


def load_all(names: Iterable[str], scale: int, lr: Literal["computed", "given"] = "computed") -> list[Benchmark]:
    """Read several benchmarks, as `load` does; those of one name have their outer folders' names added."""
    loaded = [load(name, scale, lr) for name in names]
    for depth in range(2, 2 + max((len(name_parts(one.source)) for one in loaded), default=0)):
        count = Counter(one.name for one in loaded)
        loaded = [
            replace(one, name="-".join(name_parts(one.source)[-depth:])) if count[one.name] > 1 else one
            for one in loaded
        ]
    if doubled := [name for name, count in Counter(one.name for one in loaded).items() if count > 1]:
        raise PhotoError(f"the benchmark {doubled[0]} is named twice: name it once")
    return loaded


def load_for(recipe: Recipe) -> list[Benchmark]:
    """What a run measures: the validation pictures, if there are any, and its benchmarks.

    The first is what weights and trials are chosen by.
    """
    evaluation = recipe.evaluation
    validation = (evaluation.validation,) if evaluation.validated else ()
    loaded = _loaded((*validation, *evaluation.benchmarks), recipe.scale)
    if recipe.degradation.kind == "pipeline":
        return [_degraded(one, recipe.scale, recipe.degradation.steps) for one in loaded]
    return list(loaded)


def _degraded(benchmark: Benchmark, scale: int, steps: Sequence[Step]) -> Benchmark:
    """A benchmark whose LR is made by the steps of a recipe, with draws that are the same in each of its runs."""
    images = []
    for number, image in enumerate(benchmark.images):
        hr = torch.tensor(image.hr).permute(2, 0, 1)
        lr = degrade_by_steps(hr, scale, steps, np.random.default_rng([_DRAWS, number])).mul(255).round().byte()
        images.append(replace(image, lr=lr.permute(1, 2, 0).numpy()))
    digest = hashlib.sha256(b"".join([benchmark.digest.encode(), *(image.lr.tobytes() for image in images)]))
    return replace(benchmark, name=f"{benchmark.name}-degraded", images=tuple(images), digest=digest.hexdigest()[:12])


@functools.lru_cache(1)
def _loaded(names: tuple[str, ...], scale: int) -> tuple[Benchmark, ...]:
    """A sweep's trials follow each other in one process, and BSD100 takes seconds."""
    return tuple(load_all(names, scale))


def _decoded(photo: Photo) -> tuple[np.ndarray, bool]:
    """A picture's pixels, and whether it is grey."""
    encoded = photo.read()
    # What counts is the file: the papers convert an RGB file without colour to YCbCr like any other.
    return decode(encoded, photo.name), Image.open(io.BytesIO(encoded)).mode in ("1", "L", "LA")


def _image(name: str, pixels: np.ndarray, grey: bool, scale: int) -> BenchmarkImage:
    height, width = (length - length % scale for length in pixels.shape[:2])
    # The shaved border must fit in, and SSIM's and the checkerboard's windows.
    if min(height, width) < max(11, 4 * scale) + 2 * scale:
        raise PhotoError(f"{name} of {width} x {height} pixels is too small to measure at x{scale}")
    hr = np.ascontiguousarray(pixels[:height, :width])
    return BenchmarkImage(name, hr, imresize(hr, Fraction(1, scale)), grey)


def _given(
    found: list[Original], images: tuple[BenchmarkImage, ...], scale: int
) -> tuple[dict[str, np.ndarray], list[str], str]:
    """The LR pictures that fit their originals, the names of those that are not ours, and words about both."""
    brought = {one.name: one.lr.decode() for one in found if one.lr}
    computed = {image.name: image.lr for image in images}
    fitting = {name: pixels for name, pixels in brought.items() if pixels.shape == computed[name].shape}
    differing = [name for name, pixels in fitting.items() if not np.array_equal(pixels, computed[name])]
    if not brought:
        return fitting, differing, ""
    if len(fitting) < len(images):
        said = f"x{scale} LR of the right size is there for {len(fitting)} of {len(images)} originals"
    elif not differing:
        said = f"the x{scale} LR that is there and the LR that is computed are the same bytes"
    else:
        most = max(int(np.abs(fitting[name].astype(int) - computed[name]).max()) for name in differing)
        said = (
            f"the x{scale} LR that is there is not the LR that is computed, in {len(differing)} of {len(images)} "
            f"pictures, by up to {most} levels"
        )
    return fitting, differing, said
