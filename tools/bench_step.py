"""Seconds of a training step: as the recipe says it, and in fp32 as a user would first write it.

    python tools/bench_step.py [RECIPE] [key=value ...]

Every variant trains the same network on the same batch, interleaved in one process, so that a machine that slows down
slows all of them; what is compared are the ratios of medians. `eager fp32` is plain PyTorch: default layout, no
compilation, an unfused optimiser, padding in every layer's place as the network does when it is not trained.
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.nn import functional as F

from srcluster import models
from srcluster.data.degradation import degrade, margin
from srcluster.recipe import Recipe, load
from srcluster.training.checkpoint import State
from srcluster.training.loop import Step, make_optimizer
from srcluster.training.precision import choose

ROUNDS = 12


def ours(recipe: Recipe, hr: torch.Tensor) -> Callable[[], None]:
    """The step of the training loop."""
    precision = choose(recipe.precision)
    network = precision.prepare(models.build(recipe.model, recipe.scale), recipe.compile)
    step = Step(recipe, State(network, make_optimizer(network, recipe.optimizer), average={}), precision)
    return lambda: step(hr)


def plain(recipe: Recipe, hr: torch.Tensor) -> Callable[[], None]:
    """A step of the same network in fp32, as in a tutorial."""
    network = models.build(recipe.model, recipe.scale).eval()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=False, foreach=False)

    def step() -> None:
        lr, target = degrade(hr, recipe.scale)
        loss = F.mse_loss(network(lr), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def peak_flops(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    a @ b
    began = time.perf_counter()
    for _ in range(5):
        a @ b
    return 5 * 2 * 2048**3 / (time.perf_counter() - began)


def main() -> None:
    name, *overrides = sys.argv[1:] or ["srcnn"]
    recipe = load(name, overrides)
    side = recipe.data.patch + 2 * margin(recipe.scale)
    hr = torch.randint(256, (recipe.data.batch, 3, side, side), dtype=torch.uint8)
    changed = {
        "eager fp32": None,
        "fp32": {"precision": "fp32", "compile": False},
        "fp32, compiled": {"precision": "fp32", "compile": True},
        "bf16": {"precision": "bf16", "compile": False},
        "bf16, compiled": {"precision": "bf16", "compile": True},
    }
    steps = {
        label: plain(recipe, hr) if change is None else ours(recipe.model_copy(update=change), hr)
        for label, change in changed.items()
    }
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    for round in range(ROUNDS + 2):
        for label, step in steps.items():
            began = time.perf_counter()
            step()
            if round >= 2:
                seconds[label].append(time.perf_counter() - began)
    print(f"{name} {' '.join(overrides)}: {recipe.data.batch} patches of {recipe.data.patch} px, ", end="")
    print(f"{torch.get_num_threads()} threads; matrix product: ", end="")
    print(*(f"{dtype} {peak_flops(getattr(torch, dtype)) / 1e9:.0f} GFLOP/s" for dtype in ("float32", "bfloat16")))
    base = median(seconds["eager fp32"])
    for label, times in seconds.items():
        middle = median(times)
        print(f"  {label:16} {middle:8.4f} s   {recipe.data.batch / middle:8.1f} patches/s   {base / middle:5.2f} x")


if __name__ == "__main__":
    main()
