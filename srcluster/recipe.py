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
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, ValidationError, model_validator

from srcluster.errors import UserError
from srcluster.recipe_objective import Objective, Pixel
from srcluster.validation import Part, did_you_mean, explain, kind_or, read_mapping, read_yaml

__all__ = [
    "SGD",
    "SRCNN",
    "Adam",
    "Checkpoint",
    "Data",
    "Evaluation",
    "Interpolation",
    "Model",
    "Optimizer",
    "Recipe",
    "RecipeError",
    "Residual",
    "Schedule",
    "flatten",
    "load",
    "parse_overrides",
    "recipe_from",
    "shipped",
    "with_overrides",
]


class RecipeError(UserError):
    """A recipe or an override says something that can't be understood."""


class Interpolation(Part):
    """No network: the baselines of every table, evaluated by the same code as the networks."""

    kind: Literal["interpolation"] = "interpolation"
    kernel: Literal["nearest", "bilinear", "bicubic"] = "bicubic"


class SRCNN(Part):
    """Dong et al., "Image Super-Resolution Using Deep Convolutional Networks" (TPAMI 2016)."""

    kind: Literal["srcnn"]
    kernel_sizes: tuple[int, int, int] = (9, 5, 5)
    """Side of the filters of patch extraction, non-linear mapping and reconstruction; the paper's 9-1-5 or 9-5-5."""
    features: tuple[int, int] = (64, 32)
    """Channels after the first and the second layer."""
    init: Literal["identity", "he", "paper"] = "identity"
    """How the weights begin: `paper` is Gaussian with deviation 0.001; `he` is He et al., 2015; `identity` is `he`
    with one channel that hands the bicubic picture through, so that the network begins as good as bicubic."""

    @model_validator(mode="after")
    def _odd(self):
        if any(size < 1 or size % 2 == 0 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes are odd, so that a filter has a centre, not {self.kernel_sizes}")
        return self


class Residual(Part):
    """A trunk of residual blocks on the LR grid, then an upsampler.

    It is, by its settings:

    - SRResNet (Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network",
      CVPR 2017, figure 4): the defaults.
    - The perceptual network (Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution",
      ECCV 2016, supplementary, table 2): `blocks: 4, activation: relu, around: norm_activation, long_skip: false,
      output: tanh`, and an upsampler of choice.
    - EDSR (Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPR-W 2017, figure 3):
      `norm: none, activation: relu, around: none, outer_kernel: 3, subtract_mean: true`, and with `blocks: 32,
      features: 256, residual_scale: 0.1` the large one.
    """

    kind: Literal["residual"]
    features: int = Field(64, ge=1)
    """Channels of every inner layer."""
    blocks: int = Field(16, ge=0)
    norm: Literal["batch", "none"] = "batch"
    activation: Literal["relu", "prelu"] = "prelu"
    residual_scale: float = Field(1.0, gt=0)
    """What a block's branch is multiplied by before it is added."""
    long_skip: bool = True
    """Whether one more convolution follows the blocks, and the head's features are added to it."""
    around: Literal["none", "activation", "norm_activation"] = "activation"
    """What follows the head and each convolution of the upsampler."""
    outer_kernel: int = Field(9, ge=1)
    """Side of the head's and the tail's filters; odd."""
    upsampler: Literal["pixel_shuffle", "deconv3", "deconv4", "nearest_conv"] = "pixel_shuffle"
    """Sub-pixel convolution 3x3, transposed convolution 3x3 or 4x4, or nearest neighbour and convolution 3x3."""
    output: Literal["linear", "tanh"] = "linear"
    """`tanh` is scaled to [0, 1]."""
    base: Literal["none", "bilinear"] = "none"
    """An enlargement of LR that the output is added to, as in BasicSR's MSRResNet."""
    subtract_mean: bool = False
    """Take the mean colour of DIV2K from LR, and add it to the output."""
    init: Literal["torch", "small"] = "torch"
    """`torch`: uniform within 1/sqrt(fan-in), as Torch and PyTorch draw, in which the papers' networks began; `small`:
    a tenth of He et al.'s normal deviation, biases 0, as in BasicSR's MSRResNet."""
    icnr: bool = False
    """Begin sub-pixel convolutions as nearest neighbour enlargement (Aitken et al., 2017)."""

    @model_validator(mode="after")
    def _makes_sense(self):
        if self.outer_kernel % 2 == 0:
            raise ValueError(f"outer_kernel is odd, so that a filter has a centre, not {self.outer_kernel}")
        if self.icnr and self.upsampler != "pixel_shuffle":
            raise ValueError(f"icnr is for upsampler: pixel_shuffle, not {self.upsampler}")
        if self.output == "tanh" and (self.base != "none" or self.subtract_mean):
            raise ValueError("output: tanh gives a picture: nothing is added to it by base or subtract_mean")
        return self


Model = Annotated[Interpolation | SRCNN | Residual, Field(discriminator="kind")]


class Data(Part):
    """Where HR patches come from, and how many make a batch."""

    shards: str = "auto"
    """URL or folder of packed shards; `auto` means the embedded cluster's default photographs."""
    patch: int = Field(96, ge=8)
    """Side of an HR training patch in pixels."""
    batch: int = Field(16, ge=1)
    """Patches a step, over all ranks together."""
    patches_per_sample: int = Field(1, ge=1)
    """Patches cut from a sample each time it is decoded."""
    workers: int = Field(0, ge=0)
    """Loader processes of each rank; 0 decodes in a thread of the training process."""
    shuffle_shards: int = Field(4, ge=1)
    """Shards whose samples are shuffled together; as many are held by each loader."""
    augment: bool = True
    """The eight flips and quarter turns, at random."""


class _Optimizer(Part):
    lr: float = Field(gt=0)
    """Learning rate; the peak of the schedule."""
    layer_lr: dict[str, float] = Field({})
    """Learning rates of their own for layers, by the beginning of their parameters' names."""
    weight_decay: float = Field(0.0, ge=0)


class Adam(_Optimizer):
    """Kingma and Ba, 2015."""

    kind: Literal["adam"] = "adam"
    lr: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    momentum: float = Field(0.9, ge=0, lt=1)


Optimizer = Annotated[Annotated[Adam, Tag("adam")] | Annotated[SGD, Tag("sgd")], kind_or("adam")]


class Schedule(Part):
    """The learning rate over the steps, as a factor of the optimiser's."""

    kind: Literal["constant", "cosine", "step"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear rise from 0."""
    milestones: tuple[int, ...] = ()
    """For `step`: the steps at which the rate is multiplied by `gamma`."""
    gamma: float = Field(0.5, gt=0, le=1)
    final: float = Field(0.0, ge=0, le=1)
    """For `cosine`: the factor reached at the last step."""

    @model_validator(mode="after")
    def _milestones(self):
        if (self.kind == "step") != bool(self.milestones):
            raise ValueError("milestones belong to kind: step, which needs at least one")
        return self


class Evaluation(Part):
    """Benchmark PSNR during the run."""

    benchmarks: tuple[str, ...] | Literal["auto"] = "auto"
    """Names (Set5, Set14, BSD100, Wheel3) or folders or s3:// URLs; `auto` takes the named ones that are at hand."""
    every_steps: int = Field(1000, ge=1)
    """The first benchmark is measured this often, the others at the end."""
    select: Literal["best", "last"] = "best"
    """Which weights are the result: those with the best PSNR on the first benchmark, or the last that were measured."""
    pictures: int = Field(5, ge=0)
    """Images of each benchmark of which a comparison picture is kept."""


class Checkpoint(Part):
    """How often a run can be continued from."""

    every_steps: int = Field(1000, ge=1)
    keep: int = Field(1, ge=1)
    """Latest checkpoints to keep."""


class Recipe(Part):
    """One training run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    scale: Literal[2, 3, 4] = 4
    seed: int = Field(0, ge=0)
    steps: int = Field(ge=0)
    model: Model
    data: Data = Data()
    objective: Objective = Pixel()
    optimizer: Optimizer = Adam()
    schedule: Schedule = Schedule()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the forward and backward passes; `auto` is bf16 where the device multiplies it faster than fp32."""
    compile: bool = False
    """Compile the network; it costs up to a minute at the start."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights that is evaluated and kept; 0 keeps none."""
    clip_norm: float = Field(0.0, ge=0)
    """Largest norm of the gradient of all weights; 0 does not clip."""
    log_every_steps: int = Field(50, ge=1)
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()

    @model_validator(mode="after")
    def _fits(self):
        if self.data.patch % self.scale:
            raise ValueError(f"data.patch is a multiple of the scale {self.scale}, not {self.data.patch}")
        return self

    def digest(self) -> str:
        """12 hexadecimal digits that change with anything the recipe says."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:12]


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in (resources.files("srcluster") / "recipes").iterdir()
        if entry.name.endswith(".yaml")
    )


def load(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: One that ships with the package (`srcnn`), or the path of a YAML file.
        overrides: `key.key=value`, the value in YAML.

    Raises:
        RecipeError: There is none of that name, or it or an override is not understood.
    """
    names = shipped()
    path = Path(name)
    if name in names:
        text = (resources.files("srcluster") / "recipes" / f"{name}.yaml").read_text()
        path = Path(f"{name}.yaml")
    elif path.is_file():
        text = path.read_text()
    else:
        raise RecipeError(f"there is no recipe {name!r}{did_you_mean(name, names)}; shipped are {', '.join(names)}")
    values = read_mapping(text, str(path), "steps:, model: and so on")
    return recipe_from({"name": path.stem, **values}, parse_overrides(overrides))


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """`optimizer.lr=3e-4`, as typed, to dotted keys and values.

    Raises:
        RecipeError: One has no key or no =.
    """
    overrides = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"an override reads key=value, as in optimizer.lr=3e-4, not {text!r}")
        overrides[key.strip()] = read_yaml(value, text)
    return overrides


def with_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested `values` with each dotted key of `overrides` replaced."""
    changed = {key: with_overrides(value, {}) if isinstance(value, Mapping) else value for key, value in values.items()}
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        part = changed
        for parent in parents:
            if not isinstance(part.setdefault(parent, {}), dict):
                raise RecipeError(f"{dotted} is not in a recipe: {parent} is a single value")
            part = part[parent]
        # A later key may be one inside it.
        part[last] = copy.deepcopy(value)
    return changed


def recipe_from(values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Validate nested values, with dotted overrides, into a recipe.

    Raises:
        RecipeError: A key is unknown (it says which was probably meant), or a value is out of its range.
    """
    try:
        return Recipe.model_validate(with_overrides(values, overrides or {}))
    except ValidationError as error:
        raise RecipeError(f"recipe {values.get('name', '')}: {explain(error, Recipe)}") from error


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as MLflow takes them: `{"optimizer": {"lr": 1e-4}}` is `{"optimizer.lr": "0.0001"}`.

    Lists are compact JSON; None, True and False are "null", "true" and "false", as in the recipe's YAML.
    """
    flat = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return flat
