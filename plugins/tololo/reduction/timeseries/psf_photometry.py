"""PSF photometry of a frame at the places of catalogued stars: for crowded fields."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels.background import estimate_background
from tololo.reduction.kernels.detection import hidden_sources
from tololo.reduction.kernels.photometry import brightest_first
from tololo.reduction.kernels.planes import Float32Image, check_planes
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.psffit import fit_psf
from tololo.reduction.kernels.star_field import StarField
from tololo.reduction.kernels.starfit import FAILED
from tololo.reduction.timeseries.frames import Frame
from tololo.reduction.timeseries.photometry import (
    FIELDS,
    MASKED,
    NO_SKY,
    NOT_FITTED,
    OFF_FRAME,
    SATURATED,
    Photometry,
    touches_saturated,
)

Floats = NDArray[np.float64]

MESH = 64
"""Pixels; side of the cells in which the sky is estimated."""

ORDERS = (0, 0, 0, 1, 2)
"""Polynomials over the frame that the PSF is, in turn: the first ones still hold what neighbours leave."""

BRIGHTEST = 60
"""So many bright sources are enough to find the PSF of."""

ENOUGH = 12
"""Stars that are not cut by the edge of the frame, for those that are to be left out."""

LONELY = 0.1
"""Part of its light that a star's neighbours within a FWHM may have for it to tell the PSF."""

LEAST_LIGHT = 0.9
"""Part of a star's light that must fall on good pixels."""


def measure_psf(frame: Frame, x: Floats, y: Floats, *, flat_error: float = 0.001) -> Photometry:
    """Fit the frame's PSF to all its stars together, at given places.

    Parameters
    ----------
    frame : `Frame`
    x, y : `numpy.ndarray`, (n,)
        Pixels from 0; places beside the frame are allowed.
    flat_error : `float`, optional
        By which part of its flux a star is wrong for the flat field.

    Returns
    -------
    photometry : `Photometry`
        Of whole stars: the correction is 1.

    Raises
    ------
    BadInputError
        No star can serve to find the PSF, or there are not enough good pixels.

    Notes
    -----
    The PSF is that of the frame's own bright stars, with all others subtracted, again and again (as Stetson
    1987, PASP 99, 191, does it); a Moffat profile of the frame's FWHM is the first guess. Sources that show
    once all stars are subtracted are fitted with them, so that they do not count as light of their
    neighbours. The error holds the noise of the pixels, what close neighbours take from each other, that of
    the sky's level and that of the flat.
    """
    # The images' types come with it, which aperture photometry need not wait for.
    from tololo.reduction.measurement import FIRST_FWHM, first_psf

    ny, nx = frame.image.shape
    variance = frame.error.astype(np.float32) ** 2
    level, _ = estimate_background(frame.image, frame.bad, MESH)
    data, noise, masked = check_planes(frame.image - level, variance, frame.bad)
    with np.errstate(invalid="ignore"):
        inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    places = np.column_stack([x[inside], y[inside], np.zeros(int(inside.sum()))])
    fwhm = frame.info.fwhm / frame.info.pixel_scale
    psf = first_psf(fwhm if math.isfinite(fwhm) else FIRST_FWHM)
    reasons: list[str] = []
    for order in (*ORDERS, None):
        field = StarField(data, noise, masked, psf)
        field.add(*places.T)
        field.settle(
            None if places[:, 2].any() else brightest_first(data, x[inside], y[inside]), centre=False
        )
        # The sky is estimated again without the stars: in a crowd none of it is free of them.
        more, scatter = estimate_background(field.residual, masked, MESH)
        data, level, places = data - more, level + more, field.places.copy()
        if order is not None:
            psf, said = _refined(data, noise, masked, psf, places, order)
            reasons.append(said)
    if all(reasons):
        raise BadInputError(
            f"The frame is set aside: {reasons[-1]}", str(frame.path), "the other frames go on without it"
        )
    field.residual -= more
    # Not before PSF and sky are known: what they leave of bright stars would be taken for their neighbours.
    hidden = hidden_sources(field)
    field.add(hidden["x"], hidden["y"], hidden["flux"])
    field.due[:] = True
    field.settle(centre=False)
    fitted = field.measured(centred=False)[: int(inside.sum())]

    seconds = frame.info.exposure_time
    kernel = psf.kernel((nx - 1) / 2, (ny - 1) / 2)
    stars = np.zeros(len(x), FIELDS)
    stars["x"], stars["y"] = x, y
    for name in ("flux", "flux_err", "photon_err", "sky", "sky_err"):
        stars[name] = np.nan
    stars["flags"] = OFF_FRAME
    row, column = np.rint(y[inside]).astype(int), np.rint(x[inside]).astype(int)
    # The area of a fit is the inverse of the sum of the squared PSF, as that of an aperture is its own.
    sky_error = scatter[row, column] / MESH
    error = np.sqrt(
        fitted["flux_err"] ** 2
        + (sky_error / float((kernel**2).sum())) ** 2
        + (flat_error * fitted["flux"]) ** 2
    )
    stars["flux"][inside], stars["flux_err"][inside] = fitted["flux"] / seconds, error / seconds
    stars["photon_err"][inside] = fitted["flux_err"] / seconds
    stars["sky"][inside], stars["sky_err"][inside] = level[row, column], sky_error
    reach = psf.fwhm((nx - 1) / 2, (ny - 1) / 2)
    flags = np.where(fitted["flags"] & FAILED != 0, NOT_FITTED, 0)
    flags |= np.where(fitted["good_fraction"] < LEAST_LIGHT, MASKED, 0)
    flags |= np.where(~np.isfinite(sky_error), NO_SKY, 0)
    touched = np.zeros(len(x), bool)
    touched[inside] = fitted["good_fraction"] < 1.0
    stars["flags"][inside] = flags
    stars["flags"] |= np.where(touches_saturated(frame, x, y, reach, touched), SATURATED, 0)
    return Photometry(stars, 1.0, 0.0)


