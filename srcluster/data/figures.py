"""The picture of a benchmark image: enlarged LR, what networks make of it, and the original."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from srcluster.data.benchmarks import BenchmarkImage
from srcluster.pixels.figures import comparison, detail_box
from srcluster.pixels.metrics import METRICS, Pair
from srcluster.pixels.resize import Kernel, imresize


def comparison_of(
    image: BenchmarkImage,
    restored: Mapping[str, np.ndarray],
    scale: int,
    kernels: Sequence[Kernel] = ("nearest", "bicubic"),
) -> Image.Image:
    """Interpolations | each restored image | original, with PSNR on Y above each and a zoomed detail.

    Args:
        image: The benchmark image.
        restored: H x W x 3 uint8, by what made it.
        scale: HR pixels per LR pixel.
        kernels: The interpolations.
    """
    made = {kernel: imresize(image.lr, scale, kernel) for kernel in kernels} | dict(restored)
    values = {name: METRICS["psnr_y"](Pair(sr, image.hr, scale, image.grey)) for name, sr in made.items()}
    panels = [(f"{name}  {values[name]:.2f} dB", sr) for name, sr in made.items()]
    return comparison([*panels, ("original", image.hr)], detail_box(image.hr))
