"""The pictures of a sweep: its learning curves, and what each parameter does to the score."""

import io
from collections.abc import Mapping, Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from srcluster.recipe import Criterion, metric_title

_NAMED = 20
"""Curves that a legend can name; the others are grey."""


def curves(points: Mapping[str, Sequence[tuple[int, float]]], baseline: float, criterion: Criterion) -> Image.Image:
    """A line for each trial.

    Args:
        points: Steps and values, by the trial's label, the best first.
    """
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    for number, (label, line) in enumerate(points.items()):
        named = number < _NAMED
        axes.plot(
            *zip(*line, strict=True),
            color=f"C{number % 10}" if named else "0.8",
            linestyle=("-", "--")[number // 10 % 2],
            # A trial that was stopped at its first evaluation is a point.
            marker="." if len(line) == 1 else None,
            label=label if named else None,
            zorder=2 if named else 1,
        )
    axes.set_xlabel("step")
    values = [value for line in points.values() for _, value in line]
    _finish(axes, baseline, criterion, _limits(values, baseline, criterion))
    figure.legend(loc="outside right upper", fontsize="small")
    return _picture(figure)


def parameters(
    trials: Sequence[tuple[Mapping[str, str], float]], baseline: float, criterion: Criterion
) -> Image.Image | None:
    """A panel for each parameter that differs: its values against the score; None where there is nothing to show.

    Args:
        trials: What was chosen, and the score.
    """
    keys = dict.fromkeys(key for chosen, _ in trials for key in chosen)
    varied = {key: list(dict.fromkeys(chosen.get(key, "") for chosen, _ in trials)) for key in keys if key != "seed"}
    varied = {key: values for key, values in varied.items() if len(values) > 1}
    if not varied:
        return None
    figure = Figure(figsize=(5 * len(varied), 4), layout="constrained")
    panels = figure.subplots(1, len(varied), squeeze=False, sharey=True)[0]
    scores = [value for _, value in trials]
    low, high = limits = _limits(scores, baseline, criterion)
    edge, marker = (low, "v") if criterion.higher else (high, "^")
    words = {key: values for key, values in varied.items() if not all(map(_is_number, values))}
    for axes, key in zip(panels, varied, strict=True):
        # Points are coloured by another parameter that is a word, such as the optimiser beside its rates.
        hue = next((other for other, values in words.items() if other != key and len(values) <= 10), None)
        for number, value in enumerate(words[hue] if hue else [None]):
            shown = [(chosen.get(key, ""), y) for chosen, y in trials if hue is None or chosen.get(hue, "") == value]
            x = [words[key].index(word) if key in words else float(word) for word, _ in shown]
            axes.plot(x, [y for _, y in shown], "o", color=f"C{number}", label=value or "-")
            outside = [place for place, (_, y) in zip(x, shown, strict=True) if not low <= y <= high]
            axes.plot(outside, [edge] * len(outside), marker, color=f"C{number}")
        if key in words:
            axes.set_xticks(range(len(words[key])), [word or "-" for word in words[key]], rotation=20)
            axes.set_xlim(-0.5, len(words[key]) - 0.5)
        elif 0 < 10 * min(map(float, varied[key])) <= max(map(float, varied[key])):
            axes.set_xscale("log")
        axes.set_xlabel(key)
        _finish(axes, baseline, criterion, limits)
        if hue:
            axes.legend(title=hue, fontsize="small")
    return _picture(figure)


def _limits(values: Sequence[float], baseline: float, criterion: Criterion) -> tuple[float, float]:
    """The part of an axis to show: values far worse than the others, as of a network that diverged, are cut off."""
    if not criterion.higher:
        low, high = _limits([-value for value in values], -baseline, Criterion(criterion.metric))
        return -high, -low
    high = max(values)
    floor = max(min(values), high - 4 * (high - median(values)))
    return min(floor, baseline), max(high, baseline)


def _finish(axes: Axes, baseline: float, criterion: Criterion, limits: tuple[float, float]) -> None:
    low, high = limits
    margin = (high - low) / 20 or 1
    axes.set_ylim(low - margin, high + margin)
    axes.axhline(baseline, color="grey", lw=1, ls=":")
    axes.annotate("bicubic", (1, baseline), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="grey")
    axes.set_ylabel(metric_title(criterion.metric))
    axes.grid(alpha=0.3)


def _picture(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return Image.open(buffer)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
