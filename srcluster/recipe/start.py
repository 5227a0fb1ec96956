"""The part of a recipe that says which weights training starts from."""

from pydantic import Field, model_validator

from srcluster.recipe.validation import Part


class Start(Part):
    """Weights of another run, or another program's; none: as the network begins by itself."""

    weights: str = ""
    """What `evaluate` takes as a model: a run's name or id, a file, models:/name/1, s3:// or https://."""
    strict: bool = True
    """Whether all weights must fit; else what fits by name and shape is taken."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Of the file; found before anything starts."""

    @model_validator(mode="after")
    def _of_weights(self):
        if not self.weights and (self.sha256 or not self.strict):
            raise ValueError("start.strict and start.sha256 are for start.weights: say which weights")
        return self
