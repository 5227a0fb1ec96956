"""What a sweep tries: a YAML file to a list of recipes, all of them known and valid before anything starts."""

import hashlib
import itertools
import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from srcluster.errors import UserError
from srcluster.progress import print_table
from srcluster.recipe import Recipe, flatten, load, recipe_from
from srcluster.recipe.validation import explain
from srcluster.recipe.yaml_files import did_you_mean, read_file, read_mapping
from srcluster.training.check import check_trainable


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Bounds = tuple[Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]]


class Parameter(_Part):
    """What is tried for one key of the recipe: exactly one of these."""

    grid: list[Any] | None = Field(None, min_length=1)
    """Each value, with each value of every other grid."""
    choice: list[Any] | None = Field(None, min_length=1)
    """A value at random for each sample."""
    uniform: Bounds | None = None
    """A number between two, at random for each sample."""
    loguniform: Bounds | None = None
    """The same, with equal chance for each order of magnitude."""

    @model_validator(mode="after")
    def _one(self):
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of grid, choice, uniform and loguniform")
        low, high = self.bounds
        if not low < high or (self.loguniform and low <= 0):
            raise ValueError(f"[{low:g}, {high:g}] is no range: low < high, and above 0 for loguniform")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Of `uniform` or `loguniform`."""
        return self.uniform or self.loguniform or (1.0, 2.0)

    def draw(self, random: np.random.Generator) -> Any:
        if self.choice:
            return self.choice[int(random.integers(len(self.choice)))]
        low, high = self.bounds
        if self.uniform:
            return float(random.uniform(low, high))
        return float(math.exp(random.uniform(math.log(low), math.log(high))))


class TPE(_Part):
    """Choose by what earlier trials came to (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011)."""

    kind: Literal["tpe"]
    startup: int = Field(10, ge=1)
    """Trials that are drawn at random before."""


class ASHA(_Part):
    """Stop the worse trials early: `srcluster.sweep.queue`."""

    kind: Literal["asha"]
    grace_steps: int = Field(ge=1)
    """Steps that every trial runs: the first rung."""
    reduction_factor: int = Field(4, ge=2)
    """One in so many trials goes on from a rung, and the next rung is so many times as far."""

    def rungs(self, steps: int) -> list[int]:
        """Steps at which trials of so many steps are compared."""
        rungs = itertools.accumulate(itertools.repeat(self.reduction_factor), operator.mul, initial=self.grace_steps)
        return list(itertools.takewhile(lambda rung: rung < steps, rungs))

    @field_validator("kind", mode="before")
    @classmethod
    def _no_population(cls, kind: Any) -> Any:
        if kind == "pbt":
            raise ValueError(
                "pbt clones trials by the checkpoints that Ray Tune keeps, and keeps none of these trials, which have "
                "their own in storage: without a word it would clone nothing; use asha"
            )
        return kind


class Resources(_Part):
    """What a trial takes of the cluster: several workers share its batches, as in `python -m srcluster.train`."""

    workers: int = Field(1, ge=1)
    cpu: int = Field(1, ge=1)
    """Cores of each worker."""
    gpu: float = Field(0, ge=0)
    """GPUs of each worker; part of one is shared with other trials."""

    @model_validator(mode="after")
    def _whole(self):
        if self.gpu > 1 or (self.workers > 1 and self.gpu not in (0, 1)):
            raise ValueError(f"gpu is at most 1 for each worker, and 0 or 1 where there are several, not {self.gpu:g}")
        return self

    def __str__(self):
        worker = f"{self.cpu} CPU" + (f" and {self.gpu:g} GPU" if self.gpu else "")
        return worker if self.workers == 1 else f"{self.workers} x ({worker})"


class Sweep(_Part):
    """A sweep as its YAML file says it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    recipe: str
    overrides: dict[str, Any] = {}
    parameters: dict[str, Parameter] = Field(min_length=1)
    samples: int = Field(1, ge=1)
    """How often the grid is run through, with new random draws each time."""
    seed: int = Field(0, ge=0)
    """Of the random draws."""
    search: TPE | None = None
    """How values are chosen, other than by the grid and at random."""
    scheduler: ASHA | None = None
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _searchable(self):
        if self.search is None:
            return self
        if grids := [key for key, parameter in self.parameters.items() if parameter.grid]:
            raise ValueError(f"a search does not try everything: give choice instead of grid for {', '.join(grids)}")
        if self.samples <= self.search.startup:
            raise ValueError(f"search.startup is below samples, which are {self.samples}, not {self.search.startup}")
        return self

    @model_validator(mode="after")
    def _comparable(self):
        if self.scheduler and "steps" in self.parameters:
            raise ValueError("asha compares trials that are of the same steps: leave steps out of parameters")
        return self

    def trials(self) -> list["Trial"]:
        """Every trial; a search chooses other values for those after its first.

        Raises:
            UserError: A trial's recipe is not valid.
            UserError: No trial is long enough for the scheduler.
        """
        grids = {key: parameter.grid for key, parameter in self.parameters.items() if parameter.grid}
        drawn = {key: parameter for key, parameter in self.parameters.items() if not parameter.grid}
        random = np.random.default_rng(self.seed)
        trials: list[Trial] = []
        for _ in range(self.samples):
            for grid in itertools.product(*grids.values()):
                values = dict(zip(grids, grid, strict=True))
                values |= {key: parameter.draw(random) for key, parameter in drawn.items()}
                trials.append(self.trial(len(trials), values))
        if self.scheduler and not self.rungs(trials):
            grace, steps = self.scheduler.grace_steps, trials[0].recipe.steps
            raise UserError(f"scheduler.grace_steps is below steps, which are {steps}, not {grace}")
        return trials

    def rungs(self, trials: Sequence["Trial"]) -> list[int]:
        """Steps at which trials are compared; none without a scheduler."""
        return self.scheduler.rungs(trials[0].recipe.steps) if self.scheduler else []

    def trial(self, index: int, values: Mapping[str, Any]) -> "Trial":
        """The trial of these values of the parameters.

        Raises:
            UserError: They make no valid recipe.
        """
        # What the recipe does not say itself may belong to another kind than the values ask for.
        base = load(self.recipe).model_dump(mode="json", exclude_unset=True)
        recipe = recipe_from(base, {**self.overrides, "name": self.name, **values})
        check_trainable(recipe)
        return Trial(index, recipe, values)

    def digest(self, trials: Iterable["Trial"]) -> str:
        """8 hexadecimal digits that name what a sweep tries: these trials, and what a search and ASHA make of them."""
        tried = [trial.recipe.digest() for trial in trials]
        if self.search:
            tried.append(self.model_dump_json(include={"search", "parameters", "seed"}))
        if self.scheduler:
            tried.append(self.scheduler.model_dump_json())
        return hashlib.sha256(json.dumps(tried).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Trial:
    """One recipe of a sweep, and the values of the parameters, which are dotted keys of it."""

    index: int
    recipe: Recipe
    values: Mapping[str, Any]

    @property
    def chosen(self) -> dict[str, str]:
        """The values as MLflow has them."""
        return flatten(self.values)

    @property
    def label(self) -> str:
        """What was chosen, in words."""
        return label_of(self.chosen)

    @property
    def folder(self) -> str:
        """The name of the folder of its files, below that of the sweep."""
        return f"run-{self.index:04d}"


def label_of(chosen: Mapping[str, str]) -> str:
    """Values of dotted keys, in words: `adam lr=0.001`. Of a key stay the last parts that tell it from the others."""
    return " ".join(_words(key, value, chosen) for key, value in chosen.items())


def _words(key: str, value: str, chosen: Mapping[str, str]) -> str:
    parts = key.split(".")
    names = (".".join(parts[-count:]) for count in range(1, len(parts)))
    name = next((name for name in names if sum(f".{one}".endswith(f".{name}") for one in chosen) == 1), key)
    with suppress(ValueError):
        value = min(value, f"{float(value):.4g}", key=len)
    return value if name == "kind" else f"{name}={value}"


def load_sweep(
    path: Path, typed: Mapping[str, float | None] | None = None, overrides: Mapping[str, Any] | None = None
) -> Sweep:
    """Read a sweep's YAML file.

    Args:
        typed: Resources that replace the file's own, where they are not None.
        overrides: Dotted keys of the recipe that replace the file's own.

    Raises:
        UserError: There is no such file, or it is not understood.
    """
    if not path.is_file():
        others = [str(other) for other in sorted(path.parent.glob("*.yaml"))] if path.parent.is_dir() else []
        raise UserError(f"there is no sweep {path}{did_you_mean(str(path), others)}")
    values = read_mapping(read_file(path), str(path), "recipe:, parameters: and so on")
    given = {key: value for key, value in (typed or {}).items() if value is not None}
    try:
        plan = Sweep.model_validate({"name": path.stem, **values})
        resources = Resources.model_validate(plan.resources.model_dump() | given)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, Sweep)}") from error
    return plan.model_copy(update={"resources": resources, "overrides": {**plan.overrides, **(overrides or {})}})


