"""Networks that tell an original from what a generator made."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from srcluster.models.network import conv3
from srcluster.recipe.objective import Discriminator


class SRGANDiscriminator(nn.Module):
    """Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a GAN" (CVPR 2017), figure 4.

    It gives a logit for each image, B x 1, without the paper's sigmoid, which belongs to the loss. Images of another
    side than the paper's 96 pixels reach the dense layers averaged over 6 x 6 areas.
    """

    def __init__(self, features: int):
        super().__init__()
        layers: list[nn.Module] = [conv3(3, features), nn.LeakyReLU(0.2, inplace=True)]
        channels = [features, features, 2 * features, 2 * features, 4 * features, 4 * features]
        for number, (before, after) in enumerate(pairwise([*channels, 8 * features, 8 * features])):
            stride = 2 if number % 2 == 0 else 1
            layers += [
                nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.body = nn.Sequential(*layers)
        self.dense = nn.Sequential(
            nn.Linear(8 * features * 6 * 6, 16 * features), nn.LeakyReLU(0.2, inplace=True), nn.Linear(16 * features, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.dense(F.adaptive_avg_pool2d(self.body(images), 6).flatten(1))


class UNetDiscriminator(nn.Module):
    """Wang et al., "Real-ESRGAN" (ICCV-W 2021), section 3.3: a U-Net with spectral normalisation.

    It gives a logit for each pixel, B x 1 x H x W. H and W are multiples of 8.
    """

    def __init__(self, features: int):
        super().__init__()

        def layer(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Module:
            return spectral_norm(nn.Conv2d(before, after, kernel, stride, padding=1, bias=False))

        widths = [features, 2 * features, 4 * features, 8 * features]
        self.head = conv3(3, features)
        self.down = nn.ModuleList(layer(before, after, 4, 2) for before, after in pairwise(widths))
        self.up = nn.ModuleList(layer(before, after) for before, after in pairwise(widths[::-1]))
        self.tail = nn.Sequential(
            layer(features, features),
            nn.LeakyReLU(0.2),
            layer(features, features),
            nn.LeakyReLU(0.2),
            conv3(features, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        seen = [F.leaky_relu(self.head(images), 0.2)]
        for layer in self.down:
            seen.append(F.leaky_relu(layer(seen[-1]), 0.2))
        x = seen.pop()
        for layer in self.up:
            enlarged = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(layer(enlarged), 0.2) + seen.pop()
        return self.tail(x)


def build_discriminator(spec: Discriminator) -> nn.Module:
    match spec.kind:
        case "srgan":
            return SRGANDiscriminator(spec.features)
        case "unet":
            return UNetDiscriminator(spec.features)
    raise AssertionError(spec.kind)
