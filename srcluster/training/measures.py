"""What computes the measures of a recipe or of a command line."""

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import torch

from srcluster.errors import UserError
from srcluster.objectives.lpips import LPIPS
from srcluster.pixels import metrics
from srcluster.pixels.checkerboard import checkerboard
from srcluster.pixels.metrics import Pair
from srcluster.recipe import Measure

Functions: TypeAlias = dict[str, Callable[[Pair], float]]
"""What measures a pair, by the measure's name."""

STANDARD: Functions = metrics.METRICS | {"checkerboard_db": checkerboard}


def load_measures(wanted: Iterable[Measure], weights: str = "auto", normalization: str = "auto") -> Functions:
    """The functions of measures.

    Args:
        wanted: The measures.
        weights: Of LPIPS's VGG16.
        normalization: Of these weights' input.

    Returns:
        By the measures' names; that of `lpips` says which variant of it these weights give.

    Raises:
        UserError: The weights or a module are missing, or are not what the name says.
    """
    functions: Functions = {}
    for one in wanted:
        if one.function:
            functions[one.name] = _own(one.function)
        elif one.name.startswith("lpips"):
            lpips = LPIPS(weights, normalization)
            if one.name not in ("lpips", lpips.name):
                raise UserError(
                    f"{one.name} is asked for, and the weights at hand give {lpips.name}: say so, or `lpips`"
                )
            functions[lpips.name] = _Distance(lpips)
        else:
            functions[one.name] = STANDARD[one.name]
    return functions


@functools.cache
def exact_name(words: str) -> str:
    """The name that a measure's metrics have: `lpips` becomes that of the variant that the weights at hand give."""
    return LPIPS().name if words == "lpips" else words


class _Distance:
    def __init__(self, lpips: LPIPS):
        self.lpips = lpips

    def __call__(self, pair: Pair) -> float:
        # On the GPU only meanwhile: it is no part of what restoring the next image takes.
        value = self.lpips.to("cuda" if torch.cuda.is_available() else "cpu")(pair.sr, pair.hr)
        self.lpips.cpu()
        return value


def _own(path: str) -> Callable[[Pair], float]:
    module, _, name = path.partition(":")
    try:
        function: Callable[[np.ndarray, np.ndarray], float] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"there is no measure {path} ({error}): correct it, or set PYTHONPATH to where it is"
        ) from error

    def measured(pair: Pair) -> float:
        return float(function(pair.sr, pair.hr))

    return measured
