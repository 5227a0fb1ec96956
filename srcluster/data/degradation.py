"""HR to LR, on the device: the LR a network trains on is the LR it is tested on.

The papers' LR is MATLAB's bicubic imresize of the whole photograph, rounded to 8 bits. Shrinking looks 2 * scale - 2
HR pixels beyond a patch, so patches are cut with a margin, shrunk with it, and trimmed: the LR of a patch is, bit for
bit, that region of the photograph's LR.
"""

from fractions import Fraction

import torch
from torch import Tensor

from srcluster.pixels.resize import resize
from srcluster.recipe import BICUBIC, Degradation

__all__ = ["augment", "degrade", "lr_and_hr", "margin", "shrink"]


def margin(scale: int, spec: Degradation = BICUBIC) -> int:
    """HR pixels to cut around a patch for `degrade` to trim: a whole number of LR pixels."""
    return 0 if spec.kind == "paired" else 2 * scale


def lr_and_hr(
    spec: Degradation, patches: tuple[Tensor, ...], scale: int, *, seed: int, step: int, places: range
) -> tuple[Tensor, Tensor]:
    """What a step trains on, of the patches that the stream gives.

    Args:
        spec: How LR is made.
        patches: HR with its margin, B x 3 x H x W uint8; of pairs, LR too.
        scale: HR pixels per LR pixel.
        seed: The recipe's. With the step and the place in the batch it decides all that is drawn for a patch.
        step: From 0.
        places: Of the B patches in the batch.

    Returns:
        lr: B x 3 x P/scale x P/scale; hr: B x 3 x P x P; both float32 in [0, 1].
    """
    match spec.kind:
        case "bicubic":
            return degrade(patches[0], scale)
        case "paired":
            hr, lr = patches
            return lr.float() / 255, hr.float() / 255
    raise AssertionError(spec.kind)


def augment(hr: Tensor, bits: Tensor) -> Tensor:
    """Turn each patch by one of the eight symmetries of the square.

    Args:
        hr: B x 3 x P x P, uint8.
        bits: 3 x B, bool: whether to mirror a patch left to right, top to bottom, and along its diagonal.

    Returns:
        Patches of the same shape and device.
    """
    bits = bits.to(hr.device)[..., None, None, None]
    hr = torch.where(bits[0], hr.flip(-1), hr)
    hr = torch.where(bits[1], hr.flip(-2), hr)
    return torch.where(bits[2], hr.mT, hr)


def shrink(hr: Tensor, scale: int) -> Tensor:
    """LR of HR images ... x H x W uint8: ... x ceil(H / scale) x ceil(W / scale), float32 in [0, 1], of 256 levels.

    For scales 2 and 4 the kernel's weights are multiples of 2^-12, so that in float64 every sum is exact and the
    rounding is the same whatever the device, the size and the order of summation.
    """
    lr = resize(hr.double(), Fraction(1, scale))
    return lr.clamp(0, 255).add(0.5).floor().float() / 255


def degrade(hr: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """LR and HR training patches from HR patches with their margin.

    Args:
        hr: B x 3 x (P + 2 margin) x (P + 2 margin), uint8, cut at a multiple of the scale.
        scale: HR pixels per LR pixel.

    Returns:
        lr: B x 3 x P/scale x P/scale; hr: B x 3 x P x P; both float32 in [0, 1].
    """
    lr_cut, hr_cut = margin(scale) // scale, margin(scale)
    lr = shrink(hr, scale)[..., lr_cut:-lr_cut, lr_cut:-lr_cut]
    return lr, hr[..., hr_cut:-hr_cut, hr_cut:-hr_cut].float() / 255
