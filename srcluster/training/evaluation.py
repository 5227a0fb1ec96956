"""Benchmark PSNR, SSIM and checkerboard of a network."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import nn

from srcluster.data.benchmarks import Benchmark, BenchmarkImage
from srcluster.pixels.checkerboard import checkerboard
from srcluster.pixels.metrics import Channels, psnr, ssim
from srcluster.pixels.resize import to_uint8
from srcluster.training.ranks import Ranks

__all__ = ["Score", "compare", "evaluate", "evaluate_together", "means", "restore"]

_METRICS = ("psnr_y", "psnr_rgb", "ssim_y", "checkerboard_db")


@dataclass(frozen=True)
class Score:
    """How well one image was restored.

    Attributes:
        image: Its name.
        values: By metric: psnr_y, psnr_rgb, ssim_y, checkerboard_db, and what else is measured.
        sr: H x W x 3 uint8.
    """

    image: str
    values: dict[str, float]
    sr: np.ndarray


@torch.inference_mode()
def restore(network: nn.Module, lr: np.ndarray) -> np.ndarray:
    """One LR image, h x w x 3 uint8, through a network in eval mode: H x W x 3 uint8.

    It computes in float32, whatever it was trained in.
    """
    network.eval()
    parameter = next(network.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    image = torch.from_numpy(lr).to(device).permute(2, 0, 1)[None].float() / 255
    return to_uint8(network(image))[0].permute(1, 2, 0).cpu().numpy()


def evaluate(network: nn.Module, benchmark: Benchmark, scale: int) -> list[Score]:
    """Restore and measure every image of a benchmark, by the protocol of `pixels.metrics`.

    Args:
        network: From LR, B x 3 x h x w in [0, 1], to SR.
        benchmark: The images.
        scale: HR pixels per LR pixel, and the pixels that are shaved off each border.
    """
    return [compare(image, restore(network, image.lr), scale) for image in benchmark.images]


def evaluate_together(network: nn.Module, benchmark: Benchmark, scale: int, ranks: Ranks) -> dict[str, float]:
    """The means of `evaluate`, each image measured by one of the ranks; on every rank."""
    device = next(network.parameters()).device
    table = torch.zeros(len(benchmark.images), len(_METRICS), dtype=torch.float64, device=device)
    for number in ranks.share(range(len(benchmark.images))):
        image = benchmark.images[number]
        values = compare(image, restore(network, image.lr), scale).values
        table[number] = torch.tensor([values[metric] for metric in _METRICS])
    columns = ranks.gather(table).sum(0).mean(0).tolist()
    return {f"{metric}/{benchmark.name}": mean for metric, mean in zip(_METRICS, columns, strict=True)}


def compare(image: BenchmarkImage, sr: np.ndarray, scale: int) -> Score:
    """Measure a restored image, H x W x 3 uint8, against its original."""
    luma: Channels = "grey" if image.grey else "y"
    values = {
        "psnr_y": psnr(sr, image.hr, shave=scale, channels=luma),
        "psnr_rgb": psnr(sr, image.hr, shave=scale, channels="rgb"),
        "ssim_y": ssim(sr, image.hr, shave=scale, channels=luma),
        "checkerboard_db": checkerboard(sr, image.hr, shave=scale, scale=scale),
    }
    return Score(image.name, values, sr)


def means(benchmark: str, scores: Iterable[Score]) -> dict[str, float]:
    """`psnr_y/Set5` and so on: each metric's mean over the images."""
    scores = list(scores)
    return {f"{metric}/{benchmark}": fmean(score.values[metric] for score in scores) for metric in scores[0].values}
