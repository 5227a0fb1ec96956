"""HR to LR, on the device: the LR a network trains on is the LR it is tested on.

The papers' LR is MATLAB's bicubic imresize of the whole photograph, rounded to 8 bits. Shrinking looks 2 * scale - 2
HR pixels beyond a patch, so patches are cut with a margin, shrunk with it, and trimmed: the LR of a patch is, bit for
bit, that region of the photograph's LR.
"""

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from srcluster.data.pipeline import degrade_by_steps
from srcluster.pixels.resize import resize
from srcluster.recipe import BICUBIC, Degradation

_PIPELINE_MARGIN = 24

_DRAWS = 4
"""Sets these draws apart from those of `srcluster.data.order`."""


def margin(scale: int, spec: Degradation = BICUBIC) -> int:
    """HR pixels to cut around a patch for `lr_and_hr` to trim: a whole number of LR pixels."""
    match spec.kind:
        case "paired":
            return 0
        case "pipeline":
            # As far as two blurs of the largest usual size reach.
            return -(-_PIPELINE_MARGIN // scale) * scale
    return 2 * scale


def lr_and_hr(
    spec: Degradation, patches: tuple[Tensor, ...], scale: int, *, seed: int, step: int, places: range
) -> tuple[Tensor, Tensor]:
    """What a step trains on, of the patches that the stream gives.

    Args:
        patches: HR with its margin, B x 3 x H x W uint8; of pairs, LR too.
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
        case "pipeline":
            randoms = [np.random.default_rng([_DRAWS, seed, step, place]) for place in places]
            pairs = zip(patches[0], randoms, strict=True)
            lr = torch.stack([degrade_by_steps(hr, scale, spec.steps, random) for hr, random in pairs])
            return _trimmed(lr, patches[0], scale, margin(scale, spec))
    raise AssertionError(spec.kind)


def augment(hr: Tensor, bits: Tensor) -> Tensor:
    """Turn each patch by one of the eight symmetries of the square.

    Args:
        hr: B x 3 x P x P, uint8.
        bits: 3 x B, bool: whether to mirror a patch left to right, top to bottom, and along its diagonal.
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

    Returns:
        lr: B x 3 x P/scale x P/scale; hr: B x 3 x P x P; both float32 in [0, 1].
    """
    return _trimmed(shrink(hr, scale), hr, scale, margin(scale))


def _trimmed(lr: Tensor, hr: Tensor, scale: int, cut: int) -> tuple[Tensor, Tensor]:
    inside = cut // scale
    return lr[..., inside:-inside, inside:-inside], hr[..., cut:-cut, cut:-cut].float() / 255
