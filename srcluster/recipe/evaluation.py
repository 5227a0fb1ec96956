"""The parts of a recipe that say what is measured and kept while it runs."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from srcluster.recipe.measure import MEASURES, Criterion, Measure, measure, metric_title
from srcluster.recipe.validation import Part


class Evaluation(Part):
    """What is measured during the run and at its end."""

    benchmarks: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["auto"] = "auto"
    """Names (Set5, Set14, BSD100, Urban100, Manga109, Wheel3), folders or s3:// URLs; `auto` takes the named ones that
    are at hand."""
    validation: str = "auto"
    """Pictures to choose weights and trials by, named as benchmarks are; `auto` is what `pack --holdout` kept out of
    the shards. Without any, or with `none`, they are chosen by the first benchmark."""
    every_steps: int = Field(1000, ge=1)
    """The validation pictures are measured this often, the benchmarks at the end."""
    metrics: tuple[str, ...] = Field(tuple(MEASURES), min_length=1)
    """What is measured: see `recipe.measure`."""
    select: str = "best"
    """The measure that chooses the weights that are kept, and ranks trials; it need not be among `metrics`. `best` is
    `psnr_y`; `last` keeps the last weights that were measured, and ranks trials by `psnr_y`."""
    pictures: int = Field(5, ge=0)
    """Images of each benchmark of which a comparison is kept, and of the first one a detail at every evaluation."""

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        names = [measure(words).name for words in metrics]
        if len(set(names)) < len(names):
            raise ValueError(f"each measure has a name of its own, not {', '.join(names)}")
        return metrics

    @model_validator(mode="after")
    def _selectable(self) -> "Evaluation":
        self._known(self._all_metrics)
        return self

    @property
    def _selected(self) -> str:
        return "psnr_y" if self.select in ("best", "last") else self.select

    @property
    def _all_metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.metrics, self._selected)))

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All that is measured."""
        return tuple(map(measure, self._all_metrics))

    @property
    def validated(self) -> bool:
        """Whether weights and trials are chosen by other pictures than a benchmark's; known of a resolved recipe."""
        return self.validation not in ("auto", "none")

    def criterion(self, pictures: str) -> Criterion:
        """What weights and trials are chosen by, on a benchmark or the validation pictures of this name."""
        chosen = measure(self._selected)
        return Criterion(f"{chosen.name}/{pictures}", chosen.higher)

    def choice(self, pictures: str) -> str:
        """How the weights are chosen, in words, for tables and pages."""
        criterion = self.criterion(pictures)
        if self.select == "last":
            return "the last weights that were measured"
        most = "highest" if criterion.higher else "lowest"
        return f"the weights with the {most} {metric_title(criterion.metric)}" + " (chosen on a test set)" * (
            not self.validated
        )


class Checkpoint(Part):
    """How often a run can be continued from."""

    every_steps: int = Field(1000, ge=1)
    keep: int = Field(2, ge=1)
    """Latest checkpoints to keep: should one be damaged, the run goes on from the one before it."""
