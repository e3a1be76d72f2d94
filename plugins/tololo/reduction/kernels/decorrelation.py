"""The noise of a difference: its power spectrum, and the kernels that whiten it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from tololo.reduction.kernels.convolution import trim

GRID = 64
"""Side of the grid on which spectra are computed, in pixels; larger than any matching kernel."""

LEAST_POWER = 1 / 900
"""Of the power at zero frequency: where the noise has less it cannot be restored, the gain stays below 30."""

FAINT_RING = 1e-3
"""Rings of a whitening kernel with a smaller part of its absolute sum are cut off."""


class Noise(NamedTuple):
    """The noise of an image before any matching: its typical variance, and how neighbours share it."""

    variance: float
    """Typical variance of a pixel."""

    correlation: NDArray[np.float64] | None = None
    """Correlation of pixels, (2m + 1, 2m + 1), 1 in the middle; `None` for independent pixels."""

    def power(self, grid: int = GRID) -> NDArray[np.float64]:
        """Return the power spectrum, (grid, grid // 2 + 1); its mean is the variance."""
        if self.correlation is None:
            return np.full((grid, grid // 2 + 1), self.variance)
        m = self.correlation.shape[0] // 2
        wrapped = np.zeros((grid, grid))
        lag = np.arange(-m, m + 1)
        wrapped[np.ix_(lag, lag)] = self.correlation
        # Rounding can make no power a little less than none.
        return self.variance * np.maximum(np.asarray(fft.rfft2(wrapped).real), 0.0)


class Whitening(NamedTuple):
    """Kernels that make the noise of a difference white."""

    kernels: NDArray[np.float64]
    """(n, s, s), of unit sum; s is at most the size of the matching kernels."""

    correlated: NDArray[np.float64]
    """(n,): variance of the convolved image's noise over that of independent pixels, after matching."""

    gain: NDArray[np.float64]
    """(n,): variance of the difference after the whitening over that before."""


def whiten(kernels: NDArray[np.float64], convolved: Noise, other: Noise) -> Whitening:
    """Return the kernels that make the noise of ``other - kernel * convolved`` white again.

    With kappa the Fourier transform of the kernel, and V and W the power spectra of the noise of the
    convolved and of the other image, the difference has the spectrum P = W + V |kappa|^2, and the kernel's
    transform is sqrt(P(0) / P) (Reiss & Lupton 2016, DMTN-021, there for white V and W): 1 at zero frequency,
    so that sources keep their flux. For an image that was resampled V or W is not white; with its spectrum
    instead of its variance alone the result is white all the same, and its variance is the mean of
    P |transform|^2, the transform being that of the kernel as it is used, cut to its size.

    Parameters
    ----------
    kernels : `numpy.ndarray`, (n, size, size)
        Matching kernels.
    convolved, other : `Noise`
        Of the two images before the convolution; not both without noise.

    Returns
    -------
    whitening : `Whitening`
    """
    size = kernels.shape[-1]
    power = _power(kernels)
    matched = convolved.power() * power
    spectrum = other.power() + matched
    zero = spectrum[:, :1, :1]
    wide = np.asarray(fft.irfft2(np.sqrt(zero / np.maximum(spectrum, LEAST_POWER * zero)), s=(GRID, GRID)))
    around = np.arange(-(size // 2), size // 2 + 1)
    cut = trim(wide[:, around[:, None], around[None]], FAINT_RING)
    cut = cut / cut.sum(axis=(1, 2), keepdims=True)
    return Whitening(
        cut,
        mean_power(matched) / (convolved.variance * (kernels**2).sum(axis=(1, 2))),
        mean_power(spectrum * _power(cut)) / mean_power(spectrum),
    )


def _power(kernels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return |transform|^2 of kernels on the grid."""
    transform = fft.rfft2(kernels, s=(GRID, GRID))
    return np.asarray(transform.real**2 + transform.imag**2)


def mean_power(spectra: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over all frequencies of the halves that a real transform keeps."""
    inner = spectra[..., 1 : GRID // 2].sum(axis=(-2, -1))
    outer = spectra[..., 0].sum(axis=-1) + spectra[..., GRID // 2].sum(axis=-1)
    return np.asarray((2 * inner + outer) / GRID**2)
