"""The parts of a recipe that say how the weights move: the optimiser, and its learning rate over the steps."""

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from srcluster.recipe.validation import Part, kind_or

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a moving average."""


class _Optimizer(Part):
    lr: float = Field(gt=0)
    """Learning rate; the peak of the schedule."""
    layer_lr: dict[str, Annotated[float, Field(ge=0)]] = Field({})
    """Learning rates of their own for layers, by the beginning of their parameters' names."""
    weight_decay: float = Field(0.0, ge=0)


class Adam(_Optimizer):
    """Kingma and Ba, 2015."""

    kind: Literal["adam"] = "adam"
    lr: float = Field(1e-4, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)


class AdamW(Adam):
    """Adam whose weight decay is apart from the gradient (Loshchilov and Hutter, 2019)."""

    kind: Literal["adamw"]  # type: ignore[assignment]
    weight_decay: float = Field(0.01, ge=0)


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    momentum: float = Field(0.9, ge=0, lt=1)


Optimizer = Annotated[
    Annotated[Adam, Tag("adam")] | Annotated[AdamW, Tag("adamw")] | Annotated[SGD, Tag("sgd")], kind_or("adam")
]


class Schedule(Part):
    """The learning rate over the steps, as a factor of the optimiser's."""

    kind: Literal["constant", "cosine", "step"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear rise from 0."""
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """For `step`: the steps at which the rate is multiplied by `gamma`."""
    gamma: float = Field(0.5, gt=0, le=1)
    final: float = Field(0.0, ge=0, le=1)
    """For `cosine`: the factor reached at the last step."""

    @model_validator(mode="after")
    def _milestones(self):
        if (self.kind == "step") != bool(self.milestones):
            raise ValueError("milestones belong to kind: step, which needs at least one")
        return self
