"""The part of a recipe that says how LR is made of HR by chance: blur, resize, noise and JPEG, in steps.

The steps and their shares are those of Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure
Synthetic Data" (ICCV-W 2021), and of Zhang et al., "Designing a Practical Degradation Model for Deep Blind Image
Super-Resolution" (BSRGAN, ICCV 2021).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from srcluster.recipe.imported import Imported
from srcluster.recipe.validation import Part
from srcluster.recipe.yaml_files import did_you_mean, read_file, read_yaml, shipped_files


def _ordered(bounds: tuple[Any, Any]) -> tuple[Any, Any]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"a range is [least, most], not {list(bounds)}")
    return bounds


Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
"""The least and the most; a value is drawn between them with equal chance."""

Kernel = Literal[
    "isotropic",
    "anisotropic",
    "generalized_isotropic",
    "generalized_anisotropic",
    "plateau_isotropic",
    "plateau_anisotropic",
    "sinc",
]


class _Step(Part):
    probability: Probability = 1.0
    """Chance that the step is taken."""


class Blur(_Step):
    """A filter of random size and shape."""

    kind: Literal["blur"]
    kernels: dict[Kernel, Annotated[float, Field(ge=0)]] = Field({"isotropic": 1.0}, min_length=1)
    """Share of each kernel."""
    sizes: Annotated[tuple[Annotated[int, Field(ge=3, le=63)], int], AfterValidator(_ordered)] = (7, 21)
    """Least and largest side in pixels; odd ones are drawn."""
    sigma: Range = (0.2, 3.0)
    """Standard deviation in pixels."""
    beta_generalized: Range = (0.5, 4.0)
    """Exponent of generalised kernels: below 1 in one half of the draws, above in the other."""
    beta_plateau: Range = (1.0, 2.0)

    @model_validator(mode="after")
    def _drawable(self):
        if not any(self.kernels.values()):
            raise ValueError("one of kernels has a share above 0")
        if self.sizes[1] // 2 * 2 + self.sizes[0] % 2 < self.sizes[0]:
            raise ValueError(f"there is no odd size in {list(self.sizes)}")
        return self


class Resize(_Step):
    """Another size, by a random factor and interpolation."""

    kind: Literal["resize"]
    of: Literal["hr", "lr"] = "hr"
    """Size that the factor multiplies."""
    up: Probability = 0.0
    """Share of factors from 1 to `factors[1]`."""
    down: Probability = 0.0
    """Share of factors from `factors[0]` to 1; with what `up` and `down` leave, the factor is 1."""
    factors: Range = (0.5, 1.5)
    modes: tuple[Literal["area", "bilinear", "bicubic"], ...] = Field(("area", "bilinear", "bicubic"), min_length=1)
    """Interpolations, with equal chance; bilinear and bicubic do not smooth before shrinking."""

    @model_validator(mode="after")
    def _shares(self):
        if self.up + self.down > 1:
            raise ValueError(f"up and down are shares: {self.up:g} + {self.down:g} is above 1")
        if self.factors[0] > 1 or self.factors[1] < 1:
            raise ValueError(f"factors are around 1, not {list(self.factors)}")
        return self


class Noise(_Step):
    """Gaussian noise, or Poisson noise that grows with the brightness."""

    kind: Literal["noise"]
    gaussian: Probability = 1.0
    """Share of Gaussian noise; the rest is Poisson noise."""
    sigma: Range = (1.0, 30.0)
    """Standard deviation of Gaussian noise in 1/255."""
    poisson_scale: Range = (0.05, 3.0)
    """Factor of Poisson noise; 1 is that of one photon per grey level."""
    grey: Probability = 0.0
    """Share of noise that is the same in the three channels."""


class Jpeg(_Step):
    """JPEG compression, 4:2:0."""

    kind: Literal["jpeg"]
    quality: Annotated[
        tuple[Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]], AfterValidator(_ordered)
    ] = (30, 95)


class ImportedStep(_Step, Imported):
    """A degradation of a person's own: what its call gives is called with an image, 3 x H x W in [0, 1] on the device,
    and a NumPy generator that all its draws come from, and gives the degraded image.
    """


class Shuffle(_Step):
    """Several steps, in a random order."""

    kind: Literal["shuffle"]
    steps: "tuple[Step, ...]" = Field(min_length=1)


class OneOf(_Step):
    """One of several lists of steps, with equal chance."""

    kind: Literal["one_of"]
    choices: "tuple[tuple[Step, ...], ...]" = Field(min_length=1)


Step = Annotated[Blur | Resize | Noise | Jpeg | ImportedStep | Shuffle | OneOf, Field(discriminator="kind")]


class Pipeline(Part):
    """Steps from HR to LR. What has another size than LR after the last of them is resized, bicubically.

    Each patch has its own draws, a function of the seed, the training step and its place in the batch.
    """

    kind: Literal["pipeline"]
    steps: tuple[Step, ...] = Field(min_length=1)
    """Or `preset`, in its place: the name of one that ships."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "preset" not in values:
            return values
        values = dict(values)
        name, files = str(values.pop("preset")), shipped_files("degradations")
        if "steps" in values:
            raise ValueError("give either preset or steps")
        if name not in files:
            raise ValueError(f"there is no preset {name!r}{did_you_mean(name, files)}; there are {', '.join(files)}")
        return values | {"steps": read_yaml(read_file(files[name]), files[name].name)}
