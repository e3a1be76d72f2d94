"""PSF models of a difference image and of the matched template."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from tololo.reduction.kernels.decorrelation import Noise, whiten
from tololo.reduction.kernels.matching import SpatialKernel, polynomial
from tololo.reduction.kernels.psf import PixelPsf


def difference_psfs(
    science: PixelPsf, kernel: SpatialKernel, science_convolved: bool, noise: tuple[Noise, Noise] | None
) -> tuple[PixelPsf, PixelPsf]:
    """Return the PSF of the difference and that of the matched template.

    They are the science image's PSF, convolved with the matching kernel if the science image was, and for the
    difference with the whitening kernel, sampled over the image and fitted with a polynomial of the higher of
    the two orders. They keep the size of the science image's PSF.

    Parameters
    ----------
    science : `PixelPsf`
        Of the science image.
    kernel : `SpatialKernel`
        The matching kernel.
    science_convolved : `bool`
        Whether it was the science image that was convolved.
    noise : `tuple` [`Noise`, `Noise`], optional
        Of the convolved and the other image, if the difference was whitened.
    """
    order = max(science.order, kernel.order)
    u, v = (grid.ravel() for grid in np.meshgrid(np.linspace(-0.9, 0.9, 4), np.linspace(-0.9, 0.9, 4)))
    if order == 0:
        u, v = np.zeros(1), np.zeros(1)
    x, y = kernel.center[0] + u * kernel.scale[0], kernel.center[1] + v * kernel.scale[1]
    shapes = kernel.at(x, y)
    template = np.array([science.kernel(a, b) for a, b in zip(x, y, strict=True)])
    if science_convolved:
        template = convolve_stamps(template, shapes)
    difference = template if noise is None else convolve_stamps(template, whiten(shapes, *noise).kernels)
    terms = np.linalg.pinv(polynomial(order, u, v))

    def fitted(stars: NDArray[np.float64]) -> PixelPsf:
        flat = stars / stars.sum(axis=(1, 2), keepdims=True)
        return PixelPsf(np.tensordot(terms, flat, 1), order, kernel.center, kernel.scale)

    return fitted(difference), fitted(template)


def convolve_stamps(stamps: NDArray[np.float64], kernels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolve each centred stamp, (n, size, size), with its own kernel; the size stays."""
    size, reach = stamps.shape[-1], kernels.shape[-1] // 2
    wide = fft.next_fast_len(size + 2 * reach, real=True)
    product = fft.rfft2(stamps, s=(wide, wide)) * fft.rfft2(kernels, s=(wide, wide))
    return np.asarray(fft.irfft2(product, s=(wide, wide)))[:, reach : reach + size, reach : reach + size]
