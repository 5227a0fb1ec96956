"""The part of a recipe that says how LR is made of HR, or that it comes with it."""

from typing import Annotated, Literal

from pydantic import Tag

from srcluster.recipe.pipeline import Pipeline
from srcluster.recipe.validation import Part, kind_or


class Bicubic(Part):
    """MATLAB's imresize, of 256 levels."""

    kind: Literal["bicubic"] = "bicubic"


class Paired(Part):
    """The LR pictures that were packed with their HR pictures (`python -m srcluster.pack HR --lr LR`), at any scale."""

    kind: Literal["paired"]


BICUBIC = Bicubic()

Degradation = Annotated[
    Annotated[Bicubic, Tag("bicubic")] | Annotated[Paired, Tag("paired")] | Annotated[Pipeline, Tag("pipeline")],
    kind_or("bicubic"),
]
