"""Distances between what VGG16 or VGG19 sees in two images: perceptual losses.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015), table 1 D
and E, are the networks; Johnson, Alahi and Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and
Super-Resolution" (ECCV 2016), section 3.2, compares images by them.

"The 7th layer of VGG16" may mean two of its layers. Index 7 of torchvision's `features` is conv2_2, whose ReLU relu2_2
is what Johnson et al. use for super-resolution: the default. The 7th convolution is conv3_3 (`features.14`): that
reading is `layers: conv3_3`, or relu3_3 after its ReLU. Ledig et al.'s phi_i,j is reluI_J of VGG19 (SRGAN, 2017,
section 2.2.1).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srcluster.errors import UserError
from srcluster.objectives.pixel import central
from srcluster.objectives.weights import convolutions, read
from srcluster.recipe.objective import VGG, VGG_LAYERS

_INPUT = {
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
}
"""The mean and the divisor of R, G and B in [0, 1] that weights were trained with."""

_SHORT = 1e-3
"""Of feature vectors shorter than this the direction counts less, or its gradient would have no bound."""


class VGGFeatures(nn.Module):
    """VGG16 or VGG19 up to the deepest of some layers, frozen.

    Args:
        layers: Names of VGG_LAYERS: what it gives.
        tensors: Its weights, as `weights.read` gives them.
        normalization: Of the input that they were trained with: `torchvision` or `caffe`.
        dtype: Of the convolutions; what is normalised is float32 in any case.
    """

    def __init__(
        self,
        network: str,
        layers: tuple[str, ...],
        tensors: Mapping[str, Tensor],
        normalization: str,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.layers = layers
        self.mean: Tensor
        self.divisor: Tensor
        mean, divisor = (torch.tensor(values).view(1, 3, 1, 1) for values in _INPUT[normalization])
        self.register_buffer("mean", mean)
        self.register_buffer("divisor", divisor)
        names = VGG_LAYERS[network]
        channels = {name: sides for name, _, sides in convolutions(network)}
        self.smallest = 1
        """The least side of images."""
        self.parts = nn.Sequential()
        for name in names[: 1 + max(map(names.index, layers))]:
            if name.startswith("relu"):
                self.parts.add_module(name, nn.ReLU(inplace=name.replace("relu", "conv") not in layers))
                continue
            if name.endswith("_1") and name != "conv1_1":
                self.parts.add_module(f"pool{name[4]}", nn.MaxPool2d(2))
                self.smallest *= 2
            self.parts.add_module(name, nn.Conv2d(*channels[name], 3, padding=1))
        self.parts.load_state_dict(tensors)
        # Nearly twice as fast as the default layout, on a CPU in float32 as well.
        self.parts.requires_grad_(False)
        # Torch's types leave the layout out.
        self.parts.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> list[Tensor]:
        """What each layer gives for images, B x 3 x H x W float32 in [0, 1]: B x C x h x w, in their order."""
        dtype = next(self.parts.parameters()).dtype
        features = ((images - self.mean) / self.divisor).to(dtype, memory_format=torch.channels_last)
        found = {}
        for name, part in self.parts.named_children():
            features = part(features)
            if name in self.layers:
                found[name] = features
        return [found[name] for name in self.layers]


class Perceptual:
    """The weighted sum, over layers of VGG16 or VGG19, of the distance between its features of SR and of HR.

    Where SR is smaller than HR, it is that of SR and the central part of HR. The network computes in `dtype`, and
    distances are float32.
    """

    def __init__(self, spec: VGG, device: torch.device, dtype: torch.dtype):
        self.spec, tensors = read(spec)
        layers = tuple(spec.layers)
        self.network = VGGFeatures(spec.network, layers, tensors, self.spec.normalization, dtype).to(device)

    def __call__(self, sr: Tensor, hr: Tensor) -> Tensor:
        hr = central(hr, sr.shape[-2], sr.shape[-1])
        if min(sr.shape[-2:]) < self.network.smallest:
            network = self.spec.network.upper()
            raise UserError(
                f"SR of {sr.shape[-1]} x {sr.shape[-2]} is too small for {', '.join(self.spec.layers)} of {network}: "
                f"raise data.patch until it has {self.network.smallest} pixels on each side"
            )
        # Two passes: in one, of a batch of both, the backward pass would go through HR's half for nothing.
        with torch.no_grad():
            wanted = self.network(hr)
        pairs = zip(self.spec.layers.values(), self.network(sr), wanted, strict=True)
        terms = [weight * distance(self.spec.distance, a.float(), b.float()) for weight, a, b in pairs]
        return torch.stack(terms).sum()


def distance(kind: str, a: Tensor, b: Tensor) -> Tensor:
    """The distance of two feature maps, B x C x H x W, a scalar: the mean over the batch.

    Args:
        kind: `mse`: the mean square of the differences (Johnson et al., equation 2). `l1`: the mean of their amounts.
            `cosine`: 1 - cos of the angle between the C features of a and b at a place, the mean over all places, as
            half of the square that Zhang et al. (LPIPS, 2018, equation 1) take of the difference of unit vectors.
            `gram`: the squared Frobenius norm of the difference of G = F F^T / CHW, where F is the map as C x HW
            (Johnson et al., equations 3 and 4): place does not count.
    """
    match kind:
        case "mse":
            return F.mse_loss(a, b)
        case "l1":
            return F.l1_loss(a, b)
        case "cosine":
            return (_direction(a) - _direction(b)).square().sum(1).mean() / 2
        case "gram":
            return (_gram(a) - _gram(b)).square().sum((1, 2)).mean()
    raise AssertionError(kind)


def _direction(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + _SHORT**2).sqrt()


def _gram(features: Tensor) -> Tensor:
    flat = features.flatten(2)
    return flat @ flat.mT / (flat.shape[1] * flat.shape[2])
