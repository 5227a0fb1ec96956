"""One picture enlarged: any kind, in tiles, written row by row."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn

from srcluster import storage
from srcluster.data.pictures import read_picture
from srcluster.data.png import write_png
from srcluster.errors import UserError
from srcluster.models.tiling import bands, memory_at_hand, tile_side
from srcluster.pixels.colour import luma
from srcluster.pixels.resize import resize

__all__ = ["AnyChannels", "Job", "Outcome", "enlarge"]


@dataclass(frozen=True)
class Job:
    """A picture file, and the PNG file that it becomes: paths or URLs."""

    source: str
    target: str


@dataclass(frozen=True)
class Outcome:
    """What became of a job: why it failed, or how many megapixels were made in how many seconds."""

    job: Job
    error: str = ""
    megapixels: float = 0.0
    seconds: float = 0.0


class AnyChannels(nn.Module):
    """A network for RGB, for pictures that are grey or have alpha as well.

    Grey goes through as RGB, and its luma comes back. Alpha is enlarged bicubically; colours are not weighted by it.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.scale, self.reach = network, network.scale, max(network.reach, 2)

    def forward(self, lr: Tensor) -> Tensor:
        grey, has_alpha = lr.shape[1] < 3, lr.shape[1] % 2 == 0
        colours = lr[:, :-1] if has_alpha else lr
        sr = self.network(colours.expand(-1, 3, -1, -1) if grey else colours)
        if grey:
            # In full range: what is white stays white.
            sr = (luma(*sr.split(1, dim=1)) - 16 / 255) * (255 / 219)
        return torch.cat([sr, resize(lr[:, -1:], self.scale)], dim=1) if has_alpha else sr


def enlarge(
    network: nn.Module,
    job: Job,
    memory_bytes: float | None,
    task: bool,
    tell: Callable[[float], None] = lambda done: None,
) -> Outcome:
    """Do a job; whatever is wrong with its files is an outcome.

    Args:
        network: For RGB, in eval mode.
        job: What is to be done.
        memory_bytes: What the network may take; None for half of what is free.
        task: Whether it is one of several at a time on this machine, and so takes a core's share.
        tell: Is told which part of the picture is done.
    """
    began = time.monotonic()
    if task and torch.cuda.is_available():
        network = network.cuda()
    network = AnyChannels(network).eval()
    try:
        picture = read_picture(storage.read(job.source), job.source)
        height, width, channels = picture.pixels.shape
        if memory_bytes is None:
            device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
            share = psutil.cpu_count() or 1 if task and device.type == "cpu" else 1
            memory_bytes = memory_at_hand(device) / share
        side = tile_side(network, channels, memory_bytes)
        size = (height * network.scale, width * network.scale)
        with storage.writing(job.target) as file:
            write_png(file, size, bands(network, picture.pixels, side, tell), picture.icc, picture.exif)
    except UserError as error:
        return Outcome(job, error=str(error))
    return Outcome(job, megapixels=size[0] * size[1] / 1e6, seconds=time.monotonic() - began)
