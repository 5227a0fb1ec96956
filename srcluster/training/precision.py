"""Which device, which number format, which memory layout."""

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from srcluster.training.ranks import Ranks

_log = logging.getLogger(__name__)

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Precision:
    """Where and in what the forward and backward passes compute; weights and optimiser stay in float32."""

    device: torch.device
    dtype: torch.dtype

    def prepare(self, network: N, compiled: bool) -> N:
        """Move a network to the device, in the layout that its convolutions are fastest in.

        That is channels_last for bf16, but on a CPU only as long as the network is not compiled: there the backward
        pass of a compiled channels_last network can be ten times slower than that of the default layout.
        """
        plain = self.dtype == torch.float32 or (compiled and self.device.type == "cpu")
        layout = torch.contiguous_format if plain else torch.channels_last
        # Torch's types leave the layout out.
        return network.to(self.device, memory_format=layout)  # type: ignore[call-overload]

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def name(self) -> str:
        """`fp32` or `bf16`."""
        return "fp32" if self.dtype == torch.float32 else "bf16"

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} on {self.device}"


def choose_together(wanted: str, begun: str, ranks: Ranks) -> Precision:
    """The precision of a run, the same on all ranks.

    Args:
        wanted: As the recipe has it; `auto` is bf16 where every rank's device has units that multiply it.
        begun: What `auto` was when the run began, which it stays; empty at the beginning.
    """
    here = choose(wanted)
    if wanted != "auto":
        return here
    slow = ranks.gather(torch.tensor([float(here.name == "fp32")], device=here.device)).any()
    now = "fp32" if slow else "bf16"
    if begun and begun != now and ranks.rank == 0:
        _log.warning("the run goes on in %s, as it began; `precision: auto` would be %s on these machines", begun, now)
    return choose(begun or now)


def choose(wanted: str, device: torch.device | None = None) -> Precision:
    """The precision on this machine.

    Args:
        wanted: `fp32`, `bf16`, or `auto`: bf16 where the device has units that multiply it.
        device: Where to compute; by default the first GPU, or else the CPU.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "auto":
        wanted = "bf16" if _multiplies_bf16(device) else "fp32"
    return Precision(device, torch.bfloat16 if wanted == "bf16" else torch.float32)


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        # Before compute capability 8.0 it is emulated.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
