"""The processes that train together, as torch.distributed knows them; alone, this is rank 0 of 1."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from srcluster.training.batch_norm import convert_sync_batch_norm


class _Sum(torch.autograd.Function):
    """The sum of the ranks' values."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: "Ranks") -> Tensor:
        ctx.ranks = ranks
        return ranks.gather(value).sum(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.gather(gradient).sum(0), None


@dataclass(frozen=True)
class Ranks:
    """This process, `rank` of `world`."""

    rank: int
    world: int

    @classmethod
    def present(cls) -> "Ranks":
        """The ranks there are."""
        if not distributed.is_initialized():
            return cls(0, 1)
        return cls(distributed.get_rank(), distributed.get_world_size())

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the ranks, and with the batch norm of the whole batch."""
        if self.world == 1:
            return network
        convert_sync_batch_norm(network, self)
        return DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)

    @staticmethod
    def local_gradients(network: nn.Module) -> AbstractContextManager[None]:
        """A context in which a wrapped network's gradients add up on each rank, for a later one to average."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's values, the same number each, on every rank: world x ..."""
        if self.world == 1:
            return values[None]
        gathered = [torch.empty_like(values) for _ in range(self.world)]
        distributed.all_gather(gathered, values.contiguous())
        return torch.stack(gathered)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the values of all ranks, each of which may have another number; gradients reach every rank."""
        if self.world == 1:
            return values.mean()
        number = self.gather(torch.tensor(float(values.numel()), device=values.device)).sum()
        return _Sum.apply(values.sum(), self) / number

    def share(self, items: Sequence) -> Sequence:
        """This rank's of some items: every `world`-th."""
        return items[self.rank :: self.world]


ALONE = Ranks(0, 1)
