"""A training's state on disk, as a folder of files that hold no code.

Weights are safetensors, the optimiser's state is loaded with weights_only=True, and the rest is JSON. With the
recipe, these are all that a run depends on: batches and augmentation are functions of the step.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from srcluster.errors import UserError
from srcluster.models.saved import ModelError, load_weights, save_weights
from srcluster.recipe import Recipe

__all__ = ["CheckpointError", "State"]


class CheckpointError(UserError):
    """A checkpoint that can't be continued from."""


@dataclass
class State:
    """All that changes while training."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    """Moving average of the weights; empty where the recipe keeps none."""
    step: int = 0
    history: list[tuple[int, int]] = field(default_factory=list)
    """(ranks, steps) of each part of the run so far, in turn: which samples were read depends on it."""
    best: dict[str, float] = field(default_factory=dict)
    """Metrics of the best evaluation so far, `step` among them."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def weights(self) -> dict[str, Tensor]:
        """The weights to evaluate and to keep: the average, if there is one."""
        return {**self.network.state_dict(), **self.average}

    def advance(self, ranks: int) -> None:
        """Count a step that so many ranks took."""
        self.step += 1
        parts = self.history
        if parts and parts[-1][0] == ranks:
            ranks, steps = parts.pop()
        else:
            steps = 0
        parts.append((ranks, steps + 1))

    def save(self, folder: Path, recipe: Recipe) -> None:
        """Write the state to a folder, which is made.

        Raises:
            CheckpointError: There is no room for it.
        """
        facts = {"step": self.step, "history": self.history, "best": self.best, "recipe": recipe.digest()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_weights(folder / "network.safetensors", self.network.state_dict(), recipe)
            save_weights(folder / "average.safetensors", self.average, recipe)
            save_weights(folder / "best.safetensors", self.best_weights, recipe)
            torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
            (folder / "state.json").write_text(json.dumps(facts))
        except (OSError, RuntimeError, SafetensorError) as error:
            # Torch says of a full disk: RuntimeError.
            raise CheckpointError(f"{folder} can't be written ({error}): make room there") from error

    def load(self, folder: Path, recipe: Recipe) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: It is of another recipe, or damaged.
        """
        device = next(self.network.parameters()).device
        try:
            facts = json.loads((folder / "state.json").read_text())
            if facts["recipe"] != recipe.digest():
                raise CheckpointError(
                    f"{folder} is of recipe {facts['recipe']} and this is {recipe.digest()}: give the run another "
                    "name, or the recipe it began with"
                )
            self.network.load_state_dict(load_weights(folder / "network.safetensors", device))
            self.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", device, weights_only=True))
            self.average = load_weights(folder / "average.safetensors", device)
            self.best_weights = load_weights(folder / "best.safetensors", device)
            self.step, self.best = facts["step"], facts["best"]
            self.history = [(ranks, steps) for ranks, steps in facts["history"]]
        except (OSError, ValueError, KeyError, RuntimeError, ModelError) as error:
            raise CheckpointError(
                f"the checkpoint {folder} is damaged ({error}); continue from an older one"
            ) from error
