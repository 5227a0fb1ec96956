"""What one training run is.

A recipe says everything once: with its shards' manifest digest and its seed it reproduces a run. It is read from
YAML, by the name of one that ships with the package or by a path, and changed by dotted overrides
(`optimizer.lr=3e-4`). The batch is the global batch and time is counted in steps, so that more workers change the
speed of an experiment and not the experiment.
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from srcluster.errors import UserError
from srcluster.recipe.data import Data
from srcluster.recipe.degradation import Bicubic, Degradation
from srcluster.recipe.evaluation import Checkpoint, Evaluation
from srcluster.recipe.model import Model
from srcluster.recipe.objective import Objective, Pixel
from srcluster.recipe.optimizer import Adam, Optimizer, Schedule
from srcluster.recipe.start import Start
from srcluster.recipe.validation import Part, explain
from srcluster.recipe.yaml_files import did_you_mean, read_file, read_mapping, read_yaml, shipped_files

NEUTRAL = frozenset(
    {
        "name",
        "log_every_steps",
        "checkpoint.every_steps",
        "checkpoint.keep",
        "data.workers",
        "evaluation.metrics",
        "evaluation.pictures",
    }
)
"""Keys that change nothing of a run's result, and so may change while it is continued."""


class Recipe(Part):
    """One training run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    scale: int = Field(4, ge=1, le=16)
    seed: int = Field(0, ge=0, lt=2**63)
    steps: int = Field(ge=0, le=10**9)
    model: Model
    start: Start = Start()
    data: Data = Data()
    degradation: Degradation = Bicubic()
    objective: Objective = Pixel()
    optimizer: Optimizer = Adam()
    schedule: Schedule = Schedule()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the forward and backward passes; `auto` is bf16 where the device multiplies it faster than fp32."""
    compile: bool = False
    """Compile the network; it costs up to a minute at the start."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights that is evaluated and kept; 0 keeps none."""
    ema_warmup: bool = False
    """Let the decay rise from 0.1 to `ema`, as (1 + step) / (10 + step)."""
    clip_norm: float = Field(0.0, ge=0)
    """Largest norm of the gradient of all weights; 0 does not clip."""
    log_every_steps: int = Field(50, ge=1)
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()

    @model_validator(mode="after")
    def _fits(self):
        if self.degradation.kind != "paired" and self.scale not in (2, 3, 4, 8):
            raise ValueError(f"scale is 2, 3, 4 or 8, not {self.scale}, but for degradation.kind: paired")
        if self.data.patch % self.scale:
            raise ValueError(f"data.patch is a multiple of the scale {self.scale}, not {self.data.patch}")
        if self.model.kind == "rrdb" and self.scale == 3:
            raise ValueError("model.kind: rrdb enlarges by factors of 2: choose another kind for scale 3")
        judged = self.objective.adversarial if self.objective.kind == "sum" else None
        if judged and judged[2].discriminator.kind == "unet" and self.data.patch % 8:
            raise ValueError(f"discriminator.kind: unet takes data.patch in multiples of 8, not {self.data.patch}")
        return self

    @property
    def packages(self) -> tuple[str, ...]:
        """A person's own, that the network is of."""
        return (self.model.package,) if self.model.kind == "import" else ()

    @property
    def perceptual(self) -> bool:
        """Whether features of a network or a discriminator are a part of the objective: PSNR alone is no judge then."""
        objective = self.objective
        parts = [term.objective for term in objective.terms.values()] if objective.kind == "sum" else [objective]
        return any(part.kind in ("vgg", "adversarial") for part in parts)

    def digest(self) -> str:
        """12 hexadecimal digits that change with what changes the result, and with nothing else.

        Defaults are left out, so that a field that is added later changes no digest: a default must never change.
        """
        said = _leaves(self.model_dump(mode="json", exclude_defaults=True))
        ignored = set(NEUTRAL) | ({"evaluation.every_steps"} if self.evaluation.select == "last" else set())
        # Weights are what their SHA-256 says, wherever they lie.
        ignored |= {key.removesuffix("sha256") + "weights" for key in said if key.endswith("sha256")}
        said = {key: value for key, value in said.items() if key not in ignored}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    def extends(self, begun: "Recipe") -> bool:
        """Whether this is another recipe with more steps, the first of which are exactly that one's."""
        longer = begun.model_copy(update={"steps": self.steps})
        return longer.digest() == self.digest() and begun.steps < self.steps and self.schedule.kind != "cosine"


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    return list(shipped_files())


def load(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: One that ships with the package (`srcnn`), or the path of a YAML file.
        overrides: `key.key=value`, the value in YAML.

    Raises:
        UserError: There is none of that name, or it or an override is not understood.
    """
    files = shipped_files()
    path = files.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"there is no recipe {name!r}{did_you_mean(name, files)}; shipped are {', '.join(files)}")
    values = read_mapping(read_file(path), str(path), "steps:, model: and so on")
    return recipe_from({"name": path.stem, **values}, parse_overrides(overrides))


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """`optimizer.lr=3e-4`, as typed, to dotted keys and values.

    Raises:
        UserError: One has no key or no =, or a key is given twice.
    """
    overrides = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UserError(f"an override reads key=value, as in optimizer.lr=3e-4, not {text!r}")
        if key in overrides:
            raise UserError(f"{key} is given twice: remove one")
        overrides[key] = read_yaml(value, text)
    return overrides


def with_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested `values` with each dotted key of `overrides` replaced."""
    changed = {key: with_overrides(value, {}) if isinstance(value, Mapping) else value for key, value in values.items()}
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        part = changed
        for parent in parents:
            if not isinstance(part.setdefault(parent, {}), dict):
                raise UserError(f"{dotted} is not in a recipe: {parent} is a single value")
            part = part[parent]
        # A later key may be one inside it.
        part[last] = copy.deepcopy(value)
    return changed


def recipe_from(values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Validate nested values, with dotted overrides, into a recipe.

    Raises:
        UserError: A key is unknown (it says which was probably meant), or a value is out of its range.
    """
    try:
        return Recipe.model_validate(with_overrides(values, overrides or {}))
    except ValidationError as error:
        raise UserError(f"recipe {values.get('name', '')}: {explain(error, Recipe)}") from error


def flatten(params: Mapping[str, Any]) -> dict[str, str]:
    """Nested parameters as MLflow takes them: `{"optimizer": {"lr": 1e-4}}` is `{"optimizer.lr": "0.0001"}`.

    Lists are compact JSON; None, True and False are "null", "true" and "false", as in the recipe's YAML.
    """
    leaves = _leaves(params)
    words = json.JSONEncoder(separators=(",", ":")).encode
    return {key: value if isinstance(value, str) else words(value) for key, value in leaves.items()}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _leaves(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
