"""A network as a file for other programs. Pictures of any number and size go in."""

import copy
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from srcluster.errors import UserError
from srcluster.models.saved import save_weights
from srcluster.recipe import Recipe

EXPORT_HELP = (
    "Also write the network: .pth or .safetensors for programs that know it, .onnx (float16 where the name ends in "
    "fp16.onnx) or .pt2 for others."
)

_KNOWN_ELSEWHERE = ("compact", "rrdb", "span", "msrresnet", "import")
_MOST_OFF = {torch.float32: 1e-4, torch.float16: 2 / 255}
"""By how much ONNX Runtime's pixels, in [0, 1], may differ from the network's."""


def export(network: nn.Module, path: Path, recipe: Recipe | None) -> None:
    """Write a network to a file.

    ONNX and pt2: input `lr`, B x 3 x h x w in [0, 1], output `sr`; h and w from 3. What ONNX Runtime makes of the file
    is compared with the network before the file is said to be written.

    Args:
        path: Its ending says the format.
        recipe: What makes the network; None where weights alone don't say it.

    Raises:
        UserError: The ending is another one, other programs don't know the network, the packages that write ONNX are
            not installed, or ONNX Runtime makes other pixels.
    """
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".safetensors" | ".pth":
            _export_weights(network, path, recipe)
        case ".onnx":
            _export_onnx(network, path)
        case ".pt2":
            torch.export.save(_program(network, torch.float32), path)
        case _:
            raise UserError(f"a network is exported to .pth, .safetensors, .onnx or .pt2, not to {path.name}")


def _export_weights(network: nn.Module, path: Path, recipe: Recipe | None) -> None:
    if recipe is None:
        raise UserError(f"{path.name} would hold weights alone, which do not make this network: export it to .onnx")
    if path.suffix == ".safetensors":
        save_weights(path, network.state_dict(), recipe)
    elif recipe.model.kind not in _KNOWN_ELSEWHERE:
        raise UserError(
            f"other programs know no model.kind: {recipe.model.kind}: export it to .onnx, or to .safetensors for "
            "srcluster's own commands"
        )
    else:
        torch.save({"params": {name: tensor.contiguous() for name, tensor in network.state_dict().items()}}, path)


def _program(network: nn.Module, dtype: torch.dtype) -> torch.export.ExportedProgram:
    # Sizes of 1 would be taken for constants, and equal ones for the same.
    example = torch.zeros(2, 3, 12, 17, dtype=dtype)
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    return torch.export.export(network.to(dtype), (example,), dynamic_shapes=(sizes,))


def _export_onnx(network: nn.Module, path: Path) -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{path.name} needs {' and '.join(missing)}: pip install 'srcluster[export]'")
    dtype = torch.float16 if path.stem.endswith("fp16") else torch.float32
    lr = torch.rand(1, 3, 13, 10, generator=torch.Generator().manual_seed(0))
    expected = network(lr).numpy()
    program = _program(network, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            program, (), path, input_names=["lr"], output_names=["sr"], external_data=False, verbose=False
        )
    import onnxruntime  # An extra.

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (made,) = session.run(["sr"], {"lr": lr.to(dtype).numpy()})
    off = np.abs(made.astype(np.float32) - expected).max()
    if not off <= _MOST_OFF[dtype]:
        path.unlink()
        hint = "take float32, a name without fp16" if dtype == torch.float16 else "export to .pt2"
        raise UserError(f"{path.name} is not written: ONNX Runtime's pixels differ by up to {off:.2g} of 1: {hint}")
