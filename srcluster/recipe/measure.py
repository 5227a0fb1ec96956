"""Measures by name, and the criterion by which weights, trials and models are chosen."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from srcluster.recipe.yaml_files import did_you_mean


@dataclass(frozen=True)
class Measure:
    """How a restored image is compared with its original.

    Attributes:
        name: Of its metrics: `psnr_y` of `psnr_y/Set5`.
        title: In tables.
        digits: Decimals in tables.
        higher: Whether more is better.
        function: `package.module:function` of one's own measure, which takes SR and HR, H x W x 3 uint8, and returns a
            number.
    """

    name: str
    title: str
    digits: int
    higher: bool
    function: str = ""


MEASURES = {
    known.name: known
    for known in (
        Measure("psnr_y", "PSNR-Y, dB", 2, higher=True),
        Measure("psnr_y_basicsr", "PSNR-Y (BasicSR), dB", 2, higher=True),
        Measure("psnr_rgb", "PSNR-RGB, dB", 2, higher=True),
        Measure("ssim_y", "SSIM-Y", 4, higher=True),
        Measure("ssim_y_basicsr", "SSIM-Y (BasicSR)", 4, higher=True),
        Measure("checkerboard_db", "checkerboard, dB", 2, higher=False),
    )
}
"""What is measured by default; `srcluster.pixels.metrics` says how."""


def measure(words: str) -> Measure:
    """The measure of a name.

    Args:
        words: One of `MEASURES`; `lpips`, or the exact name of one of its variants, such as `lpips_vgg_plain`; or
            `import:package.module:function:higher`, or `:lower`, whichever is better.

    Raises:
        ValueError: There is none of this name.
    """
    if words in MEASURES:
        return MEASURES[words]
    if re.fullmatch(r"lpips(_vgg(_\d+)?(_plain)?)?", words):
        return _other(words, higher=False)
    if match := re.fullmatch(r"import:([\w.]+:([^\W\d]\w*)):(higher|lower)", words, re.ASCII):
        function, name, better = match.groups()
        if name in MEASURES or name.startswith("lpips"):
            raise ValueError(f"{words} has the name of another measure: call the function otherwise than {name}")
        return _other(name, better == "higher", function)
    if words.startswith("import:"):
        raise ValueError(f"a measure of one's own is import:package.module:function:higher (or :lower), not {words}")
    known = (*MEASURES, "lpips")
    raise ValueError(f"a measure is one of {', '.join(known)} or import:..., not {words!r}{did_you_mean(words, known)}")


def _other(name: str, higher: bool, function: str = "") -> Measure:
    return Measure(name, name.replace("lpips", "LPIPS").replace("_", " "), 4, higher, function)


def metric_title(metric: str) -> str:
    """`psnr_y/Set5` in a table's header: `Set5 PSNR-Y, dB`."""
    name, _, pictures = metric.partition("/")
    return f"{pictures} {MEASURES.get(name, _other(name, True)).title}"


def format_metric(metric: str, value: float) -> str:
    """The value of `psnr_y/Set5`, or of `psnr_y` of one image, in a table."""
    return f"{value:.{MEASURES.get(name := metric.partition('/')[0], _other(name, True)).digits}f}"


def side_by_side(metrics: Iterable[str]) -> list[str]:
    """Those of some metrics that a table shows of every benchmark: PSNR and, beside it, LPIPS."""
    return [metric for metric in metrics if metric.startswith(("psnr_y/", "lpips"))]


@dataclass(frozen=True)
class Criterion:
    """What weights, trials and models are chosen by: a metric, such as `psnr_y/Set5`."""

    metric: str
    higher: bool = True

    def rank(self, metrics: Mapping[str, float], prefix: str = "") -> float:
        """How good metrics are: more is better, whatever the metric; -inf where it is missing or not a number."""
        value = metrics.get(prefix + self.metric, math.nan)
        if math.isnan(value):
            return -math.inf
        return value if self.higher else -value
