"""HR to LR by the steps of a `srcluster.recipe.pipeline.Pipeline`, on the device.

A new step is a part of `recipe.pipeline` and a case of `_run`.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from srcluster.errors import UserError
from srcluster.pixels.blur_kernels import blur_kernel, sinc_kernel
from srcluster.pixels.jpeg import jpeg
from srcluster.pixels.resize import to_uint8
from srcluster.recipe.pipeline import Blur, ImportedStep, Noise, Resize, Step


def degrade_by_steps(hr: Tensor, scale: int, steps: Sequence[Step], random: Generator) -> Tensor:
    """LR of one HR image.

    Every random number comes from `random`, on the CPU, so that LR depends on it and not on the device.

    Args:
        hr: 3 x H x W uint8; H and W are multiples of the scale.

    Returns:
        3 x H/scale x W/scale float32 in [0, 1], of 256 levels.
    """
    lr_size = (hr.shape[-2] // scale, hr.shape[-1] // scale)
    image = _run(hr.float() / 255, (hr.shape[-2], hr.shape[-1]), lr_size, steps, random)
    if image.shape[-2:] != lr_size:
        image = F.interpolate(image[None], lr_size, mode="bicubic", antialias=True)[0]
    return to_uint8(image).float() / 255


def _run(
    image: Tensor, hr_size: tuple[int, int], lr_size: tuple[int, int], steps: Sequence[Step], random: Generator
) -> Tensor:
    for step in steps:
        if random.random() >= step.probability:
            continue
        match step.kind:
            case "blur":
                image = _blurred(image, _kernel(step, random))
            case "resize":
                image = _resized(image, hr_size if step.of == "hr" else lr_size, step, random)
            case "noise":
                image = (image + _noise(image, step, random)).clamp(0, 1)
            case "jpeg":
                image = jpeg(image.clamp(0, 1), int(random.integers(step.quality[0], step.quality[1] + 1)))
            case "import":
                image = _imported(step)(image, random)
            case "shuffle":
                shuffled = [step.steps[i] for i in random.permutation(len(step.steps))]
                image = _run(image, hr_size, lr_size, shuffled, random)
            case "one_of":
                chosen = step.choices[int(random.integers(len(step.choices)))]
                image = _run(image, hr_size, lr_size, chosen, random)
    return image


_imported = functools.cache(ImportedStep.call)


def check_steps(steps: Sequence[Step]) -> None:
    """Try the steps of a person's own on an image.

    Raises:
        UserError: One can't be imported, fails, or gives something else than an image.
    """
    for step in steps:
        match step.kind:
            case "import":
                image = step.trial(_imported(step), torch.rand(3, 32, 32), np.random.default_rng(0))
                if not isinstance(image, Tensor) or image.ndim != 3 or len(image) != 3:
                    what = f"{list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
                    raise UserError(f"{step.target} gives {what} for an image, and a degraded image is 3 x H x W")
            case "shuffle":
                check_steps(step.steps)
            case "one_of":
                check_steps(sum(step.choices, ()))


def _kernel(step: Blur, random: Generator) -> np.ndarray:
    names = list(step.kernels)
    shares = np.array([step.kernels[name] for name in names])
    name = names[int(random.choice(len(names), p=shares / shares.sum()))]
    least, most = step.sizes
    size = int(random.integers(least // 2, (most - 1) // 2 + 1)) * 2 + 1
    if name == "sinc":
        # Real-ESRGAN's bounds: small kernels with a low cutoff would dim all of the picture.
        return sinc_kernel(size, random.uniform(math.pi / (3 if size < 13 else 5), math.pi))
    sigma = random.uniform(*step.sigma), random.uniform(*step.sigma)
    angle = random.uniform(-math.pi, math.pi)
    if not name.endswith("anisotropic"):
        sigma = sigma[0], sigma[0]
    if name.startswith("generalized"):
        return blur_kernel(size, sigma, angle, "generalized", _beta(step.beta_generalized, random))
    if name.startswith("plateau"):
        return blur_kernel(size, sigma, angle, "plateau", _beta(step.beta_plateau, random))
    return blur_kernel(size, sigma, angle)


def _beta(bounds: tuple[float, float], random: Generator) -> float:
    """One half of the draws below 1, the other above, as far as the bounds let them."""
    least, most = bounds
    below = random.random() < 0.5
    middle = min(max(1.0, least), most)
    return random.uniform(least, middle) if below else random.uniform(middle, most)


def _blurred(image: Tensor, kernel: np.ndarray) -> Tensor:
    weight = torch.from_numpy(kernel).to(image).expand(3, 1, *kernel.shape)
    pad = len(kernel) // 2
    # A mirror needs more pixels than it shows.
    mode = "reflect" if pad < min(image.shape[-2:]) else "replicate"
    return F.conv2d(F.pad(image[None], (pad,) * 4, mode=mode), weight, groups=3)[0]


def _resized(image: Tensor, size: tuple[int, int], step: Resize, random: Generator) -> Tensor:
    least, most = step.factors
    direction = random.random()
    factor = 1.0
    if direction < step.up:
        factor = random.uniform(1, most)
    elif direction < step.up + step.down:
        factor = random.uniform(least, 1)
    mode = step.modes[int(random.integers(len(step.modes)))]
    size = max(1, int(size[0] * factor)), max(1, int(size[1] * factor))
    return F.interpolate(image[None], size, mode=mode)[0]


def _noise(image: Tensor, step: Noise, random: Generator) -> Tensor:
    gaussian, grey = random.random() < step.gaussian, random.random() < step.grey
    size = image.shape[-2:]
    if gaussian:
        drawn = random.normal(0, random.uniform(*step.sigma) / 255, (1 if grey else 3, *size))
        return torch.from_numpy(drawn).to(image)
    scale = random.uniform(*step.poisson_scale)
    levels = np.round(image.clamp(0, 1).cpu().numpy().astype(np.float64) * 255) / 255
    if grey:
        levels = np.tensordot([0.299, 0.587, 0.114], levels, 1)[None]
        levels = np.round(levels * 255) / 255
    # As many photons for white as there are grey levels, up to the next power of two.
    photons = 2.0 ** math.ceil(math.log2(len(np.unique(levels))))
    return torch.from_numpy((random.poisson(levels * photons) / photons - levels) * scale).to(image)
