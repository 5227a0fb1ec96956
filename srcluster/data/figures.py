"""The picture of a benchmark image: enlarged LR, what networks make of it, and the original."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from srcluster.data.benchmarks import BenchmarkImage
from srcluster.pixels.figures import Box, comparison, detail_box
from srcluster.pixels.metrics import METRICS, Pair
from srcluster.pixels.resize import Kernel, imresize


def comparison_of(
    image: BenchmarkImage,
    restored: Mapping[str, np.ndarray],
    scale: int,
    kernels: Sequence[Kernel] = ("nearest", "bicubic"),
    box: Box | None = None,
) -> Image.Image:
    """Interpolations | each restored image | original, with PSNR on Y above each and a zoomed detail.

    Args:
        restored: H x W x 3 uint8, by what made it.
        box: The detail; by default it is where the restored images differ most.

    Raises:
        ValueError: The box is not inside the image.
    """
    made = {kernel: imresize(image.lr, scale, kernel) for kernel in kernels} | dict(restored)
    values = {name: METRICS["psnr_y"](Pair(sr, image.hr, scale, image.grey)) for name, sr in made.items()}
    panels = [(f"{name}  {values[name]:.2f} dB", sr) for name, sr in made.items()]
    box = box or detail_box(image.hr, scale, list(restored.values()))
    return comparison([*panels, ("original", image.hr)], box)


def detail_of(image: BenchmarkImage, sr: np.ndarray, label: str, scale: int) -> Image.Image:
    """The detail of a restored image, which is always the same, beside the original's."""
    left, top, width, height = detail_box(image.hr, scale)
    detail = np.s_[top : top + height, left : left + width]
    return comparison([(label, sr[detail]), ("original", image.hr[detail])])
