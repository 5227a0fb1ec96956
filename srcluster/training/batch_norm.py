"""Batch norm over the patches of all ranks, so that how many share a batch is no part of the experiment."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from srcluster.training.ranks import Ranks

__all__ = ["SyncBatchNorm", "convert_sync_batch_norm"]


def convert_sync_batch_norm(network: nn.Module, ranks: "Ranks") -> None:
    """Let each batch norm of a network take its statistics over the patches of all ranks; weights stay as they are.

    Args:
        network: Not a batch norm itself.
        ranks: Each has as many patches as the others.
    """
    if next(network.parameters()).is_cuda:
        # Torch's own works on GPUs alone.
        nn.SyncBatchNorm.convert_sync_batchnorm(network, ranks.group)
        return
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, SyncBatchNorm(child, ranks))


class SyncBatchNorm(nn.BatchNorm2d):
    """Ioffe and Szegedy's batch norm (2015), its mean and variance those of all ranks' inputs.

    Args:
        alone: The layer that it takes the place of, and whose weights and statistics it has.
        ranks: Who trains together.
    """

    def __init__(self, alone: nn.BatchNorm2d, ranks: "Ranks"):
        super().__init__(alone.num_features, alone.eps, alone.momentum, device="meta")
        self._parameters, self._buffers, self.ranks = alone._parameters, alone._buffers, ranks

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y, mean, variance = _Normalise.apply(x, self.weight, self.bias, self.eps, self.ranks)
        count = x.numel() // x.shape[1] * self.ranks.world
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return y


class _Normalise(torch.autograd.Function):
    """Of torch's own kernels: of one rank's statistics, and of those that are given."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, ranks) -> tuple[Tensor, Tensor, Tensor]:
        _, own_mean, own_scale = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        means, scales = ranks.gather(torch.stack([own_mean, own_scale])).unbind(1)
        mean = means.mean(0)
        variance = (scales.pow(-2) - eps + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.ranks = eps, ranks
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: None) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, variance = ctx.saved_tensors
        through_output, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        # What the mean and the variance of all ranks hand back to each input.
        shared = ctx.ranks.gather(torch.stack([of_weight, of_bias])).mean(0) / (x.numel() // x.shape[1])
        through_variance, through_mean = weight * (variance + ctx.eps).rsqrt() * shared
        through_statistics = F.batch_norm(x, mean, variance, through_variance, through_mean, eps=ctx.eps)
        return through_output.sub_(through_statistics), of_weight, of_bias, None, None
