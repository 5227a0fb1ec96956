"""SPAN: "Swift Parameter-free Attention Network" (Wan et al., CVPR-W 2024), under its authors' parameter names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srcluster import recipe
from srcluster.models.network import Network, conv3
from srcluster.models.residual import DIV2K_MEAN


class SPAN(Network):
    """Six blocks on the LR grid, four of whose features are joined, and one sub-pixel convolution."""

    mean: Tensor
    block_1: nn.Module

    def __init__(self, scale: int, spec: recipe.SPAN):
        super().__init__()
        features = spec.features
        # conv_1, three convolutions of each block, conv_2 and the upsampler.
        self.scale, self.reach, self.normalise = scale, 1 + 6 * 3 + 1 + 1, spec.norm
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)
        if not spec.norm:
            # So its authors' followers mark a file.
            self.register_buffer("no_norm", torch.zeros(1))
        self.conv_1 = _Conv3XC(3, features)
        for number in range(1, 7):
            self.add_module(f"block_{number}", _Block(features))
        self.conv_cat = nn.Conv2d(4 * features, features, 1)
        self.conv_2 = _Conv3XC(features, features)
        self.upsampler = nn.Sequential(conv3(features, 3 * scale**2), nn.PixelShuffle(scale))

    def forward(self, lr: Tensor) -> Tensor:
        first = x = self.conv_1((lr - self.mean) * 255 if self.normalise else lr)
        x = second = self.block_1(x)[0]
        for number in range(2, 7):
            x, inner = self.get_submodule(f"block_{number}")(x)
        return self.upsampler(self.conv_cat(torch.cat([first, self.conv_2(x), second, inner], 1)))


class _Block(nn.Module):
    """Three convolutions, whose result is its own attention; gives this, and what the first convolution gave."""

    def __init__(self, features: int):
        super().__init__()
        self.c1_r, self.c2_r, self.c3_r = (_Conv3XC(features, features) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = F.silu(self.c1_r(x))
        out = self.c3_r(F.silu(self.c2_r(inner)))
        return (out + x) * (out.sigmoid() - 0.5), inner


class _Conv3XC(nn.Module):
    """A convolution 3x3 that is trained as the sum of 1x1 and of 1x1, 3x3, 1x1, and evaluated as one.

    What files hold of the one, `eval_conv`, is written anew from the others, and read by other programs alone.
    """

    def __init__(self, before: int, after: int):
        super().__init__()
        self.sk = nn.Conv2d(before, after, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(before, 2 * before, 1), nn.Conv2d(2 * before, 2 * after, 3), nn.Conv2d(2 * after, after, 1)
        )
        self.eval_conv = conv3(before, after).requires_grad_(False)
        self.register_state_dict_pre_hook(_fuse)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.conv(F.pad(x, (1, 1, 1, 1))) + self.sk(x)
        return F.conv2d(x, *self.fused(), padding=1)

    def fused(self) -> tuple[Tensor, Tensor]:
        (w1, b1), (w2, b2), (w3, b3), (w4, b4) = (layer.parameters() for layer in (*self.conv, self.sk))
        w1, w3 = w1[..., 0, 0], w3[..., 0, 0]
        weight = torch.einsum("om,mkyx,ki->oiyx", w3, w2, w1) + F.pad(w4, (1, 1, 1, 1))
        return weight, w3 @ (w2.sum((2, 3)) @ b1 + b2) + b3 + b4


@torch.no_grad()
def _fuse(layer: _Conv3XC, prefix: str, keep_vars: bool) -> None:
    for parameter, fused in zip(layer.eval_conv.parameters(), layer.fused(), strict=True):
        parameter.copy_(fused)
