"""Other programs' files of weights: which network they are of is found in the names, and its sizes in the shapes."""

import logging
import re
from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any

from torch import Tensor

_log = logging.getLogger(__name__)

_Weights = Mapping[str, Tensor]


def _count(weights: _Weights, pattern: str) -> int:
    """How many different numbers a pattern's group matches in the names."""
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def _compact(weights: _Weights) -> tuple[int, dict[str, Any]]:
    convs = _count(weights, r"body\.(\d+)\.bias") - 2
    scale = isqrt(weights[f"body.{2 * (convs + 1)}.weight"].shape[0] // 3)
    return scale, {"kind": "compact", "features": weights["body.0.weight"].shape[0], "convs": convs}


def _rrdb(weights: _Weights) -> tuple[int, dict[str, Any]]:
    features, channels = weights["conv_first.weight"].shape[:2]
    unshuffle = isqrt(channels // 3)
    blocks = _count(weights, r"body\.(\d+)\.")
    scale = 2 ** _count(weights, r"conv_up(\d)\.") // unshuffle
    return scale, {"kind": "rrdb", "features": features, "blocks": blocks, "unshuffle": unshuffle}


def _span(weights: _Weights) -> tuple[int, dict[str, Any]]:
    features = weights["conv_1.sk.weight"].shape[0]
    scale = isqrt(weights["upsampler.0.weight"].shape[0] // 3)
    return scale, {"kind": "span", "features": features, "norm": "no_norm" not in weights}


def _msrresnet(weights: _Weights) -> tuple[int, dict[str, Any]]:
    features = weights["conv_first.weight"].shape[0]
    blocks = _count(weights, r"body\.(\d+)\.")
    scale = 4 if "upconv2.weight" in weights else isqrt(weights["upconv1.weight"].shape[0] // features)
    return scale, {"kind": "msrresnet", "features": features, "blocks": blocks}


def _edsr(weights: _Weights) -> tuple[int, dict[str, Any]]:
    features = weights["head.0.weight"].shape[0]
    scale = 4 if "upsampler.1.weight" in weights else isqrt(weights["upsampler.0.weight"].shape[0] // features)
    spec = {"norm": "none", "activation": "relu", "around": "none", "outer_kernel": 3, "subtract_mean": True}
    blocks = _count(weights, r"blocks\.(\d+)\.")
    if features >= 256:
        spec["residual_scale"] = 0.1
        _log.warning("the file does not say by what EDSR's branches are multiplied: 0.1 is assumed, as in the paper")
    return scale, {"kind": "residual", "features": features, "blocks": blocks, **spec}


_EDSR_BASICSR = {
    r"conv_first\.": "head.0.",
    r"body\.(\d+)\.conv1\.": r"blocks.\1.branch.0.",
    r"body\.(\d+)\.conv2\.": r"blocks.\1.branch.2.",
    r"conv_after_body\.": "join.0.",
    r"upsample\.0\.": "upsampler.0.",
    r"upsample\.2\.": "upsampler.1.",
    r"conv_last\.": "tail.",
}
_EDSR_TORCHSR = {
    r"body\.(\d+)\.body\.(\d)\.": r"blocks.\1.branch.\2.",
    r"body\.\d+\.(weight|bias)": r"join.0.\1",
    r"tail\.0\.0\.": "upsampler.0.",
    r"tail\.0\.2\.": "upsampler.1.",
    r"tail\.1\.": "tail.",
    r"(sub|add)_mean\..*": "",
}
_KAIR = {r"recon_trunk\.": "body.", r"HRconv\.": "conv_hr."}
_RRDB_ESRGAN = {
    r"RRDB_trunk\.(\d+)\.RDB(\d)\.": r"body.\1.rdb\2.",
    r"trunk_conv\.": "conv_body.",
    r"upconv(\d)\.": r"conv_up\1.",
    r"HRconv\.": "conv_hr.",
}

_LAYOUTS: tuple[tuple[str, dict[str, str], Callable[[_Weights], tuple[int, dict[str, Any]]]], ...] = (
    ("conv_1.sk.weight", {}, _span),
    ("body.0.rdb1.conv1.weight", {}, _rrdb),
    ("RRDB_trunk.0.RDB1.conv1.weight", _RRDB_ESRGAN, _rrdb),
    ("model.1.sub.0.RDB1.conv1.0.weight", {}, _rrdb),
    ("conv_after_body.weight", _EDSR_BASICSR, _edsr),
    ("body.0.body.0.weight", _EDSR_TORCHSR, _edsr),
    ("recon_trunk.0.conv1.weight", _KAIR, _msrresnet),
    ("upconv1.weight", {}, _msrresnet),
    ("body.1.weight", {}, _compact),
)
"""A name that shows whose layout a file has, what its names begin with and become here, and the sizes of the network.
"""


def recognise(weights: _Weights) -> tuple[int, dict[str, Any], dict[str, Tensor]] | None:
    """The scale, the model as a recipe has it, and the weights under the names they have here.

    Returns:
        None where they are of none of the networks here.
    """
    for mark, names, sizes in _LAYOUTS:
        if mark not in weights:
            continue
        table = _old_rrdb(weights) if mark.startswith("model.") else names
        renamed = {_renamed(name, table): tensor.float() for name, tensor in weights.items()}
        renamed.pop("", None)
        try:
            scale, spec = sizes(renamed)
        except (KeyError, ZeroDivisionError):
            continue
        if sizes is _edsr:
            # Their pixels go to 255. Without normalisation, that is a factor of all that is added.
            renamed = {name: tensor / 255 if name.endswith("bias") else tensor for name, tensor in renamed.items()}
        return scale, spec, renamed
    return None


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for pattern, replacement in table.items():
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", replacement, name)
    return name


def _old_rrdb(weights: _Weights) -> dict[str, str]:
    """ESRGAN's first layout counts layers: those after the blocks depend on how many times it enlarges."""
    numbers = sorted({int(name.split(".")[1]) for name in weights})
    *ups, hr, last = numbers[2:]
    layers = {0: "conv_first", hr: "conv_hr", last: "conv_last"}
    layers |= {number: f"conv_up{stage}" for stage, number in enumerate(ups, 1)}
    return {
        r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.": r"body.\1.rdb\2.conv\3.",
        r"model\.1\.sub\.\d+\.(weight|bias)": r"conv_body.\1",
        **{rf"model\.{number}\.": f"{layer}." for number, layer in layers.items()},
    }
