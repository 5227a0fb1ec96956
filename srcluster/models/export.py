"""A network as a file for other programs: ONNX, or PyTorch's own pt2. Any number of pictures of any size go in."""

import copy
import importlib.util
import warnings
from pathlib import Path

import torch
from torch import nn

from srcluster.models.saved import ModelError

__all__ = ["export"]


def export(network: nn.Module, path: Path) -> None:
    """Write a network to a file: input `lr`, B x 3 x h x w in [0, 1], output `sr`, both float32; h and w from 3.

    Args:
        network: On any device; it is written as on a CPU.
        path: Ends in .onnx or .pt2.

    Raises:
        ModelError: It has another ending, or the packages that write ONNX are not installed.
    """
    if path.suffix not in (".onnx", ".pt2"):
        raise ModelError(f"a network is exported to .onnx or .pt2, not to {path.name}")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise ModelError(f"{path.name} needs {' and '.join(missing)}: pip install 'srcluster[export]'")
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    # Sizes of 1 would be taken for constants, and equal ones for the same.
    example = torch.zeros(2, 3, 12, 17)
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(network, (example,), dynamic_shapes=(sizes,))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pt2":
        torch.export.save(program, path)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            program, (), path, input_names=["lr"], output_names=["sr"], external_data=False, verbose=False
        )
