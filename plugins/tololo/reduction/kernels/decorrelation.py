"""Decorrelation: whiten the noise that convolving one image leaves in a difference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GRID = 64
"""Side of the grid on which spectra are computed, in pixels; larger than any matching kernel."""


def whitening_kernel(
    kernel: NDArray[np.float64], noise_of_convolved: float, noise_of_other: float
) -> NDArray[np.float64]:
    """Return the kernel that makes the noise of ``other - kernel * convolved`` white again.

    With kappa the Fourier transform of the kernel, and v and w the white noise variances of the convolved and
    of the other image, the difference has the spectrum w + v |kappa|^2, and the kernel's transform is
    sqrt((w + v kappa_0^2) / (w + v |kappa|^2)) (Reiss & Lupton 2016, DMTN-021, with the kernel's sum
    kappa_0): 1 at zero frequency, so that sources keep their flux.

    Parameters
    ----------
    kernel : `numpy.ndarray`, (size, size)
        Matching kernel.
    noise_of_convolved, noise_of_other : `float`
        Variances per pixel of the two images before the convolution; not both zero.

    Returns
    -------
    whitening : `numpy.ndarray`, (size, size)
        Of unit sum; cut to the size of the matching kernel.
    """
    size = kernel.shape[0]
    padded = np.zeros((GRID, GRID))
    padded[:size, :size] = kernel
    power = np.abs(np.fft.rfft2(padded)) ** 2
    spectrum = noise_of_other + noise_of_convolved * power
    # Where the kernel leaves nearly no power the noise cannot be restored: the gain is kept below 30.
    spectrum = np.maximum(spectrum, spectrum[0, 0] / 900.0)
    centred = np.fft.fftshift(np.fft.irfft2(np.sqrt(spectrum[0, 0] / spectrum), s=padded.shape))
    first = GRID // 2 - size // 2
    cut = centred[first : first + size, first : first + size]
    return np.asarray(cut / cut.sum())
