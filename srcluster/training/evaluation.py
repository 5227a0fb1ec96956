"""How well a network restores a benchmark."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from srcluster.data.benchmarks import Benchmark, BenchmarkImage
from srcluster.models.network import Network, device_of
from srcluster.models.tiling import restore
from srcluster.pixels.metrics import Pair
from srcluster.training.measures import STANDARD, Functions
from srcluster.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Score:
    """How well one image was restored: its name, the value of each measure, and the restored image."""

    image: str
    values: dict[str, float]
    sr: np.ndarray
    """H x W x 3 uint8."""


def compare(image: BenchmarkImage, sr: np.ndarray, scale: int, measures: Functions = STANDARD) -> Score:
    """Measure a restored image, H x W x 3 uint8, against its original."""
    pair = Pair(sr, image.hr, scale, image.grey)
    return Score(image.name, {name: function(pair) for name, function in measures.items()}, sr)


def means(benchmark: str, scores: Iterable[Score]) -> dict[str, float]:
    """`psnr_y/Set5` and so on: each measure's mean over the images."""
    scores = list(scores)
    return {f"{metric}/{benchmark}": fmean(score.values[metric] for score in scores) for metric in scores[0].values}


def evaluate(
    network: Network,
    benchmark: Benchmark,
    scale: int,
    measures: Functions = STANDARD,
    ranks: Ranks = ALONE,
    pictures: int = 0,
    on_picture: Callable[[BenchmarkImage, np.ndarray], None] = lambda image, sr: None,
) -> dict[str, float]:
    """Restore and measure every image of a benchmark, each by one of the ranks; the means, on every rank.

    Args:
        network: In eval mode; it computes in float32, whatever it was trained in.
        scale: HR pixels per LR pixel.
        pictures: How many of the first images rank 0 restores whoever measures them, for `on_picture`.
        on_picture: Is called on rank 0 with an image and its SR.
    """
    table = torch.zeros(len(benchmark.images), len(measures), dtype=torch.float64, device=device_of(network))
    mine = ranks.share(range(len(benchmark.images)))
    shown = range(min(pictures, len(benchmark.images))) if ranks.rank == 0 else ()
    for number in sorted({*mine, *shown}):
        image = benchmark.images[number]
        sr = restore(network, image.lr)
        if number in shown:
            on_picture(image, sr)
        if number in mine:
            values = compare(image, sr, scale, measures).values
            table[number] = torch.tensor(list(values.values()), dtype=torch.float64)
    columns = ranks.gather(table).sum(0).mean(0).tolist()
    return {f"{metric}/{benchmark.name}": mean for metric, mean in zip(measures, columns, strict=True)}
