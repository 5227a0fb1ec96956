"""How the ranks of a training meet: at the addresses that Ray knows their hosts by, and at no other.

Ray Train would have torch find them. Gloo takes what a host's own name resolves to, which is 127.0.1.1 on a Debian as
it comes; the store in which ranks meet listens at every address there is; and a rank that is lost before it has met the
others ends the training, since Ray Train tries again only what fails later.
"""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import psutil
import ray
import torch
from ray import train
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig
from torch import distributed

from srcluster.errors import UserError

_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others where Ray does not see that one is lost: longer than they take to evaluate, or
wait for a store that is away."""


class _NoBackend(Backend):
    share_cuda_visible_devices = True


@dataclass
class DeferredTorchConfig(TorchConfig):
    """Ray Train's ranks before they have met."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _NoBackend


def init_process_group() -> None:
    """Make this rank and the others one process group; a single one needs none."""
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if world == 1:
        return
    address = ray.util.get_node_ip_address()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface(address))
    host, port, listener = address, 0, None
    if rank == 0:
        listener = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        port = listener.getsockname()[1]
    host, port = broadcast_from_rank_zero((host, port))
    store = distributed.TCPStore(
        host,
        port,
        world,
        is_master=rank == 0,
        timeout=_TIMEOUT,
        master_listen_fd=listener.detach() if listener else None,
    )
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_TIMEOUT)


def _interface(address: str) -> str:
    """The name of the network interface that has an address: `eth0`, `lo` or the like."""
    for name, ends in psutil.net_if_addrs().items():
        if any(end.address == address for end in ends):
            return name
    raise UserError(
        f"Ray knows this host by {address}, which is on none of its network interfaces: start Ray here with "
        "--node-ip-address and one that is"
    )
