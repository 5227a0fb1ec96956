"""One picture enlarged: any kind, in tiles, written row by row."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from srcluster import storage
from srcluster.data.listing import Photo
from srcluster.data.pictures import read_picture
from srcluster.data.png import write_png
from srcluster.errors import UserError
from srcluster.models.network import Network
from srcluster.models.tiling import bands, memory_at_hand, tile_side
from srcluster.pixels.colour import luma
from srcluster.pixels.resize import resize

_SMALLEST_TILE = 16
"""Side in LR pixels of the last tile that is tried where memory does not suffice."""

_OUT_OF_MEMORY = re.compile("out of memory|not enough memory|allocate memory|ALLOC_FAILED", re.IGNORECASE)
"""What PyTorch says on CPUs, and the libraries of CUDA in errors of their own."""


@dataclass(frozen=True)
class Job:
    """A picture, and the path or URL of the PNG file that it becomes."""

    photo: Photo
    target: str


@dataclass(frozen=True)
class Outcome:
    """The result of a job: why it failed, or how many megapixels were made in how many seconds.

    `notes` are clauses that say what is left out of the file.
    """

    job: Job
    error: str = ""
    notes: tuple[str, ...] = ()
    megapixels: float = 0.0
    seconds: float = 0.0


class AnyChannels(Network):
    """A network for RGB, for pictures that are grey or have alpha as well.

    Grey goes through as RGB, and its luma comes back. Alpha is enlarged bicubically; colours are not weighted by it.
    """

    def __init__(self, network: Network):
        super().__init__()
        self.network = network
        self.scale, self.reach = network.scale, max(network.reach, 2)
        self.multiple = getattr(network, "multiple", 1)

    def forward(self, lr: Tensor) -> Tensor:
        grey, has_alpha = lr.shape[1] < 3, lr.shape[1] % 2 == 0
        colours = lr[:, :-1] if has_alpha else lr
        sr = self.network(colours.expand(-1, 3, -1, -1) if grey else colours)
        if grey:
            # In full range: what is white stays white.
            sr = (luma(*sr.split(1, dim=1)) - 16 / 255) * (255 / 219)
        return torch.cat([sr, resize(lr[:, -1:], self.scale)], dim=1) if has_alpha else sr


def enlarge(
    network: Network,
    job: Job,
    memory_bytes: float | None,
    task: bool,
    on_progress: Callable[[float], None] = lambda done: None,
) -> Outcome:
    """Do a job. A fault of its files, or too little memory, is an outcome and no error.

    Args:
        network: For RGB, in eval mode.
        memory_bytes: What the network may take; None for half of what is free.
        task: Whether it is one of several at a time on this machine, and so takes a core's share.
        on_progress: Is called with the part of the picture that is done.
    """
    began = time.monotonic()
    adapted = AnyChannels(network).eval()
    try:
        picture = read_picture(job.photo.read(), job.photo.name)
        height, width, channels = picture.pixels.shape
        size = (height * adapted.scale, width * adapted.scale)
        side: int | None = None
        while side is None or side >= _SMALLEST_TILE:
            try:
                if task and torch.cuda.is_available():
                    adapted.cuda()
                side = side or tile_side(adapted, channels, memory_bytes or memory_at_hand(adapted, task))
                with storage.writing(job.target) as file:
                    tiles = bands(adapted, picture.pixels, side, on_progress)
                    write_png(file, size, tiles, picture.icc, picture.exif, picture.colour)
                seconds = time.monotonic() - began
                return Outcome(job, notes=picture.notes, megapixels=size[0] * size[1] / 1e6, seconds=seconds)
            except (MemoryError, RuntimeError) as error:
                if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
                    raise
                side = (side or 0) // 2
            # Here the error, and with it what was allocated, is gone.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return Outcome(job, error=f"{job.photo.name} takes more memory than there is, even in the smallest tiles")
    except UserError as error:
        return Outcome(job, error=str(error))
