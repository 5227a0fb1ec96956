"""Distances between pixels."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from srcluster.pixels.colour import luma

__all__ = ["PixelObjective"]


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
        hr = _central(hr, sr.shape[-2], sr.shape[-1])
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


def _central(images: Tensor, height: int, width: int) -> Tensor:
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]
