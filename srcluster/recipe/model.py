"""The part of a recipe that says which network."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from srcluster.recipe.imported import Imported
from srcluster.recipe.validation import Part


def _odd(side: int) -> int:
    if side % 2 == 0:
        raise ValueError(f"the side of a filter is odd, so that it has a centre, not {side}")
    return side


Features = Annotated[int, Field(ge=1, le=4096)]
"""Channels."""

Side = Annotated[int, Field(ge=1, le=99), AfterValidator(_odd)]
"""Of a filter, in pixels."""


class Interpolation(Part):
    """No network: the baselines of every table, evaluated by the same code as the networks."""

    kind: Literal["interpolation"] = "interpolation"
    kernel: Literal["nearest", "bilinear", "bicubic"] = "bicubic"


class SRCNN(Part):
    """Dong et al., "Image Super-Resolution Using Deep Convolutional Networks" (TPAMI 2016)."""

    kind: Literal["srcnn"]
    kernel_sizes: tuple[Side, Side, Side] = (9, 5, 5)
    """Side of the filters of patch extraction, non-linear mapping and reconstruction; the paper's 9-1-5 or 9-5-5."""
    features: tuple[Features, Features] = (64, 32)
    """Channels after the first and the second layer."""
    init: Literal["identity", "he", "paper"] = "identity"
    """How the weights begin: `paper` is Gaussian with deviation 0.001; `he` is He et al., 2015; `identity` is `he`
    with one channel that hands the bicubic picture through, so that the network begins as good as bicubic."""


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
    features: Features = 64
    """Channels of every inner layer."""
    blocks: int = Field(16, ge=0, le=1000)
    norm: Literal["batch", "none"] = "batch"
    activation: Literal["relu", "prelu"] = "prelu"
    residual_scale: float = Field(1.0, gt=0)
    """What a block's branch is multiplied by before it is added."""
    long_skip: bool = True
    """Whether one more convolution follows the blocks, and the head's features are added to it."""
    around: Literal["none", "activation", "norm_activation"] = "activation"
    """What follows the head and each convolution of the upsampler."""
    outer_kernel: Side = 9
    """Side of the head's and the tail's filters."""
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
        if self.icnr and self.upsampler != "pixel_shuffle":
            raise ValueError(f"icnr is for upsampler: pixel_shuffle, not {self.upsampler}")
        if self.output == "tanh" and (self.base != "none" or self.subtract_mean):
            raise ValueError("output: tanh gives a picture: nothing is added to it by base or subtract_mean")
        return self


class MSRResNet(Part):
    """BasicSR's and KAIR's SRResNet without batch norm."""

    kind: Literal["msrresnet"]
    features: Features = 64
    blocks: int = Field(16, ge=1, le=1000)


class Compact(Part):
    """SRVGGNetCompact (Wang et al., "Real-ESRGAN", ICCV-W 2021)."""

    kind: Literal["compact"]
    features: Features = 64
    convs: int = Field(16, ge=1, le=1000)
    """Convolutions between the first and the last; 16 in animevideov3, 32 in general-x4v3."""


class RRDB(Part):
    """ESRGAN's generator (Wang et al., ECCV-W 2018); for scales 1, 2 and 4."""

    kind: Literal["rrdb"]
    features: Features = 64
    blocks: int = Field(23, ge=1, le=1000)
    unshuffle: Literal[1, 2, 4] = 1
    """Side of the squares of LR pixels that become channels first; 2 in Real-ESRGAN's x2plus."""


class SPAN(Part):
    """Wan et al., "Swift Parameter-free Attention Network for Efficient Super-Resolution" (CVPR-W 2024)."""

    kind: Literal["span"]
    features: Features = 48
    norm: bool = True
    """Take the mean colour of DIV2K from LR, and multiply by 255."""


class ImportedModel(Imported):
    """A network of a person's own, called with `scale` and the arguments."""

    reach: int | None = Field(None, ge=0)
    """Up to how many LR pixels away an HR pixel is made from; without it, tiling measures it."""


Model = Annotated[SRCNN | Residual | MSRResNet | Compact | RRDB | SPAN | ImportedModel, Field(discriminator="kind")]
