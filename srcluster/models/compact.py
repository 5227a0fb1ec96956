"""Compact: SRVGGNetCompact of Real-ESRGAN (Wang et al., ICCV-W 2021), under its authors' parameter names."""

from torch import Tensor, nn
from torch.nn import functional as F

from srcluster import recipe
from srcluster.models.network import Network, conv3


class Compact(Network):
    """Convolutions and PReLUs on the LR grid, one sub-pixel convolution, and LR enlarged by its nearest neighbours."""

    def __init__(self, scale: int, spec: recipe.Compact):
        super().__init__()
        self.scale, self.reach = scale, spec.convs + 2
        features = spec.features
        layers: list[nn.Module] = []
        for channels in (3, *[features] * spec.convs):
            layers += [conv3(channels, features), nn.PReLU(features)]
        self.body = nn.Sequential(*layers, conv3(features, 3 * scale**2))

    def forward(self, lr: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(lr), self.scale) + F.interpolate(lr, scale_factor=self.scale, mode="nearest")
