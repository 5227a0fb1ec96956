"""What is evaluated, and how: a network or a folder of pictures, over the images of benchmarks."""

import re
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from srcluster.cluster.choose import starmap
from srcluster.data import photos
from srcluster.data.benchmarks import Benchmark, BenchmarkImage
from srcluster.data.listing import Photo
from srcluster.errors import UserError
from srcluster.models import shipped
from srcluster.models.find import ambiguous, find_model, holds_model
from srcluster.models.network import Network, device_of
from srcluster.models.tiling import memory_at_hand, restore
from srcluster.progress import progress
from srcluster.training.evaluation import Score, compare
from srcluster.training.measures import Functions


@dataclass(frozen=True)
class Candidate:
    """What is evaluated: a network, or the pictures that another one made.

    Attributes:
        network: In eval mode; None for pictures.
        pictures: By name.
        perceptual: Whether the network is trained for more than pixels: see `Recipe.perceptual`.
    """

    label: str
    network: Network | None
    pictures: dict[str, Photo]
    perceptual: bool = False


@dataclass(frozen=True)
class Result:
    """How well a candidate restores, and what that costs.

    Attributes:
        scores: By benchmark.
        parameters: Of the network; None for pictures, as the next two.
        seconds_per_megapixel: Of HR, from LR in memory to SR in memory.
        peak_bytes: What restoring took at most: GPU memory, or how much the process grew.
    """

    label: str
    scores: dict[str, list[Score]]
    parameters: int | None = None
    seconds_per_megapixel: float | None = None
    peak_bytes: int | None = None


def candidate(words: str, scale: int, allow_import: Collection[str] = ()) -> Candidate:
    """The candidate that an argument names: `MODEL`, or `LABEL=MODEL`.

    Raises:
        UserError: There is none.
    """
    label, equals, name = words.partition("=")
    if not equals or Path(words).exists():
        label, name = "", words
    if Path(name).is_dir() and not holds_model(name):
        if name in shipped.names():
            raise ambiguous(name, f"./{name}")
        pictures = {photo.name: photo for photo in photos.find(str(Path(name).resolve()))}
        return Candidate(label or Path(name).resolve().name, None, pictures)
    found = find_model(name, scale, allow_import)
    return Candidate(label or found.name, found.network, {}, found.recipe is not None and found.recipe.perceptual)


def evaluate(
    entry: Candidate,
    benchmarks: Sequence[Benchmark],
    scale: int,
    address: str,
    gpus: float,
    measures: Functions,
) -> Result:
    """Restore and measure every image.

    Args:
        benchmarks: Sets of originals and their LR, at the scale.
        scale: HR pixels per LR pixel.
        address: Of a Ray cluster on which each image is a task, or `none`.

    Raises:
        UserError: A picture is missing, or is not the one; or the cluster can't be reached, or can't finish.
    """
    if entry.network is None:
        scores = {}
        for benchmark in benchmarks:
            pairs = _pictures(entry, benchmark, scale)
            scores[benchmark.name] = [compare(image, sr, scale, measures) for image, sr in pairs]
        return Result(entry.label, scores)
    calls = [(benchmark.name, image) for benchmark in benchmarks for image in benchmark.images]
    task, network = address != "none", entry.network
    if task:
        network = network.cpu()
    done: dict[tuple[str, str], _Done] = {}
    with progress(entry.label, len(calls), "images") as show:
        for one in starmap(_one, calls, address, shared=[network, measures, scale, task], gpus=gpus):
            done[one.benchmark, one.score.image] = one
            show(len(done), one.score.image)
    scores = {b.name: [done[b.name, image.name].score for image in b.images] for b in benchmarks}
    megapixels = sum(one.score.sr.shape[0] * one.score.sr.shape[1] for one in done.values()) / 1e6
    return Result(
        entry.label,
        scores,
        sum(parameter.numel() for parameter in network.parameters()),
        sum(one.seconds for one in done.values()) / megapixels,
        max(one.peak_bytes for one in done.values()),
    )


@dataclass(frozen=True)
class _Done:
    benchmark: str
    score: Score
    seconds: float
    peak_bytes: int


def _one(network: Network, measures: Functions, scale: int, task: bool, benchmark: str, image: BenchmarkImage) -> _Done:
    if task and torch.cuda.is_available():
        network = network.cuda()
    sr, seconds, peak_bytes = _restored(network, image, task)
    return _Done(benchmark, compare(image, sr, scale, measures), seconds, peak_bytes)


def _restored(network: Network, image: BenchmarkImage, task: bool) -> tuple[np.ndarray, float, int]:
    # The first picture of a process pays for what is set up once.
    restore(network, image.lr[:16, :16])
    with _peak_bytes(device_of(network)) as peak:
        began = time.perf_counter()
        sr = restore(network, image.lr, memory_at_hand(network, task))
        seconds = time.perf_counter() - began
    return sr, seconds, peak[0]


@contextmanager
def _peak_bytes(device: torch.device) -> Iterator[list[int]]:
    """The most memory that is taken in the context, in a list of one number."""
    peak = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device)
        return
    process, over = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], process.memory_info().rss - before)
            if over.wait(0.005):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _pictures(entry: Candidate, benchmark: Benchmark, scale: int) -> Iterator[tuple[BenchmarkImage, np.ndarray]]:
    """Each image and its picture, found by name: baby.png, baby_x4.png, babyx4_SR.png; in a folder Set5 or in none."""
    found = [(Path(name), photo) for name, photo in entry.pictures.items()]
    inside = [one for one in found if benchmark.name.lower() in (part.lower() for part in one[0].parts[:-1])]
    folders = any("/" in image.name for image in benchmark.images)
    chosen = inside or [one for one in found if folders or len(one[0].parts) == 1]
    names = sorted((image.name for image in benchmark.images), key=len, reverse=True)
    by_image: dict[str, list[Photo]] = {name: [] for name in names}
    for path, photo in chosen:
        # The longest: bird_nest_x4.png is no bird.
        if owner := next((name for name in names if _is_version(path, name, scale)), None):
            by_image[owner].append(photo)
    for image in benchmark.images:
        matches = by_image[image.name]
        matches = [
            photo for photo in matches if Path(photo.name).stem.lower() == Path(image.name).name.lower()
        ] or matches
        if len(matches) != 1:
            there = " and ".join(photo.name for photo in matches) or "none"
            raise UserError(
                f"{entry.label} must have one picture of {benchmark.name}'s {image.name}, called {image.name}.png or "
                f"{image.name}_x{scale}.png and the like, and has {there}"
            )
        sr = matches[0].decode()
        if sr.shape != image.hr.shape:
            (height, width), (hr_height, hr_width) = sr.shape[:2], image.hr.shape[:2]
            raise UserError(
                f"{matches[0].name} of {entry.label} has {width} x {height} pixels, and the original has {hr_width} x "
                f"{hr_height} where its sides are cut to multiples of {scale}: enlarge that one's LR by {scale}"
            )
        yield image, sr


def _is_version(path: Path, name: str, scale: int) -> bool:
    """Whether a file's name is an image's, or goes on with the scale, or with neither a letter nor a digit."""
    *folders, last = name.lower().split("/")
    if [part.lower() for part in path.parts[:-1]][-len(folders) or len(path.parts) :] != folders:
        return False
    return re.fullmatch(rf"{re.escape(last)}(x{scale})?(?![^\W_]).*", path.stem, re.IGNORECASE) is not None
