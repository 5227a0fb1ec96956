"""A training's state as files that hold no code.

Weights are safetensors, the optimiser's state is loaded with weights_only=True, and the rest is JSON. With the
recipe, these are all that a run depends on: batches and augmentation are functions of the step.
"""

import io
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from srcluster.errors import UserError
from srcluster.models.network import Network
from srcluster.models.saved import recipe_in, weights_bytes
from srcluster.recipe import Recipe
from srcluster.training.adversary import Adversary


class CheckpointError(UserError):
    """A checkpoint that can't be continued from."""


@dataclass
class State:
    """All that changes while training."""

    network: Network
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    """Moving average of the weights; empty where the recipe keeps none."""
    precision: str = ""
    """What it is trained in, `fp32` or `bf16`: on another machine `auto` might be another."""
    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    """Metrics of the best evaluation so far, `step` among them."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    adversary: Adversary | None = None

    def weights(self) -> dict[str, Tensor]:
        """The weights to evaluate and to keep: the average, if there is one."""
        return {**self.network.state_dict(), **self.average}

    def save(self, recipe: Recipe) -> dict[str, bytes]:
        """The state as the contents of files, by their names."""
        facts = {"step": self.step, "best": self.best, "precision": self.precision, "recipe": recipe.digest()}
        files = {
            "network.safetensors": weights_bytes(self.network.state_dict(), recipe),
            "average.safetensors": weights_bytes(self.average, recipe),
            "best.safetensors": weights_bytes(self.best_weights, recipe),
            "optimizer.pt": _saved(self.optimizer.state_dict()),
        }
        if self.adversary:
            files["adversary.pt"] = _saved(self.adversary.state_dict())
        return files | {"state.json": json.dumps(facts).encode()}

    @staticmethod
    def precision_of(files: dict[str, bytes]) -> str:
        """The precision of a saved state; empty if there is none, or it can't be read."""
        try:
            return json.loads(files["state.json"]).get("precision", "")
        except (KeyError, ValueError):
            return ""

    def load(self, files: dict[str, bytes], recipe: Recipe) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: It is of another recipe, or not of this version of srcluster.
        """
        device = next(self.network.parameters()).device

        def weights(name: str) -> dict[str, Tensor]:
            return {key: tensor.to(device) for key, tensor in load(files[f"{name}.safetensors"]).items()}

        try:
            facts = json.loads(files["state.json"])
            if "history" in facts:
                raise CheckpointError(
                    "the checkpoint is of an older srcluster, which took its batches in another order: give the run "
                    "another name, or continue it with the version that wrote it"
                )
            if facts["recipe"] != recipe.digest() and not recipe.extends(recipe_in(files["network.safetensors"])):
                raise CheckpointError(
                    f"the checkpoint is of recipe {facts['recipe']} and this is {recipe.digest()}: give the run "
                    "another name, or the recipe it began with"
                )
            self.network.load_state_dict(weights("network"))
            self.optimizer.load_state_dict(_loaded(files["optimizer.pt"], device))
            if self.adversary:
                self.adversary.load_state_dict(_loaded(files["adversary.pt"], device))
            self.average, self.best_weights = weights("average"), weights("best")
            self.step, self.best = facts["step"], facts["best"]
        except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"the checkpoint can't be read ({error!r}): continue the run with the srcluster that wrote it, or give "
                "it another name"
            ) from error


def _saved(state: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _loaded(content: bytes, device: torch.device) -> dict[str, Any]:
    return torch.load(io.BytesIO(content), device, weights_only=True)
