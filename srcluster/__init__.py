"""Training and sweeps of single-image super-resolution networks on a Ray cluster."""

__version__ = "0.1.0"
