"""The part of a recipe that says what training minimises."""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag, field_validator, model_validator

from srcluster.recipe.imported import Imported
from srcluster.recipe.optimizer import Adam, Optimizer
from srcluster.recipe.validation import Part, kind_or
from srcluster.recipe.yaml_files import did_you_mean

VGG_LAYERS = {
    network: tuple(
        f"{kind}{block}_{number}"
        for block, depth in enumerate(depths, 1)
        for number in range(1, depth + 1)
        for kind in ("conv", "relu")
    )
    for network, depths in {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}.items()
}
"""Names of the convolutions of each network and of their ReLUs, from the first to the deepest: conv1_1, relu1_1, ..."""


class Pixel(Part):
    """The mean distance of pixels."""

    kind: Literal["mse", "l1", "charbonnier"] = "mse"
    channels: Literal["rgb", "y"] = "rgb"


class VGG(Part):
    """The distance of what VGG16 or VGG19 sees in two images: `srcluster.objectives.vgg`."""

    kind: Literal["vgg"]
    network: Literal["vgg16", "vgg19"] = "vgg16"
    layers: dict[str, Annotated[float, Field(gt=0)]] = Field({"relu2_2": 1.0}, min_length=1)
    """Which of VGG_LAYERS are compared, and their weights in the sum; a single name has weight 1."""
    distance: Literal["mse", "l1", "cosine", "gram"] = "mse"
    """Of two feature maps; `gram` compares the correlations of their channels alone, which is style and not place."""
    weights: str = "auto"
    """A file in torchvision's names, .pth or .safetensors: its path, or s3:// or https URL; `auto` looks where
    `python -m srcluster.fetch vgg16` or vgg19 leaves it: in SRCLUSTER_WEIGHTS, SRCLUSTER_DATA,
    SRCLUSTER_STORAGE/weights."""
    normalization: Literal["auto", "torchvision", "caffe"] = "auto"
    """The input the weights were trained for: RGB in [0, 1], its mean and deviation made 0 and 1 (`torchvision`), or
    in [0, 255] less its mean (`caffe`, the original weights); `auto` knows that of torchvision's own file."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Of the file of the weights, if it is to be checked."""

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer(cls, layers: Any) -> Any:
        return {layers: 1.0} if isinstance(layers, str) else layers

    @model_validator(mode="after")
    def _known_layers(self):
        names = VGG_LAYERS[self.network]
        for name in self.layers:
            if name not in names:
                title, last = self.network.upper(), names[-1][-3:]
                raise ValueError(
                    f"{title} has conv1_1 to conv{last} and relu1_1 to relu{last}, and no {name!r}"
                    + did_you_mean(name, names)
                )
        return self


class TotalVariation(Part):
    """How much neighbouring pixels of SR differ, whatever HR is: a term of a `sum` that smooths."""

    kind: Literal["total_variation"]


class ImportedObjective(Imported):
    """A loss of a person's own: what its call gives takes SR and HR, B x 3 x H x W float32, and gives a scalar."""


class Discriminator(Part):
    """`srcluster.models.discriminators`."""

    kind: Literal["srgan", "unet"] = "srgan"
    features: int = Field(64, ge=1)
    """Channels of the first layer; deeper ones have multiples."""


class Adversarial(Part):
    """How little a discriminator takes SR for an original: a term of a `sum`.

    The discriminator learns in every step after the generator, on the same patches.
    """

    kind: Literal["adversarial"]
    discriminator: Discriminator = Discriminator()
    loss: Literal["vanilla", "relativistic", "hinge", "least_squares"] = "vanilla"
    """`srcluster.objectives.adversarial`."""
    optimizer: Optimizer = Adam()
    """Of the discriminator; its learning rate follows the recipe's schedule."""
    warmup_steps: int = Field(0, ge=0)
    """First steps in which the discriminator learns and the generator does not hear of it."""


Single = (
    Annotated[Pixel, Tag("mse")]
    | Annotated[Pixel, Tag("l1")]
    | Annotated[Pixel, Tag("charbonnier")]
    | Annotated[VGG, Tag("vgg")]
    | Annotated[TotalVariation, Tag("total_variation")]
    | Annotated[ImportedObjective, Tag("import")]
)


class Term(Part):
    """A part of a `sum`."""

    weight: float = Field(1.0, ge=0)
    objective: Annotated[Single | Annotated[Adversarial, Tag("adversarial")], kind_or("mse")]


class Sum(Part):
    """Several objectives at once, each under a name that overrides reach it by: `objective.terms.smooth.weight`."""

    kind: Literal["sum"]
    terms: dict[str, Term] = Field(min_length=1)

    @property
    def adversarial(self) -> tuple[str, float, Adversarial] | None:
        """The name, the weight and the objective of the adversarial term, if there is one."""
        for name, term in self.terms.items():
            if term.objective.kind == "adversarial":
                return name, term.weight, term.objective
        return None

    @model_validator(mode="after")
    def _one_adversary(self):
        kinds = [term.objective.kind for term in self.terms.values()]
        if kinds.count("adversarial") > 1:
            raise ValueError("only one of the terms may be adversarial")
        if kinds == ["adversarial"]:
            raise ValueError("an adversarial term alone makes pictures of nothing in particular: add another")
        if "discriminator" in self.terms:
            raise ValueError("discriminator is what the other side's loss is called: give the term another name")
        return self


Objective = Annotated[Single | Annotated[Sum, Tag("sum")], kind_or("mse")]
"""What training minimises."""
