"""Batch norm over the patches of all ranks, so that how many share a batch is no part of the experiment."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from srcluster.training.ranks import Ranks


def convert_sync_batch_norm(network: nn.Module, ranks: "Ranks") -> None:
    """Let each batch norm of a network take its statistics over the patches of all ranks; weights stay as they are.

    The network is not a batch norm itself.
    """
    if next(network.parameters()).is_cuda:
        # Torch's own works on GPUs alone.
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, SyncBatchNorm(child, ranks))


class SyncBatchNorm(nn.BatchNorm2d):
    """Ioffe and Szegedy's batch norm (2015), its mean and variance those of all ranks' inputs, however many each has.

    Args:
        alone: The layer that it takes the place of, and whose weights and statistics it has.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, alone: nn.BatchNorm2d, ranks: "Ranks"):
        super().__init__(alone.num_features, alone.eps, alone.momentum, device="meta")
        self._parameters, self._buffers, self.ranks = alone._parameters, alone._buffers, ranks

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps, self.ranks)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return y


class _Normalise(torch.autograd.Function):
    """Of torch's own kernels: of one rank's statistics, and of those that are given."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, ranks: "Ranks"
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _, own_mean, own_scale = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        own_count = torch.full_like(own_mean, x.numel() // x.shape[1])
        means, scales, counts = ranks.gather(torch.stack([own_mean, own_scale, own_count])).unbind(1)
        count = counts.sum(0)
        shares = counts / count
        mean = (shares * means).sum(0)
        variance = (shares * (scales.pow(-2) - eps + (means - mean).square())).sum(0)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps, ctx.ranks = eps, ranks
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: None) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, variance, count = ctx.saved_tensors
        through_output, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        # What the mean and the variance of all ranks hand back to each input.
        shared = ctx.ranks.gather(torch.stack([of_weight, of_bias])).sum(0) / count
        through_variance, through_mean = weight * (variance + ctx.eps).rsqrt() * shared
        through_statistics = F.batch_norm(x, mean, variance, through_variance, through_mean, eps=ctx.eps)
        return through_output.sub_(through_statistics), of_weight, of_bias, None, None
