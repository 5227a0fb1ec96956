"""One residual trunk that is SRResNet, the perceptual-loss network, or EDSR: see `recipe.Residual`."""

from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srcluster import recipe
from srcluster.models.network import Network, conv3, init_small
from srcluster.models.upsamplers import SubPixel, stages, upsampler

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean RGB of DIV2K's training pictures, from the code of EDSR's authors."""


class ResidualNetwork(Network):
    """Head, residual blocks, upsampler and tail; every convolution pads with zeros, so that any LR size goes in."""

    mean: Tensor

    def __init__(self, scale: int, spec: recipe.Residual):
        super().__init__()
        self.scale, self.output, self.base = scale, spec.output, spec.base
        features, side = spec.features, spec.outer_kernel
        self.head = nn.Sequential(nn.Conv2d(3, features, side, padding=side // 2), *_around(spec))
        self.blocks = nn.Sequential(*(_Block(spec) for _ in range(spec.blocks)))
        self.join = nn.Sequential(conv3(features, features), *_norm(spec)) if spec.long_skip else None
        self.upsampler = upsampler(spec.upsampler, features, scale, lambda: _around(spec))
        self.tail = nn.Conv2d(features, 3, side, padding=side // 2)
        radius = side // 2
        self.reach = radius + 2 * spec.blocks + spec.long_skip + len(stages(scale)) + ceil(radius / scale)
        mean = torch.tensor(DIV2K_MEAN if spec.subtract_mean else (0.0, 0.0, 0.0))
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        for layer in self.modules():
            if spec.init == "small" and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                init_small(layer)
            if spec.icnr and isinstance(layer, SubPixel):
                layer.as_nearest()

    def forward(self, lr: Tensor) -> Tensor:
        head = self.head(lr - self.mean)
        x = self.blocks(head)
        if self.join is not None:
            x = head + self.join(x)
        x = self.tail(self.upsampler(x))
        if self.output == "tanh":
            return (x.float().tanh() + 1) / 2
        if self.base == "bilinear":
            x = x + F.interpolate(lr, scale_factor=self.scale, mode="bilinear")
        return x + self.mean


class _Block(nn.Module):
    """Convolution, activation, convolution, each perhaps normalised, added to what came in; nothing after the sum
    (Gross and Wilber, "Training and investigating residual nets", 2016).
    """

    def __init__(self, spec: recipe.Residual):
        super().__init__()
        first, second = (conv3(spec.features, spec.features) for _ in range(2))
        self.branch = nn.Sequential(first, *_norm(spec), _activation(spec), second, *_norm(spec))
        self.scale = spec.residual_scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.scale == 1 else torch.add(x, self.branch(x), alpha=self.scale)


class PReLU(nn.PReLU):
    """Torch's, with one slope, but on a CPU with a gradient that runs at the speed of memory: torch's takes as long as
    all convolutions' forward passes together.
    """

    def forward(self, x: Tensor) -> Tensor:
        ours = x.device.type == "cpu" and x.requires_grad and not torch.compiler.is_compiling()
        return _PReLU.apply(x, self.weight) if ours else super().forward(x)


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope.item()
        return F.leaky_relu(x, ctx.slope)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        # By channel first: a sum of everything to one number is slow.
        of_slope = (gradient * x.clamp_max(0)).sum((0, 2, 3)).float().sum().view(1)
        return torch.ops.aten.leaky_relu_backward(gradient, x, ctx.slope, False), of_slope


def _norm(spec: recipe.Residual) -> list[nn.Module]:
    return [nn.BatchNorm2d(spec.features)] if spec.norm == "batch" else []


def _activation(spec: recipe.Residual) -> nn.Module:
    return PReLU() if spec.activation == "prelu" else nn.ReLU(inplace=True)


def _around(spec: recipe.Residual) -> list[nn.Module]:
    match spec.around:
        case "none":
            return []
        case "activation":
            return [_activation(spec)]
        case "norm_activation":
            return [*_norm(spec), _activation(spec)]
    raise AssertionError(spec.around)