def ladder(plan: Sweep, trials: Sequence[Trial]) -> str:
    """How many trials run how far, in words: `6 trials of 1200 steps`, or with asha how many go on from each rung."""
    steps = [trial.recipe.steps for trial in trials]
    if not plan.scheduler:
        each = f"{min(steps)}" if min(steps) == max(steps) else f"{min(steps)} to {max(steps)}"
        return f"{len(trials)} trials of {each} steps"
    (count, first), *others = _stages(plan, trials)
    words = [f"{count} trials to step {first}", *(f"the best {count} to {rung}" for count, rung in others)]
    return f"{', '.join(words)} ({planned_steps(plan, trials) / sum(steps):.0%} of all their steps)"


def planned_steps(plan: Sweep, trials: Sequence[Trial]) -> int:
    """The steps of all trials together; with asha, of those that go on from each rung."""
    if not plan.scheduler:
        return sum(trial.recipe.steps for trial in trials)
    stages = _stages(plan, trials)
    return sum(count * (rung - before) for (count, rung), (_, before) in zip(stages, [(0, 0), *stages], strict=False))


def _stages(plan: Sweep, trials: Sequence[Trial]) -> list[tuple[int, int]]:
    """How many trials asha lets run to which step."""
    assert plan.scheduler
    counts = [len(trials)]
    rungs = [*plan.rungs(trials), trials[0].recipe.steps]
    for _ in rungs[1:]:
        counts.append(max(counts[-1] // plan.scheduler.reduction_factor, 1))
    return list(zip(counts, rungs, strict=True))


def print_plan(plan: Sweep, trials: Sequence[Trial]) -> None:
    """Print the trials that are known before the sweep starts, and the digests of their recipes."""
    known = trials[: plan.search.startup] if plan.search else trials
    rows = [[str(trial.index), trial.label, str(trial.recipe.steps), trial.recipe.digest()] for trial in known]
    print_table([["trial", "what differs", "steps", "recipe"], *rows])
    if plan.scheduler:
        print(ladder(plan, trials))
    if plan.search:
        print(f"and {len(trials) - len(known)} that TPE chooses by what the earlier ones came to")
