"""Numbers that others published, to stand beside ours: PSNR in dB on Y, x4, the scale shaved off each border."""

from dataclasses import dataclass

__all__ = ["PUBLISHED", "Published"]


@dataclass(frozen=True)
class Published:
    """PSNR-Y at x4 by benchmark, and where it was read."""

    model: str
    psnr_y: dict[str, float]
    source: str


def _row(model: str, set5: float, set14: float, bsd100: float, source: str) -> Published:
    return Published(model, {"Set5": set5, "Set14": set14, "BSD100": bsd100}, source)


PUBLISHED = (
    _row("bicubic", 28.42, 26.00, 25.96, "tables of the papers on VDSR and EDSR"),
    _row("SRCNN 9-5-5", 30.48, 27.50, 26.90, "tables of the papers on VDSR and EDSR"),
    _row("perceptual, l_feat", 27.09, 24.99, 24.95, "Johnson et al., ECCV 2016"),
    _row("SRResNet", 32.05, 28.49, 27.58, "Ledig et al., CVPR 2017"),
    _row("SRResNet, on ImageNet", 32.16, 28.57, 27.56, "README of Lornatang/SRGAN-PyTorch"),
    _row("SRGAN", 29.40, 26.02, 25.16, "Ledig et al., CVPR 2017"),
    _row("EDSR-baseline, 1.5 M", 32.09, 28.58, 27.56, "README of torchSR"),
    _row("EDSR, 43 M", 32.48, 28.81, 27.72, "README of torchSR"),
)
"""The perceptual network and SRGAN are below bicubic or SRCNN, and are meant to be: they were not trained for PSNR."""
