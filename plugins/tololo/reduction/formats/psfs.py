"""The PSF model in files: Tololo's pixel PSF carried by Piff, which LSST's image types can store."""

from __future__ import annotations

import galsim
import numpy as np
from lsst.images import Box
from lsst.images.psfs import PiffWrapper, PointSpreadFunction
from numpy.typing import NDArray

from tololo.reduction.formats.piff_import import piff
from tololo.reduction.kernels.psf import PixelPsf

_POWERS = {1: [(0, 0)], 3: [(0, 0), (1, 0), (0, 1)], 6: [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]}
"""Powers of x and y of the terms of a `PixelPsf`, by their number."""


def to_piff(psf: PixelPsf, bounds: Box) -> PiffWrapper:
    """Carry a pixel PSF by a Piff PixelGrid whose pixels are polynomials in x and y.

    Parameters
    ----------
    psf : `PixelPsf`
        The model.
    bounds : `lsst.images.Box`
        Where the model may be evaluated.
    """
    n_terms, size, _ = psf.coefficients.shape
    powers = _POWERS[n_terms]
    order = max(i + j for i, j in powers)
    raw = _expanded(psf)
    interpolation = piff.BasisPolynomial(order=order)
    # Piff orders its terms by the power of x, then of y.
    rank = sorted(range(n_terms), key=lambda k: powers[k])
    interpolation.q = np.stack([raw[k].ravel() for k in rank], axis=1)
    impl = piff.SimplePSF(piff.PixelGrid(scale=1.0, size=size, interp="Lanczos(5)"), interpolation)
    impl.wcs = {0: galsim.PixelScale(1.0)}
    impl.pointing = None
    impl.stars = []
    return PiffWrapper(impl, bounds, size)


def from_piff(psf: PointSpreadFunction) -> PixelPsf:
    """Return the pixel PSF that `to_piff` stored, in unshifted pixel coordinates."""
    assert isinstance(psf, PiffWrapper)
    impl = psf.piff_psf
    terms = impl.interp.q.shape[1]
    size = impl.model.size
    powers = _POWERS[terms]
    rank = sorted(range(terms), key=lambda k: powers[k])
    raw = np.empty((terms, size, size))
    for column, k in enumerate(rank):
        raw[k] = impl.interp.q[:, column].reshape(size, size)
    return PixelPsf(raw, order=max(i + j for i, j in powers))


def _expanded(psf: PixelPsf) -> NDArray[np.float64]:
    """Rewrite a polynomial in normalised coordinates as one in pixels (binomial expansion)."""
    a, b = 1.0 / psf.scale[0], 1.0 / psf.scale[1]
    p, q = -psf.center[0] * a, -psf.center[1] * b
    c = np.asarray(psf.coefficients, dtype=float)
    raw = np.zeros_like(c)
    raw[0] = c[0]
    if len(c) >= 3:
        raw[0] += c[1] * p + c[2] * q
        raw[1] = c[1] * a
        raw[2] = c[2] * b
    if len(c) == 6:
        raw[0] += c[3] * p * p + c[4] * p * q + c[5] * q * q
        raw[1] += 2 * c[3] * a * p + c[4] * a * q
        raw[2] += 2 * c[5] * b * q + c[4] * b * p
        raw[3] = c[3] * a * a
        raw[4] = c[4] * a * b
        raw[5] = c[5] * b * b
    return raw
