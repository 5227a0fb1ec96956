"""What training minimises. `terms` and `build` are the only doors to it, `resolve` to what it needs.

A new loss is a part of `recipe.objective` and a case of `build`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from srcluster.errors import UserError
from srcluster.objectives.pixel import PixelObjective, total_variation
from srcluster.objectives.vgg import Perceptual
from srcluster.objectives.weights import read
from srcluster.recipe.objective import Adversarial, ImportedObjective, Objective, Single, Sum

Loss = Callable[[Tensor, Tensor], Tensor]


def build(spec: Single, device: torch.device, dtype: torch.dtype) -> Loss:
    """A function of SR and HR, B x 3 x H x W float32 in [0, 1] on the device, that gives the loss, a scalar.

    Raises:
        UserError: Weights that it needs can't be had: `resolve` finds that out before.
    """
    match spec.kind:
        case "mse" | "l1" | "charbonnier":
            return PixelObjective(spec.kind, spec.channels)
        case "vgg":
            return Perceptual(spec, device, dtype)
        case "total_variation":
            return total_variation
        case "import":
            return _imported(spec, device)
    raise AssertionError(spec.kind)


def terms(spec: Objective, device: torch.device, dtype: torch.dtype) -> dict[str, tuple[float, Loss]]:
    """Weight and function of each term of a `sum`, but an adversarial one; of another objective, of all of it."""
    if spec.kind != "sum":
        return {spec.kind: (1.0, build(spec, device, dtype))}
    return {
        name: (term.weight, build(term.objective, device, dtype))
        for name, term in spec.terms.items()
        if term.objective.kind != "adversarial"
    }


def _imported(spec: ImportedObjective, device: torch.device) -> Loss:
    objective = spec.call()
    if isinstance(objective, nn.Module):
        objective = objective.to(device).requires_grad_(False)
    if not callable(objective):
        raise UserError(f"{spec.target} gives {type(objective).__name__}, and an objective is called with SR and HR")

    def scalar(sr: Tensor, hr: Tensor) -> Tensor:
        loss = objective(sr, hr)
        if not isinstance(loss, Tensor) or loss.shape != ():
            what = f"{list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"{spec.target} gives {what} for SR and HR, and a loss is a scalar tensor: take its mean")
        return loss

    return scalar


def resolve(spec: Objective | Adversarial) -> Objective | Adversarial:
    """The objective with every `auto` written out, once the files that it needs are checked.

    A driver calls it before workers start, which then read these very files.

    Raises:
        UserError: Weights are missing, damaged, partial for the layers asked, or of another network.
    """
    match spec.kind:
        case "vgg":
            return read(spec)[0]
        case "import":
            spec.trial(build(spec, torch.device("cpu"), torch.float32), *torch.rand(2, 1, 3, 32, 32))
        case "sum":
            resolved = {name: resolve(term.objective) for name, term in spec.terms.items()}
            terms = {name: spec.terms[name].model_copy(update={"objective": resolved[name]}) for name in resolved}
            return Sum(kind="sum", terms=terms)
    return spec
