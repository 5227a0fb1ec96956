"""The parts of a recipe that say what is measured and kept while it runs."""

from typing import Annotated, Literal

from pydantic import Field

from srcluster.recipe.validation import Part

__all__ = ["Checkpoint", "Evaluation"]


class Evaluation(Part):
    """Benchmark PSNR during the run."""

    benchmarks: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["auto"] = "auto"
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
    keep: int = Field(2, ge=1)
    """Latest checkpoints to keep: should one be damaged, the run goes on from the one before it."""
