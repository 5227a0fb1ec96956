"""The optimiser of a recipe, and its learning rate over the steps."""

import math

import torch
from torch import nn

from srcluster.errors import UserError
from srcluster.recipe import Optimizer, Schedule


def make_optimizer(network: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """The optimiser of a recipe, with a parameter group of its own for each entry of `layer_lr`.

    Raises:
        UserError: The network has no weights, or `layer_lr` names no layer of it.
    """
    groups: dict[str, list[nn.Parameter]] = {layer: [] for layer in spec.layer_lr}
    others: list[nn.Parameter] = []
    for name, weight in network.named_parameters():
        layer = next((layer for layer in groups if name.startswith(f"{layer}.")), None)
        (others if layer is None else groups[layer]).append(weight)
    for layer, weights in groups.items():
        if not weights:
            layers = ", ".join(name for name, _ in network.named_children())
            raise UserError(f"optimizer.layer_lr names no layer {layer!r} of this network; it has {layers}")
    grouped = [{"params": others, "lr": spec.lr}] if others else []
    grouped += [{"params": weights, "lr": spec.layer_lr[layer]} for layer, weights in groups.items()]
    if not grouped:
        raise UserError("the network has no weights: there is nothing to train")
    decay, fused = spec.weight_decay, not next(network.parameters()).is_meta
    match spec.kind:
        case "adam":
            return torch.optim.Adam(grouped, betas=spec.betas, weight_decay=decay, fused=fused)
        case "adamw":
            return torch.optim.AdamW(grouped, betas=spec.betas, weight_decay=decay, fused=fused)
        case "sgd":
            return torch.optim.SGD(grouped, momentum=spec.momentum, weight_decay=decay, fused=fused)
    raise AssertionError(spec.kind)


def learning_rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """What the peak learning rate is multiplied by at a step, the first being 0."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    match schedule.kind:
        case "constant":
            return 1.0
        case "step":
            return schedule.gamma ** sum(step >= milestone for milestone in schedule.milestones)
        case "cosine":
            progress = (step - schedule.warmup_steps) / max(steps - schedule.warmup_steps, 1)
            return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2
    raise AssertionError(schedule.kind)


def set_learning_rates(optimizer: torch.optim.Optimizer, spec: Optimizer, factor: float) -> None:
    """Give each parameter group of `make_optimizer` `factor` of its peak learning rate."""
    # The first group is absent where `layer_lr` names every layer.
    peaks = [spec.lr, *spec.layer_lr.values()][-len(optimizer.param_groups) :]
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * factor
