"""Aperture photometry of a frame at the places of catalogued stars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import NothingToDoError
from tololo.reduction.kernels.local_sky import local_sky, mask_discs
from tololo.reduction.kernels.photometry import aperture_correction, aperture_photometry
from tololo.reduction.kernels.planes import Float32Image, check_planes
from tololo.reduction.timeseries.frames import Frame
from tololo.reduction.timeseries.growth import light_inside

Floats = NDArray[np.float64]

OFF_FRAME, MASKED, SATURATED, NO_SKY, NOT_FITTED = 1, 2, 4, 8, 16
"""Bits of ``flags``: beside the frame (also in part), bad pixels in the aperture, saturated ones, no sky, the
fit of the PSF failed."""

FLAG_NAMES = {
    OFF_FRAME: "beside the frame",
    MASKED: "bad pixels",
    SATURATED: "saturated",
    NO_SKY: "no sky",
    NOT_FITTED: "not fitted",
}

WHOLE = 2.5
"""Apertures by which the circle is larger that holds all the light of a star."""

CORRECTION_SNR = 50.0
"""Signal to noise of the stars that tell the aperture correction."""

VISIBLE = 0.1
"""Part of the noise of the sky at which a star's wing no longer counts."""

FARTHEST = 4.0
"""Radii of the aperture beyond which a star is not left out of its neighbours' sky."""

LEAST_SKY = 0.2
"""Part of a ring that must be left; else the stars in it stay, and are clipped."""

FIELDS = np.dtype(
    [
        ("x", "f8"),
        ("y", "f8"),
        ("flux", "f8"),
        ("flux_err", "f8"),
        ("photon_err", "f8"),
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

    ``stars`` is a structured array of `FIELDS`, in which ``photon_err`` is the part of ``flux_err`` that
    photons and read-out make; ``correction`` the factor from the aperture's flux to that of the whole star,
    with its error (1 and infinite where no star tells it).
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

    Known stars are left out of each other's sky, as far as their light can be seen on it. How much of a
    star's light the aperture holds may change over the frame (`growth.light_inside`): fluxes are brought to
    what it is in the mean.

    The median of what photons make lies a sixth of an electron below the mean (their distribution is skew:
    mean less median is skewness times standard deviation over 6); where the sky is dark that is part of a
    faint star.
    """
    variance = frame.error.astype(np.float32) ** 2
    data, noise, masked = check_planes(frame.image, variance, frame.bad)
    radii = apertures.radius * np.array([1.0, WHOLE, 0.5])
    area = math.pi * radii**2
    sums = aperture_photometry(data, noise, masked, x, y, list(radii))
    sky = _sky(data, masked, x, y, apertures, sums["flux"][:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        sky_error = sky["scatter"] * np.sqrt(math.pi / 2 / sky["number"])
    level = sky["level"] + _photon_share(frame, sky["scatter"]) / 6 / frame.info.gain
    flux = sums["flux"] - level[:, None] * area
    flags = _flags(frame, x, y, apertures.radius, sums["masked_fraction"][:, 0], sky["number"])
    error = np.sqrt(sums["flux_err"] ** 2 + (area * sky_error[:, None]) ** 2)
    with np.errstate(invalid="ignore"):
        clear = (flags == 0) & (flux[:, 0] > CORRECTION_SNR * error[:, 0])
    change = _growth(frame, x, y, flux, error, clear)
    error = np.sqrt(error**2 + ((flat_error**2 + change[:, 1:] ** 2) * flux**2))
    inside = np.exp(change[:, 0])
    seconds = frame.info.exposure_time
    stars = np.zeros(len(x), FIELDS)
    stars["x"], stars["y"] = x, y
    stars["flux"], stars["flux_err"] = flux[:, 0] / inside / seconds, error[:, 0] / inside / seconds
    stars["photon_err"] = sums["flux_err"][:, 0] / inside / seconds
    stars["sky"], stars["sky_err"] = level, sky_error
    stars["flags"] = flags
    stars["flux"][flags & (OFF_FRAME | NO_SKY) != 0] = math.nan
    clear &= sums["masked_fraction"][:, 1] == 0
    try:
        factor, factor_error, _ = aperture_correction(flux[clear, 0], flux[clear, 1], error[clear, 1])
    except NothingToDoError:
        factor, factor_error = 1.0, math.inf
    return Photometry(stars, factor, factor_error)


def _sky(
    data: Float32Image, masked: NDArray[np.bool_], x: Floats, y: Floats, apertures: Apertures, sums: Floats
) -> NDArray[np.void]:
    """Measure the sky about each star, other stars left out as far as their light is seen on it.

    ``sums`` are the counts in the apertures, sky in them. Where too little is left the stars stay in.
    """
    first = local_sky(data, masked, x, y, apertures.inner, apertures.outer)
    flux = sums - first["level"] * math.pi * apertures.radius**2
    scatter = np.median(first["scatter"][first["number"] > 0]) if (first["number"] > 0).any() else math.nan
    # To where a Moffat profile (exponent 3) has fallen to a part of the sky's noise.
    width = apertures.inner / 3
    with np.errstate(invalid="ignore"):
        peak = 2 * flux / (math.pi * width**2) / (VISIBLE * scatter)
        reach = width * np.sqrt(np.cbrt(np.maximum(peak, 1.0)) - 1)
    left_out = masked.copy()
    mask_discs(left_out, x, y, np.clip(reach, 0.0, FARTHEST * apertures.radius))
    sky = local_sky(data, left_out, x, y, apertures.inner, apertures.outer)
    few = sky["number"] < LEAST_SKY * first["number"]
    sky[few] = first[few]
    return sky


def _growth(
    frame: Frame, x: Floats, y: Floats, flux: Floats, error: Floats, clear: NDArray[np.bool_]
) -> Floats:
    """Return how the light inside the aperture changes over the frame, as `light_inside` does."""
    told = np.stack([flux, error], axis=2)
    told[~clear] = np.nan
    shape = frame.image.shape[0], frame.image.shape[1]
    places = np.nan_to_num(x, nan=-1.0), np.nan_to_num(y, nan=-1.0)
    return light_inside(*places, shape, told[:, 2], told[:, 0])


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
    touched = inside & (masked > 1e-6)
    return np.asarray(
        flags | np.where(touches_saturated(frame, x, y, radius, touched), SATURATED, 0), np.int32
    )


def _photon_share(frame: Frame, scatter: Floats) -> Floats:
    """Return which part of the sky's variance photons make; the rest is of the read-out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 1 - (frame.info.read_noise / frame.info.gain / scatter) ** 2
    return np.asarray(np.clip(np.nan_to_num(share, nan=0.0, neginf=0.0), 0, 1))


def touches_saturated(
    frame: Frame, x: Floats, y: Floats, radius: float, touched: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Tell which stars, of those that touch bad pixels, have saturated ones within a radius (pixels)."""
    saturated = np.zeros(len(x), bool)
    full = frame.image >= frame.info.saturation
    if full.any():
        reach = math.ceil(radius)
        for n in np.flatnonzero(touched):
            column, row = round(float(x[n])), round(float(y[n]))
            box = np.s_[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
            saturated[n] = bool(full[box].any())
    return saturated
