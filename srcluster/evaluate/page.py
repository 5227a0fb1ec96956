"""A page of results in Markdown, with all that it takes to make it again."""

import copy
import hashlib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from srcluster.data.benchmarks import Benchmark
from srcluster.evaluate.candidates import Candidate
from srcluster.progress import Rows, markdown


def page(
    tables: Iterable[tuple[str, Rows, Rows]],
    entries: Sequence[Candidate],
    benchmarks: Sequence[Benchmark],
    scale: int,
    command: Sequence[str],
    picture: str,
) -> str:
    """The page in Markdown.

    Args:
        tables: By protocol: results, and published numbers.
        command: The words after `python -m srcluster.evaluate` that make the page.
        picture: The name of the file of the comparison beside it.
    """
    parts = [f"# Super-resolution x{scale}"]
    for title, rows, below in tables:
        parts += [f"## {title}", markdown([*rows, *below])]
    networks = [["model", "multiply-adds for 1280 x 720", "SHA-256 of the weights"]]
    for entry in entries:
        if entry.network is not None:
            billions = f"{multiply_adds(entry.network, scale) / 1e9:.1f} G"
            networks.append([entry.label, billions, weights_digest(entry.network)])
    sets = [["pictures", "images", "digest", ""]]
    sets += [[one.name, str(len(one.images)), one.digest, "; ".join(one.notes)] for one in benchmarks]
    parts += ["## Networks and pictures", markdown(networks), markdown(sets)]
    parts += [f"![The models beside the originals]({PurePosixPath(picture).name})", "Made by:"]
    parts += [f"    python -m srcluster.evaluate {shlex.join(command)}"]
    return "\n\n".join(parts) + "\n"


@torch.inference_mode()
def multiply_adds(network: nn.Module, scale: int) -> int:
    """Multiply-adds of convolutions and matrix products, for a result of 1280 x 720 pixels."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        copy.deepcopy(network).to("meta")(torch.zeros(1, 3, 720 // scale, 1280 // scale))
    return counter.get_total_flops() // 2


def weights_digest(network: nn.Module) -> str:
    """The first 12 digits of the SHA-256 of a network's weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
