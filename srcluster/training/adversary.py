"""The discriminator of an adversarial training, which learns beside the generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from srcluster.models.discriminators import build_discriminator
from srcluster.objectives.adversarial import discriminator_loss, generator_loss
from srcluster.objectives.pixel import central
from srcluster.recipe.objective import Adversarial, Objective
from srcluster.training.optimizer import make_optimizer, set_learning_rates
from srcluster.training.precision import Precision
from srcluster.training.ranks import ALONE, Ranks


class Adversary:
    """A discriminator, its optimiser, and the term of the generator's loss that it gives, by its name and weight."""

    def __init__(self, name: str, weight: float, spec: Adversarial, precision: Precision):
        self.name, self.weight, self.spec, self.precision = name, weight, spec, precision
        self.network = precision.prepare(build_discriminator(spec.discriminator), compiled=False)
        self.optimizer = make_optimizer(self.network, spec.optimizer)
        self.trained: nn.Module = self.network
        self.ranks = ALONE

    @classmethod
    def of(cls, spec: Objective, precision: Precision) -> "Adversary | None":
        """The adversary of an objective; None where no term is adversarial."""
        term = spec.adversarial if spec.kind == "sum" else None
        return cls(*term, precision) if term else None

    def join(self, ranks: Ranks) -> None:
        """Let the discriminator learn of all ranks' patches."""
        self.ranks, self.trained = ranks, ranks.wrap(self.network)

    def generator_loss(self, sr: Tensor, hr: Tensor, step: int) -> Tensor:
        """The weighted term of SR and HR, B x 3 x P x P float32 in [0, 1]: this rank's mean; 0 in the warm-up."""
        if step < self.spec.warmup_steps:
            return torch.zeros((), device=sr.device)
        with _frozen(self.network):
            fake = self._logits(self.network, sr)
            with torch.no_grad():
                relative = self.spec.loss == "relativistic"
                real = self._logits(self.network, central(hr, *sr.shape[-2:])) if relative else fake
        return self.weight * generator_loss(self.spec.loss, fake, real, self.ranks.mean)

    def learn(self, sr: Tensor, hr: Tensor, share: float) -> Tensor:
        """Add the gradient of some patches of a batch.

        Args:
            sr: B x 3 x P x P float32 in [0, 1], as `hr`.
            share: The part of the whole batch that these patches are.

        Returns:
            Their part of the batch's loss, and of the mean logits of HR and SR: 3 values.
        """
        # Apart: batch norm would see the mixture of both.
        real = self._logits(self.trained, central(hr, *sr.shape[-2:]))
        fake = self._logits(self.trained, sr)
        loss = discriminator_loss(self.spec.loss, fake, real, self.ranks.mean) * share
        (loss * self.ranks.world).backward()
        return torch.stack([loss, real.mean() * share, fake.mean() * share]).detach()

    def step(self, factor: float) -> None:
        """Move the weights by the gradients so far, at `factor` of the optimiser's learning rate."""
        set_learning_rates(self.optimizer, self.spec.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        with self.precision.autocast():
            return network(images).float()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
