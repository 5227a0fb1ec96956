"""Seconds of a training step: as the recipe says it, in other precisions, and as a user would first write it.

    python tools/bench_step.py [RECIPE] [key=value ...]

Every variant trains on the same batch, interleaved in one process, so that a machine that slows down slows all of
them; what is compared are the ratios of medians. Beside them stand two that are not ours:

- `eager fp32`: the recipe's network in plain PyTorch: default layout, no compilation, an unfused optimiser, torch's own
  PReLU and pixel shuffle.
- `MSRResNet fp32`: what BasicSR's MSRResNet recipe computes in a step, for patches of the same size: no batch norm, L1,
  Adam, EMA, eager, default layout.

- `LR alone`: LR made of HR, which is a part of every step; its share of the step in bf16 is the last line.
- `bf16, no adversary`: where the objective has an adversarial term, the step without it.

`eager fp32` and `MSRResNet fp32` have no discriminator. `of peak` is the share of what a large bf16 matrix product does
on this machine, measured between the rounds; a step's arithmetic is counted by torch. Peak memory is that of a process
of its own.
"""

import copy
import itertools
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from srcluster import models, objectives
from srcluster.data.degradation import lr_and_hr, margin
from srcluster.models.residual import PReLU
from srcluster.models.upsamplers import SubPixel
from srcluster.recipe import Recipe, load
from srcluster.recipe.objective import Sum
from srcluster.training.adversary import Adversary
from srcluster.training.checkpoint import State
from srcluster.training.loop import Step
from srcluster.training.optimizer import make_optimizer
from srcluster.training.precision import choose
from srcluster.training.ranks import Ranks

ROUNDS = 8
CHANGES = {
    "fp32": {"precision": "fp32", "compile": False},
    "fp32, compiled": {"precision": "fp32", "compile": True},
    "bf16": {"precision": "bf16", "compile": False},
    "bf16, compiled": {"precision": "bf16", "compile": True},
}


def ours(recipe: Recipe, hr: torch.Tensor) -> Callable[[], None]:
    """The step of the training loop."""
    precision = choose(recipe.precision)
    network = precision.prepare(models.build(recipe.model, recipe.scale), recipe.compile)
    average = {name: weight.detach().clone() for name, weight in network.named_parameters()} if recipe.ema else {}
    state = State(network, make_optimizer(network, recipe.optimizer), average)
    state.adversary = Adversary.of(recipe.objective, precision)
    step = Step(recipe, state, precision, Ranks(0, 1))
    return lambda: step((hr,))


def degradation(recipe: Recipe, hr: torch.Tensor) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """Makes LR and HR of the patches, by other draws each time."""
    steps, places = itertools.count(), range(len(hr))
    return lambda: lr_and_hr(recipe.degradation, (hr,), recipe.scale, seed=0, step=next(steps), places=places)


def plain(recipe: Recipe, hr: torch.Tensor) -> Callable[[], None]:
    """A step of the same network in fp32, as in a tutorial."""
    network = as_in_torch(models.build(recipe.model, recipe.scale))
    # SRCNN pads nothing while it is trained by us.
    network.train(recipe.model.kind != "srcnn")
    terms = objectives.terms(recipe.objective, torch.device("cpu"), torch.float32).values()
    return tutorial(network, lambda sr, hr: sum(w * loss(sr, hr) for w, loss in terms), degradation(recipe, hr))


def as_in_torch(network: nn.Module) -> nn.Module:
    """The network with torch's own layers in place of our faster ones."""
    for name, layer in network.named_children():
        if isinstance(layer, PReLU):
            setattr(network, name, nn.PReLU())
        elif isinstance(layer, SubPixel):
            convolution = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1)
            setattr(network, name, nn.Sequential(convolution, nn.PixelShuffle(layer.factor)))
        else:
            as_in_torch(layer)
    return network


