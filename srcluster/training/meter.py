"""How fast a training goes: patches a second, time left, and how much of the device it uses.

A new metric of a step is a key of `Meter.metrics`; the loss and its parts are those of `loop.Step.metrics`. Whatever is
reported reaches MLflow under its key.
"""

import copy
import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from srcluster.recipe import Recipe
from srcluster.training.precision import Precision


class Meter:
    """The speed of a training since its beginning, and since the metrics were last taken.

    Args:
        network: What is trained; its work is counted.
        world: Ranks that share each batch.
        last: The step that it ends with.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, precision: Precision, world: int, step: int, last: int):
        self.batch, self.last, self.device = recipe.data.batch, last, precision.device
        peak = world * _peak_flops(precision.device, precision.dtype, torch.get_num_threads())
        self.mfu_of_patch_per_s = _flops_of_patch(network, recipe.data.patch // recipe.scale, precision) / peak
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.first_step, self.first_s, self.warm = step, time.perf_counter(), False
        self.restart(step)

    def restart(self, step: int) -> None:
        self.step, self.began_s, self.waited_s = step, time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in the context as a wait for data."""
        began_s = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - began_s

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics of a step, which is later than that of the last call."""
        now_s = time.perf_counter()
        patches_per_s = (step - self.step) * self.batch / (now_s - self.began_s)
        # Evaluations and checkpoints are a part of this one.
        step_s = (now_s - self.first_s) / (step - self.first_step)
        metrics = {
            "train/patches_per_s": patches_per_s,
            "train/data_wait_share": self.waited_s / (now_s - self.began_s),
            "train/time_left_s": (self.last - step) * step_s,
            "train/mfu": patches_per_s * self.mfu_of_patch_per_s,
        }
        if self.device.type == "cuda":
            metrics["train/gpu_memory_bytes"] = float(torch.cuda.max_memory_allocated(self.device))
        self.restart(step)
        if not self.warm:
            # The first steps compiled the network: the time left is reckoned from those after them.
            self.first_step, self.first_s, self.warm = step, self.began_s, True
        return metrics


def _flops_of_patch(network: nn.Module, side: int, precision: Precision) -> int:
    """FLOPs of the forward and backward pass of an LR patch `side` pixels wide."""
    # A copy, since batch norm keeps what it sees.
    network = copy.deepcopy(network)
    lr = torch.zeros(1, 3, side, side, device=precision.device)
    with torch.random.fork_rng(), FlopCounterMode(display=False) as counter, precision.autocast():
        network(lr).sum().backward()
    return counter.get_total_flops()


@functools.cache
def _peak_flops(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """FLOPs a second of a product of square matrices, with so many threads where it is a CPU."""
    side = 8192 if device.type == "cuda" else 1024
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    times_s = []
    # The fastest of many: beside other processes most of them are interrupted.
    for _ in range(30):
        began_s = time.perf_counter()
        # To look at an element waits for the device.
        (matrix @ matrix)[0, 0].item()
        times_s.append(time.perf_counter() - began_s)
    return 2 * side**3 / min(times_s)