def _refined(
    data: Float32Image,
    noise: Float32Image,
    masked: NDArray[np.bool_],
    psf: PixelPsf,
    places: Floats,
    order: int,
) -> tuple[PixelPsf, str]:
    """Fit the PSF to bright and lonely stars, all others (x, y, flux) subtracted with the PSF so far.

    Return it, or the PSF so far and why there is no better one: with better fluxes there may be one.
    """
    chosen = _lonely(places, psf.fwhm((data.shape[1] - 1) / 2, (data.shape[0] - 1) / 2), data.shape)
    others = StarField(data, noise, masked, psf)
    others.add(*np.delete(places, chosen, axis=0).T)
    try:
        return fit_psf(others.residual, noise, masked, *places[chosen].T, max_order=order)[0], ""
    except NothingToDoError as nothing:
        return psf, nothing.what
    except (BadInputError, ValueError):  # too few pixels of too few stars tell it
        return psf, "its PSF cannot be found"


def _lonely(places: Floats, fwhm: float, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return rows of the `BRIGHTEST` stars (x, y, flux) without a neighbour that matters.

    Stars that the edge of the frame cuts come in only where few others are there.
    """
    near = cKDTree(places[:, :2]).query_pairs(fwhm, output_type="ndarray")
    flux, most = places[:, 2], np.zeros(len(places))
    if len(near):
        np.maximum.at(most, near[:, 0], flux[near[:, 1]])
        np.maximum.at(most, near[:, 1], flux[near[:, 0]])
    lonely = (most < LONELY * flux) & (flux > 0)
    room = np.minimum(places[:, :2], [shape[1] - 1, shape[0] - 1] - places[:, :2]).min(axis=1)
    whole = lonely & (room > 3 * fwhm + 1)
    rows = np.flatnonzero(whole if np.count_nonzero(whole) >= ENOUGH else lonely)
    return np.asarray(rows[np.argsort(-flux[rows], kind="stable")[:BRIGHTEST]], np.int64)
