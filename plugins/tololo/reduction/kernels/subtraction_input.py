"""What goes into a subtraction: two images and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.decorrelation import Noise
from tololo.reduction.kernels.psf import PixelPsf


@dataclass(frozen=True)
class Image:
    """One of the two images; its planes, (ny, nx), hold no NaN."""

    pixels: NDArray[np.float32]
    variance: NDArray[np.float32]
    bad: NDArray[np.bool_]
    noise: Noise

    fwhm: float
    """In pixels."""

    psf: PixelPsf


def typical_variance(variance: NDArray[np.float32], good: NDArray[np.bool_]) -> float:
    """Return the median variance of good pixels, from a sample."""
    step = max(1, good.size // 100_000)
    sample = variance.ravel()[::step][good.ravel()[::step]]
    return float(np.median(sample if sample.size else variance[good]))
