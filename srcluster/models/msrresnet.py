"""MSRResNet: the SRResNet without batch norm of BasicSR and KAIR, under BasicSR's parameter names."""

from math import ceil

from torch import Tensor, nn
from torch.nn import functional as F

from srcluster import recipe
from srcluster.models.network import Network, conv3, init_small
from srcluster.models.upsamplers import stages


class MSRResNet(Network):
    """Residual blocks, sub-pixel convolutions, two more convolutions, and LR enlarged bilinearly."""

    def __init__(self, scale: int, spec: recipe.MSRResNet):
        super().__init__()
        features, factors = spec.features, stages(scale)
        self.scale, self.factors = scale, factors
        self.reach = 1 + 2 * spec.blocks + len(factors) + ceil(2 / scale)
        self.conv_first = conv3(3, features)
        self.body = nn.Sequential(*(_Block(features) for _ in range(spec.blocks)))
        for number, factor in enumerate(factors, 1):
            self.add_module(f"upconv{number}", conv3(features, features * factor**2))
        self.conv_hr = conv3(features, features)
        self.conv_last = conv3(features, 3)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                init_small(layer)

    def forward(self, lr: Tensor) -> Tensor:
        x = self.body(F.leaky_relu(self.conv_first(lr), 0.1))
        for number, factor in enumerate(self.factors, 1):
            x = F.leaky_relu(F.pixel_shuffle(self.get_submodule(f"upconv{number}")(x), factor), 0.1)
        x = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.1))
        return x + F.interpolate(lr, scale_factor=self.scale, mode="bilinear")


class _Block(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.conv1, self.conv2 = (conv3(features, features) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))
