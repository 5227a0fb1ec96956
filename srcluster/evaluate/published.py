"""Numbers that others published, to stand beside ours: PSNR in dB on Y, the scale shaved off each border.

Which protocol a row follows (see `pixels.metrics`) is what its authors or the code of its source say. Bicubic's of
`matlab` are ours to 0.01 dB, and IMDN's pictures measured here give IMDN's of `basicsr` to 0.005 dB.
"""

from dataclasses import dataclass

_SETS = ("Set5", "Set14", "BSD100", "Urban100", "Manga109")


@dataclass(frozen=True)
class Published:
    """PSNR on Y by benchmark, at a scale and by a protocol, `matlab` or `basicsr`, and where it was read."""

    model: str
    scale: int
    psnr_y: dict[str, float]
    protocol: str
    source: str


def _rows(model: str, protocol: str, source: str, by_scale: dict[int, tuple[float, ...]]) -> list[Published]:
    return [
        Published(model, scale, dict(zip(_SETS, values, strict=False)), protocol, source)
        for scale, values in by_scale.items()
    ]


_RCAN = "Zhang et al. (RCAN), ECCV 2018, table 2"

PUBLISHED = (
    *_rows(
        *("bicubic", "matlab", _RCAN),
        {
            2: (33.66, 30.24, 29.56, 26.88, 30.80),
            3: (30.39, 27.55, 27.21, 24.46, 26.95),
            4: (28.42, 26.00, 25.96, 23.14, 24.89),
            8: (24.40, 23.10, 23.67, 20.74, 21.47),
        },
    ),
    *_rows(
        *("SRCNN 9-5-5", "matlab", _RCAN),
        {
            2: (36.66, 32.45, 31.36, 29.50, 35.60),
            3: (32.75, 29.30, 28.41, 26.24, 30.48),
            4: (30.48, 27.50, 26.90, 24.52, 27.58),
            8: (25.33, 23.76, 24.13, 21.29, 22.46),
        },
    ),
    *_rows("perceptual, l_feat", "matlab", "Johnson et al., ECCV 2016", {4: (27.09, 24.99, 24.95)}),
    *_rows("SRResNet", "matlab", "Ledig et al., CVPR 2017", {4: (32.05, 28.49, 27.58)}),
    *_rows("SRGAN", "matlab", "Ledig et al., CVPR 2017", {4: (29.40, 26.02, 25.16)}),
    *_rows(
        *("EDSR, 43 M", "matlab", _RCAN),
        {
            2: (38.11, 33.92, 32.32, 32.93, 39.10),
            3: (34.65, 30.52, 29.25, 28.80, 34.17),
            4: (32.46, 28.80, 27.71, 26.64, 31.02),
            8: (26.96, 24.91, 24.81, 22.51, 24.69),
        },
    ),
    *_rows("SRResNet, on ImageNet", "basicsr", "README of Lornatang/SRGAN-PyTorch", {4: (32.16, 28.57, 27.56)}),
    *_rows("EDSR-baseline, 1.5 M", "basicsr", "README of torchSR", {4: (32.09, 28.58, 27.56)}),
    *_rows("EDSR, 43 M", "basicsr", "README of torchSR", {4: (32.48, 28.81, 27.72)}),
    *_rows("IMDN", "basicsr", "Hui et al., ACM MM 2019, table 5", {4: (32.21, 28.58, 27.56, 26.04, 30.45)}),
)
"""The perceptual network and SRGAN are below bicubic or SRCNN, and are meant to be: they were not trained for PSNR."""
