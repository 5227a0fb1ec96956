"""LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018) on VGG16.

Equation 1: at each place, the features of both images are made unit vectors; the squared differences of their channels
are weighted, summed over channels, averaged over places and summed over layers. The weights of version 0.1, the heads,
were learned on torchvision's VGG16 and are good for its channels alone: those of the original Caffe weights are others,
in another order, also in files that were rescaled to torchvision's input. For them there is the paper's plain variant,
which gives every channel the weight 1. What is not LPIPS says so in its name: `lpips_vgg_plain` has no heads, and
`lpips_vgg_12_plain` stops after two of the five layers as well.
"""

import numpy as np
import torch
from torch import Tensor, nn

from srcluster.objectives.vgg import VGGFeatures
from srcluster.objectives.weights import content_of, find, is_torchvisions, parse, read
from srcluster.recipe.objective import VGG

_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")

_HEADS = "vgg.pth"
"""What the file of version 0.1 is called by its authors, and so by `srcluster.fetch lpips-vgg`."""

_HEADS_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
"""Version 0.0 has the same name."""


class LPIPS(nn.Module):
    """The distance of two images: 0 for equal ones, and the higher the less alike.

    With torchvision's own weights it is LPIPS, and needs the heads: in the places where the weights are looked for, or
    beside them. With any others it is the plain variant, of as many of the five layers as their file reaches.

    Args:
        weights: Of VGG16, as an objective names them.
        normalization: Of the weights' input, as an objective says it.

    Attributes:
        name: `lpips_vgg`, or what it is instead.

    Raises:
        UserError: The weights or the heads are missing, or are not what they should be.
    """

    def __init__(self, weights: str = "auto", normalization: str = "auto"):
        super().__init__()
        wanted = VGG(kind="vgg", layers=dict.fromkeys(_LAYERS, 1.0), weights=weights, normalization=normalization)
        spec, tensors = read(wanted, or_less=True)
        layers = tuple(spec.layers)
        self.network = VGGFeatures(spec.network, layers, tensors, spec.normalization, torch.float32)
        if is_torchvisions(spec):
            self.name, heads = "lpips_vgg", _heads(spec.weights)
        else:
            part = "" if layers == _LAYERS else "_" + "".join(name[4] for name in layers)
            self.name, heads = f"lpips_vgg{part}_plain", [torch.ones(1) for _ in layers]
        self.heads = nn.ParameterList(heads).requires_grad_(False)

    @torch.inference_mode()
    def forward(self, sr: np.ndarray, hr: np.ndarray) -> float:
        """The distance of SR and HR, H x W x 3 uint8 with sides of 16 pixels or more; nothing is shaved off."""
        # One by one: features of both images at once would be twice the memory.
        a, b = ([_unit(features) for features in self.network(self._batch(image))] for image in (sr, hr))
        return sum(float((w * (x - y).square()).sum(1).mean()) for w, x, y in zip(self.heads, a, b, strict=True))

    def _batch(self, image: np.ndarray) -> Tensor:
        return torch.tensor(image, device=self.network.mean.device).permute(2, 0, 1)[None].float() / 255


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _heads(weights: str) -> list[Tensor]:
    """The weight of each layer's channels, 1 x C x 1 x 1."""
    url = find(_HEADS, "lpips-vgg", beside="" if weights.startswith(("http://", "https://")) else weights)
    tensors = parse(content_of(url, _HEADS_SHA256, "lpips-vgg"), url, "lpips-vgg")
    return [tensors[f"lin{layer}.model.1.weight"] for layer in range(len(_LAYERS))]
