"""The checkerboard that upsamplers leave (Odena et al., "Deconvolution and Checkerboard Artifacts", 2016), in dB.

A pattern that repeats every `scale` pixels has all its energy at the frequencies (k/scale, l/scale): periods 4 and 2
for x4. There it is a line that stands out from the neighbouring frequencies, which texture fills as well. The energy
to expect of SR's line is: SR's neighbours x the original's line / the original's neighbours. So a grid that was
photographed, or the 8 x 8 blocks of an original's JPEG, is no artefact. The excess is what SR's lines have beyond that.
Energies are means over windows of 64 pixels, so that a pattern on edges and texture alone counts too.

What it reads: a lattice of r grey levels (root mean square) reads 10 log10(1 + r^2) dB. So 0 dB is none, 3 dB one
level, 10 dB three, 20 dB ten. A lattice that grows with the content's gradients reads up to 3 dB less; one that changes
sign with them, jagged edges, reads little. Blur, ringing and bicubic interpolation read 0, nearest-neighbour's blocks
what of them is a lattice.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from srcluster.pixels.metrics import Pair

WINDOW_PX = 64

# A Hann window keeps a line within one bin of its own: the ring of bins at distance 2 is free of it.
_OFFSETS = np.arange(-2, 3)
_RING = np.maximum.outer(abs(_OFFSETS), abs(_OFFSETS)) == 2


def checkerboard(pair: Pair) -> float:
    """How much of a lattice of `scale` pixels is in SR and not in the original, on luma in full range, 0..255.

    Returns:
        dB, 0 or more: 10 log10(1 + excess in grey levels squared).
    """
    (line, around), (line_hr, around_hr) = (_lines(plane, pair.scale) for plane in pair.full_luma)
    excess = np.sum(line - around * line_hr / around_hr)
    return float(10 * np.log10(1 + max(0.0, excess)))


def _lines(plane: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    """The energy at each frequency of the lattice but (0, 0), and the mean of the frequencies around it.

    Welch's method: Hann windows that overlap by half or more and reach every border. A sinusoid's lines hold its mean
    square.
    """
    length = min(WINDOW_PX, *plane.shape) // period * period
    if length < 4 * period:
        raise ValueError(f"a lattice of {period} pixels needs {4 * period} x {4 * period} or more, not {plane.shape}")
    hann = np.sin(np.pi * np.arange(length) / length) ** 2
    hann /= hann.sum()
    bins = (np.arange(period)[:, None] * (length // period) + _OFFSETS).ravel()
    tops, lefts = (np.linspace(0, n - length, 1 + -(-(n - length) * 2 // length)).astype(int) for n in plane.shape)
    energy = np.zeros((len(bins), len(bins)))
    for top in tops:
        # The windows of a strip share what is transformed along its columns.
        strip = np.fft.fft(hann[:, None] * plane[top : top + length], axis=0)[bins]
        windows = sliding_window_view(strip, length, axis=1)[:, lefts]
        spectra = np.fft.fft(hann * windows, axis=2)[:, :, bins]
        energy += (spectra.real**2 + spectra.imag**2).sum(axis=1)
    energy = energy.reshape(period, 5, period, 5).transpose(0, 2, 1, 3) / (len(tops) * len(lefts))
    # What rounding to 8 bits adds to any image; a flat one has nothing else around its lines.
    energy += (hann @ hann) ** 2 / 12
    lines, around = energy[..., 2, 2], energy[..., _RING].mean(axis=-1)
    return lines.ravel()[1:], around.ravel()[1:]
