"""Objectives of pixels."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from srcluster.pixels.colour import luma


@dataclass(frozen=True)
class PixelObjective:
    """The mean distance of pixels; of the central ones, where SR is smaller than HR.

    Attributes:
        kind: `mse`; `l1`; or `charbonnier`, sqrt(d^2 + eps^2) with eps = 1e-3 (Lai et al., LapSRN, 2017).
        channels: Of `rgb`, or of the luma `y` alone.
    """

    kind: str
    channels: str

    def __call__(self, sr: Tensor, hr: Tensor) -> Tensor:
        hr = central(hr, sr.shape[-2], sr.shape[-1])
        if self.channels == "y":
            sr, hr = luma(*sr.unbind(1)), luma(*hr.unbind(1))
        match self.kind:
            case "mse":
                return F.mse_loss(sr, hr)
            case "l1":
                return F.l1_loss(sr, hr)
            case "charbonnier":
                return ((sr - hr).square() + 1e-6).sqrt().mean()
        raise AssertionError(self.kind)


def total_variation(sr: Tensor, hr: Tensor) -> Tensor:
    """The mean, over pixels and channels, of dx^2 + dy^2: the squared differences to the next pixel.

    That is the regulariser of Mahendran and Vedaldi, "Understanding Deep Image Representations by Inverting Them" (CVPR
    2015), with beta = 2, as Johnson et al. (2016, section 3.2) use it, but a mean instead of a sum, so that its weight
    does not depend on the size of the patches. HR plays no part.
    """
    return (sr[..., :, 1:] - sr[..., :, :-1]).square().mean() + (sr[..., 1:, :] - sr[..., :-1, :]).square().mean()


def central(images: Tensor, height: int, width: int) -> Tensor:
    """The central part of images, ... x H x W, that is of this size."""
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]
