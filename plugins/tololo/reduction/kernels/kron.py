"""Kron-like photometry: circles that follow the extent of each source."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.apertures import first_moments
from tololo.reduction.kernels.photometry import aperture_photometry
from tololo.reduction.kernels.planes import check_planes

REACH = 6.0
"""Extent, in standard deviations of a source, over which its first moment is taken (SExtractor's)."""

FACTOR = 2.5
"""Radius of the circle in units of that moment (Kron 1980, ApJS 43, 305)."""


def kron_photometry(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    sigma: NDArray[np.floating],
    *,
    smallest: float,
) -> NDArray[np.void]:
    """Sum the light in circles of 2.5 times the first moment of the light's distance from the centre.

    Parameters
    ----------
    image, variance, bad
        As for `aperture_photometry`.
    x, y : `numpy.ndarray`, (n,)
        Centres in pixels.
    sigma : `numpy.ndarray`, (n,)
        Sizes of the sources as the standard deviation of a Gaussian, pixels.
    smallest : `float`
        Least radius, pixels: the moment of a faint source is mostly noise.

    Returns
    -------
    sums : structured `numpy.ndarray`, (n,)
        flux, flux_err (image's unit; neighbours in the circle are counted along), radius (pixels),
        masked_fraction.
    """
    data, noise, masked = check_planes(image, variance, bad)
    px, py = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    size = np.asarray(sigma, dtype=np.float64)
    sums = np.zeros(px.size, dtype=[(n, "f8") for n in ("flux", "flux_err", "radius", "masked_fraction")])
    if not px.size:
        return sums
    extent = np.empty(px.size)
    first_moments(data, masked, px, py, REACH * size, extent)
    sums["radius"] = np.clip(FACTOR * extent, smallest, max(smallest, 1.0) + REACH * size)
    found = aperture_photometry(data, noise, masked, px, py, sums["radius"][None])[:, 0]
    for name in ("flux", "flux_err", "masked_fraction"):
        sums[name] = found[name]
    return sums
