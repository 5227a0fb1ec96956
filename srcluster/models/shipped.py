"""Networks that come with the package: NAME.safetensors and NAME.json, its card, made by tools/release_weights.py.

The weights are float16 on disk and float32 in memory. PSNR on Set5 changed by 0.0003 dB with Real-ESRGAN's Compact, and
by 0.018 dB in bfloat16, which is as large.
"""

import json
from pathlib import Path
from typing import Any

from srcluster.errors import UserError

FOLDER = Path(__file__).parents[1] / "weights"

PREFIX = "shipped:"
"""Tells such a network from something else of the same name."""


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def card(name: str) -> dict[str, Any]:
    """OpenModelDB's fields, and as `srcluster` the network's recipe, training and scores."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def best(scale: int) -> str:
    """The name of the network with the highest PSNR on Set5.

    Raises:
        UserError: None enlarges by this scale.
    """
    cards = {name: said for name in names() if (said := card(name))["scale"] == scale}
    if not cards:
        raise UserError(f"no network of scale {scale} comes with srcluster: say which network, --model MODEL")
    return max(cards, key=lambda name: cards[name]["srcluster"]["scores"]["psnr_y/Set5"])


def file_of(name: str) -> Path:
    """The weights of a network.

    Raises:
        UserError: There is none of this name.
    """
    if name not in names():
        raise UserError(f"no network {name!r} comes with srcluster; there are: {', '.join(names()) or 'none'}")
    return FOLDER / f"{name}.safetensors"
