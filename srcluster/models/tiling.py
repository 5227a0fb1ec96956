"""Whole pictures through a network, on small memory: in tiles that overlap by as far as the network sees.

A network says as `reach` how far that is, in LR pixels: 4 for SRCNN 9-5-5 and 40 for SRResNet. With so much overlap an
HR pixel is made from all that it is made from in the whole picture, and tiles end at the picture's own border, so that
padding is where it was. What is left to differ is the order of sums in float32. The price is arithmetic: a tile of
side t costs ((t + 2 reach) / t)^2 of what it gives.
"""

import functools
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import isqrt
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from srcluster.models.network import Network, device_of
from srcluster.models.reach import reach_of

_SMALLEST, _ENOUGH, _LARGEST = 16, 256, 1024
"""Sides of a tile in LR pixels: the least, however little memory there is; the most where a network's reach is short,
since there is little overlap to save, and smaller tiles are as fast on a tenth of the memory; and the most of all."""


_BYTES_PER_PIXEL: WeakKeyDictionary[Network, dict[int, float]] = WeakKeyDictionary()
"""By network and channels of the picture."""


class SelfEnsemble(Network):
    """A network's mean over the eight symmetries of the square (Lim et al., EDSR, CVPR-W 2017, section 3.4)."""

    def __init__(self, network: Network):
        super().__init__()
        self.network, self.scale, self.reach = network, network.scale, reach_of(network)
        self.multiple = getattr(network, "multiple", 1)

    def forward(self, lr: Tensor) -> Tensor:
        made = (self._made(lr, turns, mirrored) for turns in range(4) for mirrored in (False, True))
        return functools.reduce(Tensor.add_, made) / 8

    def _made(self, lr: Tensor, turns: int, mirrored: bool) -> Tensor:
        seen = torch.rot90(lr.flip(-1) if mirrored else lr, turns, (-2, -1))
        made = torch.rot90(self.network(seen), -turns, (-2, -1))
        return made.flip(-1) if mirrored else made


def restore(network: Network, lr: np.ndarray, memory_bytes: float | None = None) -> np.ndarray:
    """One LR picture through a network.

    Args:
        network: In eval mode.
        lr: h x w x C, uint8 or uint16.
        memory_bytes: What the network may take besides the result; by default `memory_at_hand`.

    Returns:
        (scale h) x (scale w) x C, of the same type, clipped and rounded half up.
    """
    return np.concatenate(list(bands(network, lr, tile_side(network, lr.shape[2], memory_bytes, max(lr.shape[:2])))))


@torch.inference_mode()
def bands(
    network: Network, lr: np.ndarray, side: int, on_tile: Callable[[float], None] = lambda done: None
) -> Iterator[np.ndarray]:
    """What `restore` gives, from top to bottom, a row of tiles at a time.

    Args:
        network: In eval mode.
        lr: h x w x C, uint8 or uint16.
        side: Largest side of a tile in LR pixels, without its overlap.
        on_tile: Called after each tile with the share of the picture that is done.
    """
    height, width, _ = lr.shape
    largest = np.iinfo(lr.dtype).max
    rows, columns = (_spans(total, side, network) for total in (height, width))
    for i, row in enumerate(rows):
        band = []
        for j, column in enumerate(columns):
            tile = _tile(network, lr[row.seen, column.seen], largest)
            down, right = (
                slice(s.skipped * network.scale, (s.skipped + s.length) * network.scale) for s in (row, column)
            )
            sr = tile[..., down, right].clamp(0, 1).mul(largest).add(0.5).floor()
            band.append(sr[0].permute(1, 2, 0).cpu().numpy().astype(lr.dtype))
            on_tile((i + (j + 1) / len(columns)) / len(rows))
        yield np.concatenate(band, axis=1)


def tile_side(network: Network, channels: int = 3, memory_bytes: float | None = None, picture: int = _LARGEST) -> int:
    """The side of the tiles, in LR pixels without overlap, that a network has the memory and the use for; 16 at least.

    Args:
        network: It is tried on a small picture.
        memory_bytes: What it may take; by default `memory_at_hand`.
        picture: The longest side of the picture in LR pixels; one that fits needs no overlap.
    """
    if memory_bytes is None:
        memory_bytes = memory_at_hand(network)
    seen = isqrt(int(memory_bytes / _bytes_per_pixel(network, channels)))
    if picture <= min(seen, _ENOUGH):
        return picture
    reach = reach_of(network)
    # Of 32 times the reach, overlap is an eighth of the arithmetic.
    return min(max(seen - 2 * reach, _SMALLEST), max(32 * reach, _ENOUGH), _LARGEST)


def memory_at_hand(network: Network, task: bool = False) -> float:
    """Half of the bytes that are free: on a network's GPU, or in this process's machine or container.

    Of these a `task`, which is one of several at a time on its machine, takes a core's share.
    """
    if (device := device_of(network)).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2
    free: float = psutil.virtual_memory().available
    # A container may have less than its machine; its page cache counts as used there, and can be had again.
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        free = min(free, max(limit - used, limit / 4))
    return free / 2 / (psutil.cpu_count() or 1 if task else 1)


def _number(path: Path) -> int | None:
    """What a control group's file says; None where there is no such file, or it says `max`."""
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


class _Span:
    """One tile along one axis: `seen` is what goes in; of what comes out, `length` pixels after `skipped` are kept."""

    def __init__(self, start: int, stop: int, reach: int, total: int):
        self.seen = slice(max(start - reach, 0), min(stop + reach, total))
        self.skipped, self.length = start - self.seen.start, stop - start


def _spans(total: int, side: int, network: Network) -> list[_Span]:
    """Tiles of about equal lengths; a single one where all of it fits in with the overlap."""
    if total <= side:
        return [_Span(0, total, 0, total)]
    multiple = getattr(network, "multiple", 1)
    reach = -(-reach_of(network) // multiple) * multiple
    count = 1 if total <= side + 2 * reach else -(-total // max(side, multiple))
    edges = [*(total * i // count // multiple * multiple for i in range(count)), total]
    return [_Span(start, stop, reach, total) for start, stop in pairwise(edges)]


def _tile(network: Network, lr: np.ndarray, largest: int) -> Tensor:
    pixels = torch.from_numpy(lr.astype(np.float32)).to(device_of(network))
    return network(pixels.permute(2, 0, 1)[None] / largest).float()


def _bytes_per_pixel(network: Network, channels: int) -> float:
    """Of memory for an LR pixel. A network is tried once, since that costs a twentieth of a small picture."""
    known = _BYTES_PER_PIXEL.setdefault(network, {})
    if channels not in known:
        known[channels] = _try(network, channels)
    return known[channels]


@torch.inference_mode()
def _try(network: Network, channels: int) -> float:
    """The input and twice the output of the widest layer, which may be copied to another memory format, and the result
    until it is 8 bits again.

    It is 1.2 to 1.7 times what was measured, with SRCNN, SRResNet, its other upsamplers and bicubic.
    """
    side = 16
    most = 0

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal most
        most = max(most, inputs[0].numel() + 2 * output.numel())

    hooks = [module.register_forward_hook(note) for module in network.modules() if not list(module.children())]
    try:
        network(torch.zeros(1, channels, side, side, device=device_of(network)))
    finally:
        for hook in hooks:
            hook.remove()
    return 4 * (most / side**2 + 4 * channels * network.scale**2)