class MSRResNet(nn.Module):
    """BasicSR's, x4: 16 blocks of 64, no batch norm, bilinear base, two convolutions on the HR grid."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(True), nn.Conv2d(64, 64, 3, padding=1))
            for _ in range(16)
        )
        self.up = nn.ModuleList(nn.Conv2d(64, 256, 3, padding=1) for _ in range(2))
        self.hr, self.last = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.first(lr), 0.1)
        for block in self.body:
            x = x + block(x)
        for up in self.up:
            x = F.leaky_relu(F.pixel_shuffle(up(x), 2), 0.1)
        return self.last(F.leaky_relu(self.hr(x), 0.1)) + F.interpolate(lr, scale_factor=4, mode="bilinear")


def basicsr(recipe: Recipe, hr: torch.Tensor) -> Callable[[], None]:
    return tutorial(MSRResNet(), F.l1_loss, degradation(recipe, hr), average=True)


def tutorial(network: nn.Module, objective: Callable, lr_and_hr: Callable, average: bool = False):
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=False, foreach=False)
    kept = copy.deepcopy(network) if average else None

    def step() -> None:
        lr, target = lr_and_hr()
        optimizer.zero_grad()
        objective(network(lr), target).backward()
        optimizer.step()
        if kept:
            with torch.no_grad():
                for ours, theirs in zip(kept.parameters(), network.parameters(), strict=True):
                    ours.mul_(0.999).add_(theirs, alpha=0.001)

    return step


def variants(recipe: Recipe) -> dict[str, Callable[[torch.Tensor], Callable[[], None]]]:
    made = {"eager fp32": lambda hr: plain(recipe, hr)}
    if recipe.model.kind == "residual" and recipe.scale == 4:
        made["MSRResNet fp32"] = lambda hr: basicsr(recipe, hr)
    for label, change in CHANGES.items():
        changed = recipe.model_copy(update=change)
        made[label] = lambda hr, changed=changed: ours(changed, hr)
    if recipe.objective.kind == "sum" and recipe.objective.adversarial:
        others = {name: term for name, term in recipe.objective.terms.items() if term.objective.kind != "adversarial"}
        changed = recipe.model_copy(update={**CHANGES["bf16"], "objective": Sum(kind="sum", terms=others)})
        made["bf16, no adversary"] = lambda hr: ours(changed, hr)
    made["LR alone"] = lambda hr: degradation(recipe, hr)
    return made


def peak_flops(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    began = time.perf_counter()
    for _ in range(4):
        a @ b
    return 4 * 2 * 2048**3 / (time.perf_counter() - began)


def peak_mib(label: str, arguments: list[str]) -> int:
    """Of a process that takes three steps."""
    command = [sys.executable, __file__, *arguments, f"--memory-of={label}"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    only = [word.partition("=")[2] for word in sys.argv[1:] if word.startswith("--memory-of=")]
    arguments = [word for word in sys.argv[1:] if not word.startswith("--")] or ["srresnet"]
    recipe = load(arguments[0], arguments[1:])
    side = recipe.data.patch + 2 * margin(recipe.scale, recipe.degradation)
    hr = torch.randint(256, (recipe.data.batch, 3, side, side), dtype=torch.uint8)
    made = variants(recipe)
    if only:
        step = made[only[0]](hr)
        for _ in range(3):
            step()
        # Not getrusage's: that begins with what the parent held.
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        print(int(peak) >> 10)
        return
    steps = {label: make(hr) for label, make in made.items()}
    with FlopCounterMode(display=False) as counted:
        steps["fp32"]()
    flops = counted.get_total_flops()
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    peaks: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for number in range(ROUNDS + 2):
        for dtype, measured in peaks.items():
            measured.append(peak_flops(dtype))
        for label, step in steps.items():
            began = time.perf_counter()
            step()
            if number >= 2:
                seconds[label].append(time.perf_counter() - began)
    peak = {dtype: median(measured) for dtype, measured in peaks.items()}
    print(
        f"{' '.join(arguments)}: {recipe.data.batch} patches of {recipe.data.patch} px, {flops / 1e9:.0f} GFLOP, ",
        end="",
    )
    print(f"{torch.get_num_threads()} threads; matrix product: ", end="")
    print(*(f"{dtype} {flops_per_s / 1e9:.0f} GFLOP/s" for dtype, flops_per_s in peak.items()), sep=", ")
    base = median(seconds["eager fp32"])
    print(f"{'':18} {'s':>8} {'patches/s':>10} {'speed-up':>9} {'of peak':>8} {'MiB':>6}")
    for label, times in seconds.items():
        middle = median(times)
        # What is not ours has arithmetic of its own.
        share = (
            ""
            if label in ("MSRResNet fp32", "bf16, no adversary", "LR alone")
            else f"{flops / middle / peak[torch.bfloat16]:.0%}"
        )
        rate = recipe.data.batch / middle
        print(
            f"{label:18} {middle:8.4f} {rate:10.1f} {base / middle:8.2f}x {share:>8} {peak_mib(label, arguments):6}",
            flush=True,
        )
    share = median(seconds["LR alone"]) / median(seconds["bf16"])
    print(f"LR by degradation.kind: {recipe.degradation.kind} takes {share:.0%} of a step in bf16")


if __name__ == "__main__":
    main()
