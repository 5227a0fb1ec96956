"""The processes that train together, as torch.distributed knows them; alone, this is rank 0 of 1."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from srcluster.training.batch_norm import convert_sync_batch_norm

__all__ = ["Ranks"]


@dataclass(frozen=True)
class Ranks:
    """This process, `rank` of `world`; a rank that the batch can't be divided over as well is beyond `world`."""

    rank: int
    world: int
    group: distributed.ProcessGroup | None = None

    @classmethod
    def present(cls, batch: int) -> "Ranks":
        """The ranks there are: as many as share a batch of so many patches evenly."""
        if not distributed.is_initialized():
            return cls(0, 1)
        there = distributed.get_world_size()
        world = max(number for number in range(1, there + 1) if batch % number == 0)
        return cls(distributed.get_rank(), world, distributed.new_group(range(world)) if world < there else None)

    @property
    def stands_by(self) -> bool:
        return self.rank >= self.world

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the ranks, and with the batch norm of the whole batch."""
        if self.world == 1:
            return network
        convert_sync_batch_norm(network, self)
        return DistributedDataParallel(
            network, process_group=self.group, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's values, the same number each, on every rank: world x ..."""
        if self.world == 1:
            return values[None]
        gathered = [torch.empty_like(values) for _ in range(self.world)]
        distributed.all_gather(gathered, values.contiguous(), self.group)
        return torch.stack(gathered)

    def share(self, items: Sequence) -> Sequence:
        """This rank's of some items: every `world`-th."""
        return items[self.rank :: self.world]
