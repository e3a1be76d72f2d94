"""Aperture photometry of a frame at the places of catalogued stars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import NothingToDoError
from tololo.reduction.kernels.local_sky import local_sky
from tololo.reduction.kernels.photometry import aperture_correction, aperture_photometry
from tololo.reduction.kernels.planes import check_planes
from tololo.reduction.timeseries.frames import Frame

Floats = NDArray[np.float64]

OFF_FRAME, MASKED, SATURATED, NO_SKY = 1, 2, 4, 8
"""Bits of ``flags``: beside the frame (also in part), bad pixels in the aperture, saturated ones, no sky."""

WHOLE = 2.5
"""Apertures by which the circle is larger that holds all the light of a star."""

CORRECTION_SNR = 50.0
"""Signal to noise of the stars that tell the aperture correction."""

FIELDS = np.dtype(
    [
        ("x", "f8"),
        ("y", "f8"),
        ("flux", "f8"),
        ("flux_err", "f8"),
        ("sky", "f8"),
        ("sky_err", "f8"),
        ("flags", "i4"),
    ]
)


@dataclass(frozen=True)
class Apertures:
    """Radii in pixels: of the aperture, and of the ring in which the sky is measured."""

    radius: float
    inner: float
    outer: float

    @classmethod
    def of(cls, arcsec: float, pixel_scale: float, fwhm: float = math.nan) -> Apertures:
        """Return the radii for an aperture in arcsec; the ring begins where the star's light ends.

        ``fwhm`` is in pixels.
        """
        radius = arcsec / pixel_scale
        light = 3.0 * fwhm if math.isfinite(fwhm) else 0.0
        inner = max(radius + 3.0, light)
        return cls(radius, inner, math.hypot(inner, 2.5 * radius + 8.0))


@dataclass(frozen=True)
class Photometry:
    """Fluxes of stars on one frame, counts per second.

    ``stars`` is a structured array of `FIELDS`; ``correction`` the factor from the aperture's flux to that of
    the whole star, with its error (1 and infinite where no star tells it).
    """

    stars: NDArray[np.void]
    correction: float
    correction_error: float


def measure(
    frame: Frame, x: Floats, y: Floats, apertures: Apertures, *, flat_error: float = 0.001
) -> Photometry:
    """Measure stars at given places.

    Parameters
    ----------
    frame : `Frame`
    x, y : `numpy.ndarray`, (n,)
        Pixels from 0; places beside the frame are allowed.
    apertures : `Apertures`
    flat_error : `float`, optional
        By which part of its flux a star is wrong for the flat field.

    Returns
    -------
    photometry : `Photometry`

    Notes
    -----
    The error holds the noise of source, sky and read-out in the aperture (the frame's error plane), that of
    the sky's level (which is a median: pi / 2 times the variance of a mean), and that of the flat.
    """
    variance = frame.error.astype(np.float32) ** 2
    data, noise, masked = check_planes(frame.image, variance, frame.bad)
    sky = local_sky(data, masked, x, y, apertures.inner, apertures.outer)
    sums = aperture_photometry(data, noise, masked, x, y, [apertures.radius, WHOLE * apertures.radius])
    area = math.pi * np.array([apertures.radius, WHOLE * apertures.radius]) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        sky_error = sky["scatter"] * np.sqrt(math.pi / 2 / sky["number"])
    flux = sums["flux"] - sky["level"][:, None] * area
    error = np.sqrt(sums["flux_err"] ** 2 + (area * sky_error[:, None]) ** 2 + (flat_error * flux) ** 2)
    seconds = frame.info.exposure_time
    stars = np.zeros(len(x), FIELDS)
    stars["x"], stars["y"] = x, y
    stars["flux"], stars["flux_err"] = flux[:, 0] / seconds, error[:, 0] / seconds
    stars["sky"], stars["sky_err"] = sky["level"], sky_error
    stars["flags"] = _flags(frame, x, y, apertures.radius, sums["masked_fraction"][:, 0], sky["number"])
    stars["flux"][stars["flags"] & (OFF_FRAME | NO_SKY) != 0] = math.nan
    clear = (
        (stars["flags"] == 0)
        & (flux[:, 0] > CORRECTION_SNR * error[:, 0])
        & (sums["masked_fraction"][:, 1] == 0)
    )
    try:
        factor, factor_error, _ = aperture_correction(flux[clear, 0], flux[clear, 1], error[clear, 1])
    except NothingToDoError:
        factor, factor_error = 1.0, math.inf
    return Photometry(stars, factor, factor_error)


def _flags(
    frame: Frame, x: Floats, y: Floats, radius: float, masked: Floats, sky_pixels: NDArray[np.int64]
) -> NDArray[np.int32]:
    ny, nx = frame.image.shape
    with np.errstate(invalid="ignore"):
        inside = (
            (x - radius >= -0.5) & (x + radius <= nx - 0.5) & (y - radius >= -0.5) & (y + radius <= ny - 0.5)
        )
    flags = np.where(inside, 0, OFF_FRAME)
    flags = flags | np.where(inside & (masked > 1e-6), MASKED, 0)
    flags = flags | np.where(sky_pixels < 10, NO_SKY, 0)
    saturated = np.zeros(len(x), bool)
    full = frame.image >= frame.info.saturation
    if full.any():
        reach = math.ceil(radius)
        for n in np.flatnonzero(inside & (masked > 1e-6)):
            column, row = round(float(x[n])), round(float(y[n]))
            box = np.s_[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
            saturated[n] = bool(full[box].any())
    return np.asarray(flags | np.where(saturated, SATURATED, 0), np.int32)
