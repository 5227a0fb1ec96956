"""Batch norm over the patches of all ranks, so that how many share a batch is no part of the experiment."""

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

__all__ = ["TogetherNorm", "over_all_ranks"]


def over_all_ranks(network: nn.Module, group: distributed.ProcessGroup | None) -> None:
    """Let each batch norm of a network take its statistics over the patches of all ranks; weights stay as they are.

    Args:
        network: Not a batch norm itself.
        group: The ranks; None for all there are. Each has as many patches as the others.
    """
    # Torch's own works on GPUs alone.
    replace = nn.SyncBatchNorm.convert_sync_batchnorm if _on_gpu(network) else TogetherNorm
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, replace(child, group))


def _on_gpu(network: nn.Module) -> bool:
    return next(network.parameters()).device.type == "cuda"


class TogetherNorm(nn.BatchNorm2d):
    """Ioffe and Szegedy's batch norm (2015), its mean and variance those of all ranks' inputs.

    Args:
        alone: The layer that it takes the place of, and whose weights and statistics it has.
        group: The ranks.
    """

    def __init__(self, alone: nn.BatchNorm2d, group: distributed.ProcessGroup | None):
        super().__init__(alone.num_features, alone.eps, alone.momentum, device="meta")
        self._parameters, self._buffers, self.group = alone._parameters, alone._buffers, group

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y, mean, variance = _Normalise.apply(x, self.weight, self.bias, self.eps, self.group)
        count = x.numel() // x.shape[1] * distributed.get_world_size(self.group)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return y


class _Normalise(torch.autograd.Function):
    """Of torch's own kernels: of one rank's statistics, and of those that are given."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, group) -> tuple[Tensor, Tensor, Tensor]:
        _, own_mean, own_scale = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        means, scales = _gather(torch.stack([own_mean, own_scale]), group).unbind(1)
        mean = means.mean(0)
        variance = (scales.pow(-2) - eps + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.group = eps, group
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: None) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, variance = ctx.saved_tensors
        through_output, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        # What the mean and the variance of all ranks hand back to each input.
        shared = _gather(torch.stack([of_weight, of_bias]), ctx.group).mean(0) / (x.numel() // x.shape[1])
        through_variance, through_mean = weight * (variance + ctx.eps).rsqrt() * shared
        through_statistics = F.batch_norm(x, mean, variance, through_variance, through_mean, eps=ctx.eps)
        return through_output.sub_(through_statistics), of_weight, of_bias, None, None


def _gather(values: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
    gathered = [torch.empty_like(values) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(gathered, values, group)
    return torch.stack(gathered)
