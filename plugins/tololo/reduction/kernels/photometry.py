"""PSF and aperture photometry of stars."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels.apertures import circle_sums
from tololo.reduction.kernels.planes import Float32Image, check_planes
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.star_field import PHOTOMETRY_DTYPE, StarField
from tololo.reduction.kernels.starfit import BLENDED, EDGE, FAILED, MASKED, NOT_CENTRED

__all__ = [
    "FLAG_NAMES",
    "PHOTOMETRY_DTYPE",
    "aperture_correction",
    "aperture_photometry",
    "brightest_first",
    "forced_psf_photometry",
    "psf_photometry",
]

FLAG_NAMES = {
    EDGE: "edge",
    MASKED: "masked",
    FAILED: "failed",
    NOT_CENTRED: "not centred",
    BLENDED: "blended",
}


def psf_photometry(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    psf: PixelPsf,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    *,
    fit_position: bool = True,
    shapes: bool = True,
) -> NDArray[np.void]:
    """Fit the PSF to stars, neighbours together.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, (height, width)
        Background-subtracted image (any unit) and its noise variance (unit²), the stars' photon noise
        included.
    bad : `numpy.ndarray`, (height, width), bool
        Pixels to leave out.
    psf : `PixelPsf`
        Fluxes are those within its stamp.
    x, y : `numpy.ndarray`, (n,)
        Positions in pixels to start from, within about half the FWHM.
    fit_position : `bool`
        Fit the positions as well as the fluxes; a star fainter than 2 sigma stays where it is.
    shapes : `bool`
        Measure how far the stars are from points, which takes as long as the fit; else that is NaN.

    Returns
    -------
    stars : structured `numpy.ndarray`, (n,)
        In the order of the input: x, y, x_err, y_err (pixels; errors are NaN where the position was not
        fitted), flux, flux_err (image's unit; NaN with the flag `FAILED`), chi2 (per degree of freedom),
        good_fraction (of the star's light on good pixels), extendedness (0 for a point source, positive for
        a larger one: flux ratio of the PSF broadened by 0.7 pixel to the PSF, less the same of the PSF
        itself; Desai et al. 2012, ApJ 757, 83) and extendedness_err, fwhm (pixels; from adaptive moments,
        NaN where they do not converge), xy_cov (covariance of x and y, pixels²; NaN as their errors are),
        flags.

    Raises
    ------
    BadInputError
        The planes' shapes differ, or a position is not finite.
    """
    planes = check_planes(image, variance, bad)
    return fit_stars(planes, psf, x, y, centre=fit_position, shapes=shapes)


def fit_stars(
    planes: tuple[Float32Image, Float32Image, NDArray[np.bool_]],
    psf: PixelPsf,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    *,
    centre: bool,
    shapes: bool,
) -> NDArray[np.void]:
    """Do `psf_photometry` on planes that `check_planes` has returned."""
    px, py = np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)
    if px.ndim != 1 or px.shape != py.shape or not (np.isfinite(px).all() and np.isfinite(py).all()):
        raise BadInputError("Positions for photometry are not two lists of finite numbers of one length")
    field = StarField(*planes, psf)
    field.add(px, py, np.zeros(px.size))
    field.settle(brightest_first(planes[0], px, py), centre=centre)
    return field.measured(centred=centre, shapes=shapes)


def brightest_first(image: Float32Image, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order stars by the value of their pixel, the brightest first; those outside the image come last."""
    i, j = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = (i >= 0) & (j >= 0) & (i < image.shape[1]) & (j < image.shape[0])
    value = np.full(x.size, -np.inf)
    value[inside] = image[j[inside], i[inside]]
    return np.argsort(-value, kind="stable").astype(np.int64)


def forced_psf_photometry(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    psf: PixelPsf,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
) -> NDArray[np.void]:
    """Fit the PSF at fixed positions: `psf_photometry` without centring and without shapes.

    Positions outside the image give NaN fluxes with the flag `FAILED`.
    """
    return psf_photometry(image, variance, bad, psf, x, y, fit_position=False, shapes=False)


def aperture_photometry(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    radii: NDArray[np.floating] | list[float],
) -> NDArray[np.void]:
    """Sum the light in circles, with the exact overlap of circle and pixels.

    Parameters
    ----------
    image, variance, bad
        As for `psf_photometry`. Bad pixels are replaced by the mean of the circle's good ones.
    x, y : `numpy.ndarray`, (n,)
        Centres in pixels.
    radii : sequence of `float`, (n_radii,)
        Of the circles, in pixels.

    Returns
    -------
    sums : structured `numpy.ndarray`, (n, n_radii)
        flux, flux_err (image's unit), masked_fraction (of the circle's area, outside the image included).
        Where nothing of a circle is good, the flux is NaN.
    """
    data, noise, masked = check_planes(image, variance, bad)
    px, py = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    sums = np.zeros(
        (px.size, len(radii)), dtype=[("flux", "f8"), ("flux_err", "f8"), ("masked_fraction", "f8")]
    )
    raw = np.empty((px.size, 3))
    for k, radius in enumerate(radii):
        circle_sums(data, noise, masked, px, py, np.broadcast_to(radius, px.shape).astype(np.float64), raw)
        flux, square, area = raw.T
        whole = math.pi * np.asarray(radius) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(area > 1e-6 * whole, area / whole, np.nan)
            sums["flux"][:, k], sums["flux_err"][:, k] = flux / part, np.sqrt(square) / part
        sums["masked_fraction"][:, k] = np.clip(1 - area / whole, 0, 1)
    return sums


def aperture_correction(
    psf_flux: NDArray[np.floating],
    aperture_flux: NDArray[np.floating],
    aperture_error: NDArray[np.floating],
    clip: float = 3.0,
) -> tuple[float, float, int]:
    """Return the factor from PSF flux to aperture flux, from bright stars.

    Parameters
    ----------
    psf_flux, aperture_flux, aperture_error : `numpy.ndarray`, (n,)
        Of the same stars, in one unit; stars that are not finite or not positive are left out.
    clip : `float`
        Stars whose ratio is farther than this many standard deviations (robust) from the median are left out.

    Returns
    -------
    factor, error : `float`
        ``aperture flux = factor * PSF flux``; the error is that of the weighted mean, scaled up to the
        scatter.
    n_used : `int`

    Raises
    ------
    NothingToDoError
        No star can be used.
    """
    psf_f, aper, err = (np.asarray(a, dtype=np.float64) for a in (psf_flux, aperture_flux, aperture_error))
    use = np.isfinite(psf_f) & np.isfinite(aper) & (psf_f > 0) & (err > 0) & np.isfinite(err)
    if not use.any():
        raise NothingToDoError("No star with a PSF flux and an aperture flux to compare")
    ratio, sigma = aper[use] / psf_f[use], err[use] / psf_f[use]
    middle = float(np.median(ratio))
    spread = 1.4826 * float(np.median(np.abs(ratio - middle)))
    keep = np.abs(ratio - middle) <= clip * np.maximum(spread, sigma)
    weight = 1.0 / sigma[keep] ** 2
    factor = float((weight * ratio[keep]).sum() / weight.sum())
    chi2 = float((weight * (ratio[keep] - factor) ** 2).sum()) / max(1, int(keep.sum()) - 1)
    return factor, math.sqrt(max(1.0, chi2) / weight.sum()), int(keep.sum())
