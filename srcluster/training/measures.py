"""What computes the measures of a recipe or of a command line.

A new measure is an entry of `recipe.measure.MEASURES`, and of `pixels.metrics.METRICS` or `STANDARD`.
"""

import functools
from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch

from srcluster.errors import UserError
from srcluster.objectives.lpips import LPIPS
from srcluster.pixels import metrics
from srcluster.pixels.checkerboard import checkerboard
from srcluster.pixels.metrics import Pair
from srcluster.recipe import Measure
from srcluster.recipe.imported import import_target

Functions: TypeAlias = dict[str, Callable[[Pair], float]]
"""What measures a pair, by the measure's name."""

STANDARD: Functions = metrics.METRICS | {"checkerboard_db": checkerboard}


def load_measures(wanted: Iterable[Measure], weights: str = "auto", normalization: str = "auto") -> Functions:
    """The functions of measures by name; that of `lpips` says which variant of it the weights give.

    Args:
        weights: Of LPIPS's VGG16.

    Raises:
        UserError: The weights or a module are missing, or are not what the name says.
    """
    functions: Functions = {}
    for one in wanted:
        if one.function:
            functions[one.name] = _imported(one.function)
        elif one.name.startswith("lpips"):
            lpips = LPIPS(weights, normalization)
            if one.name not in ("lpips", lpips.name):
                raise UserError(
                    f"{one.name} is asked for, and the weights at hand give {lpips.name}: say so, or `lpips`"
                )
            functions[lpips.name] = _distance(lpips)
        else:
            functions[one.name] = STANDARD[one.name]
    return functions


@functools.cache
def lpips_at_hand() -> tuple[str, ...]:
    """The exact name of LPIPS; nothing, and a line that says why, where its weights are not there."""
    try:
        return (LPIPS().name,)
    except UserError as error:
        print(f"LPIPS is not measured: {error}")
        return ()


@functools.cache
def exact_name(words: str) -> str:
    """The name of a measure's metrics: that of `lpips` says which variant of it the weights at hand give."""
    return LPIPS().name if words == "lpips" else words


def _distance(lpips: LPIPS) -> Callable[[Pair], float]:
    def measured(pair: Pair) -> float:
        # On the GPU only meanwhile: it is no part of what restoring the next image takes.
        value = lpips.to("cuda" if torch.cuda.is_available() else "cpu")(pair.sr, pair.hr)
        lpips.cpu()
        return value

    return measured


def _imported(target: str) -> Callable[[Pair], float]:
    function = import_target(target)
    return lambda pair: float(function(pair.sr, pair.hr))
