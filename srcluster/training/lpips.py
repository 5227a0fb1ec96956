"""LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018) on VGG16.

Equation 1: at each place, the features of both images are made unit vectors; the squared differences of their channels
are weighted, summed over channels, averaged over places and summed over layers. The weights of version 0.1, the heads,
were learned on torchvision's VGG16 (`python -m srcluster.fetch vgg16`) and are good for its channels alone: those of
the original Caffe weights are others, in another order, also in files that were rescaled to torchvision's input. For
them there is the paper's plain variant, which gives every channel the weight 1. What is not LPIPS says so in its name:
`lpips_vgg_12` stops after two of the five layers, `lpips_vgg_12_plain` has no heads either.
"""

import numpy as np
import torch
from torch import Tensor

from srcluster import storage
from srcluster.objectives.vgg import VGG16
from srcluster.objectives.weights import WeightsError, parse, read
from srcluster.recipe_objective import VGG
from srcluster.training.evaluation import Measure

__all__ = ["lpips"]

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")


def lpips(
    heads: str | None,
    weights: str = "auto",
    *,
    normalization: str = "auto",
    layers: int = len(LAYERS),
    device: torch.device | str = "cpu",
) -> dict[str, Measure]:
    """LPIPS, as a measure that `evaluate` takes.

    Args:
        heads: The file of version 0.1 for VGG, `python -m srcluster.fetch lpips-vgg`: its path or s3:// URL. None gives
            each channel the weight 1.
        weights: Of VGG16, as an objective names them.
        normalization: Of the weights' input: `torchvision`, `caffe`, or `auto`, which knows torchvision's own file.
        layers: How many of the five are compared, from the first.
        device: Where it computes, in float32.

    Returns:
        Its name and, under it, the distance of two images, H x W x 3 uint8 with sides of 16 pixels or more: 0 for equal
        ones, and the higher the less alike. Whole images are compared: nothing is shaved off.

    Raises:
        WeightsError: The weights or the heads can't be used, or don't belong together.
        StorageError: They can't be read.
    """
    names = LAYERS[:layers]
    spec, tensors = read(
        VGG(kind="vgg", layers=dict.fromkeys(names, 1.0), weights=weights, normalization=normalization)
    )
    if heads and spec.normalization == "caffe":
        raise WeightsError(
            f"the heads of LPIPS are for torchvision's VGG16, and {spec.weights} is another: leave them out"
        )
    network = VGG16(names, tensors, spec.normalization, torch.float32).to(device).eval()
    channels = [network.parts.get_submodule(name.replace("relu", "conv")).out_channels for name in names]
    wanted = _heads(heads, channels) if heads else [torch.ones(1, count, 1, 1) for count in channels]
    weighting = [head.to(device) for head in wanted]

    @torch.inference_mode()
    def distance(sr: np.ndarray, hr: np.ndarray) -> float:
        # One by one: features of both images at once would be twice the memory.
        a, b = ([_unit(features) for features in network(_batch(image).to(device))] for image in (sr, hr))
        return sum(float((w * (x - y).square()).sum(1).mean()) for w, x, y in zip(weighting, a, b, strict=True))

    part = "" if layers == len(LAYERS) else "_" + "12345"[:layers]
    return {f"lpips_vgg{part}{'' if heads else '_plain'}": distance}


def _batch(image: np.ndarray) -> Tensor:
    return torch.tensor(image).permute(2, 0, 1)[None].float() / 255


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _heads(url: str, channels: list[int]) -> list[Tensor]:
    """The weight of each layer's channels, 1 x C x 1 x 1."""
    try:
        tensors = parse(storage.read(url), url)
    except WeightsError:
        tensors = {}
    found = [tensors.get(f"lin{layer}.model.1.weight") for layer in range(len(channels))]
    if [head.shape[1] for head in found if head is not None and head.ndim == 4] != channels:
        raise WeightsError(
            f"{url} has not the heads of LPIPS for VGG: get them with `python -m srcluster.fetch lpips-vgg`"
        )
    return found
