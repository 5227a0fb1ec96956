"""Losses of generators and discriminators, of the discriminator's logits."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Mean = Callable[[Tensor], Tensor]


def generator_loss(kind: str, fake: Tensor, real: Tensor, mean: Mean = torch.mean) -> Tensor:
    """What the generator minimises.

    Args:
        kind: `vanilla`: -log D(SR), as in Goodfellow et al. (2014) and SRGAN (equation 6). `relativistic`: of the
            average relativistic discriminator, ESRGAN's equation 4. `hinge`: Lim and Ye (2017). `least_squares`: Mao
            et al. (2017).
        fake: Logits of SR.
        real: Logits of HR; used by `relativistic` alone.
        mean: Over the whole batch, with its gradient; of all ranks where there are several.

    Returns:
        The mean over this rank's logits.
    """
    match kind:
        case "vanilla":
            return F.softplus(-fake).mean()
        case "relativistic":
            return (F.softplus(real - mean(fake)).mean() + F.softplus(mean(real) - fake).mean()) / 2
        case "hinge":
            return -fake.mean()
        case "least_squares":
            return (fake - 1).square().mean()
    raise AssertionError(kind)


def discriminator_loss(kind: str, fake: Tensor, real: Tensor, mean: Mean = torch.mean) -> Tensor:
    """What the discriminator minimises; arguments as of `generator_loss`."""
    match kind:
        case "vanilla":
            return F.softplus(fake).mean() + F.softplus(-real).mean()
        case "relativistic":
            return (F.softplus(mean(fake) - real).mean() + F.softplus(fake - mean(real)).mean()) / 2
        case "hinge":
            return F.relu(1 + fake).mean() + F.relu(1 - real).mean()
        case "least_squares":
            return fake.square().mean() + (real - 1).square().mean()
    raise AssertionError(kind)
