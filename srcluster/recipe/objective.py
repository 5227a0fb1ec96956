"""The part of a recipe that says what training minimises."""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag, field_validator

from srcluster.recipe.validation import Part, kind_or
from srcluster.recipe.yaml_files import did_you_mean

__all__ = ["VGG", "VGG16_LAYERS", "Objective", "Pixel", "Sum", "Term", "TotalVariation"]

VGG16_LAYERS = tuple(
    f"{kind}{block}_{number}"
    for block, depth in enumerate((2, 2, 3, 3, 3), 1)
    for number in range(1, depth + 1)
    for kind in ("conv", "relu")
)
"""Names of the convolutions of VGG16 and of their ReLUs, from the first to the deepest: conv1_1, relu1_1, conv1_2..."""


class Pixel(Part):
    """The mean distance of pixels."""

    kind: Literal["mse", "l1", "charbonnier"] = "mse"
    channels: Literal["rgb", "y"] = "rgb"


class VGG(Part):
    """The distance of what VGG16 sees in two images: `srcluster.objectives.vgg`."""

    kind: Literal["vgg"]
    layers: dict[str, Annotated[float, Field(gt=0)]] = Field({"relu2_2": 1.0}, min_length=1)
    """Which of VGG16_LAYERS are compared, and their weights in the sum; a single name has weight 1."""
    distance: Literal["mse", "l1", "cosine", "gram"] = "mse"
    """Of two feature maps; `gram` compares the correlations of their channels alone, which is style and not place."""
    weights: str = "auto"
    """A file in torchvision's names, .pth or .safetensors: its path, or s3:// or https URL; `auto` looks where
    `python -m srcluster.fetch vgg16` leaves it: in SRCLUSTER_WEIGHTS, SRCLUSTER_DATA, SRCLUSTER_STORAGE/weights."""
    normalization: Literal["auto", "torchvision", "caffe"] = "auto"
    """The input the weights were trained for: RGB in [0, 1], its mean and deviation made 0 and 1 (`torchvision`), or
    in [0, 255] less its mean (`caffe`, the original weights); `auto` knows that of torchvision's own file."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Of the file of the weights, if it is to be checked."""

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer(cls, layers: Any) -> Any:
        return {layers: 1.0} if isinstance(layers, str) else layers

    @field_validator("layers")
    @classmethod
    def _known(cls, layers: dict[str, float]) -> dict[str, float]:
        for name in layers:
            if name not in VGG16_LAYERS:
                meant = did_you_mean(name, VGG16_LAYERS)
                raise ValueError(f"VGG16 has conv1_1 to conv5_3 and relu1_1 to relu5_3, and no {name!r}{meant}")
        return layers


class TotalVariation(Part):
    """How much neighbouring pixels of SR differ, whatever HR is: a term of a `sum` that smooths."""

    kind: Literal["total_variation"]


_Single = (
    Annotated[Pixel, Tag("mse")]
    | Annotated[Pixel, Tag("l1")]
    | Annotated[Pixel, Tag("charbonnier")]
    | Annotated[VGG, Tag("vgg")]
    | Annotated[TotalVariation, Tag("total_variation")]
)


class Term(Part):
    """A part of a `sum`."""

    weight: float = Field(1.0, ge=0)
    objective: Annotated[_Single, kind_or("mse")]


class Sum(Part):
    """Several objectives at once, each under a name that overrides reach it by: `objective.terms.smooth.weight`."""

    kind: Literal["sum"]
    terms: dict[str, Term] = Field(min_length=1)


Objective = Annotated[_Single | Annotated[Sum, Tag("sum")], kind_or("mse")]
"""What training minimises."""
