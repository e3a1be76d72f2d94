"""The scale of a series on the system of a reference catalogue: zero point, colour term, extinction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import ndtr

from tololo.reduction.formats.tract import unit_vectors
from tololo.reduction.kernels.calibration import zero_point
from tololo.reduction.kernels.color_terms import ColorTerm, fit_color_term

Floats = NDArray[np.float64]

UNCALIBRATED = 25.0
"""Zero point where no star of the reference catalogue is there to tell it."""

BRIGHT, ENOUGH = 0.05, 8
"""Mag; stars with a smaller error on a frame calibrate the series, if there are so many."""

LEFT = 0.25
"""Part of its error on one frame that is taken to be left in a star's mean, however many frames there are:
the fainter a star is, the more its faint neighbours matter."""

SLOPE_ACCURACY = 0.02
"""Mag a mag; a colour term that is known worse is taken to be 0."""

ALONE = 0.01
"""Part of a star's light that its neighbours may add to its aperture for it to calibrate, if enough do."""

OUT_OF_LINE = 0.1
"""Mag; a star that is farther from the others than that, and than their spread, does not calibrate."""

AIRMASS_RANGE = 0.3
"""An extinction is fitted to frames whose airmass differs by that much at least."""


@dataclass(frozen=True)
class Calibration:
    """How a series is tied to the reference catalogue.

    ``zero_point`` is the magnitude of one count a second on the scale of the series for a star of the mean
    colour ``color``; ``n_stars`` is 0 if it is `UNCALIBRATED`.
    """

    zero_point: float
    error: float
    color_term: ColorTerm
    color: float
    n_stars: int

    @property
    def calibrated(self) -> bool:
        """Whether stars of the reference catalogue have told it."""
        return self.n_stars > 0


NO_TERM = ColorTerm(0.0, 0.0, 0)


def calibrate(
    instrumental: Floats, error: Floats, magnitude: Floats, magnitude_error: Floats, color: Floats
) -> Calibration:
    """Fit zero point and colour term.

    Parameters
    ----------
    instrumental, error : `numpy.ndarray`, (n,)
        Mean over the frames, and its error on one of them; NaN of stars that shall not calibrate.
    magnitude, magnitude_error, color : `numpy.ndarray`, (n,)
        Of the reference catalogue, NaN where it has none.
    """
    known = np.isfinite(instrumental) & np.isfinite(error) & np.isfinite(magnitude)
    with np.errstate(invalid="ignore"):
        bright = known & (error < BRIGHT)
    if np.count_nonzero(bright) >= ENOUGH:
        known = bright
    if not known.any():
        return Calibration(UNCALIBRATED, math.nan, NO_TERM, 0.0, 0)
    difference = magnitude - instrumental
    middle = np.median(difference[known])
    spread = 1.4826 * np.median(np.abs(difference[known] - middle))
    # Two stars in one aperture, or a variable of the catalogue, tell nothing; they err to one side.
    known &= np.abs(difference - middle) <= max(3 * spread, OUT_OF_LINE)
    colored = known & np.isfinite(color)
    mean_color = float(np.median(color[colored])) if colored.any() else 0.0
    error = LEFT * error
    sigma = np.hypot(np.hypot(magnitude_error, error), 0.005)
    term = fit_color_term(
        difference[colored],
        sigma[colored],
        color[colored] - mean_color,
        np.zeros(int(colored.sum())),
        accuracy=SLOPE_ACCURACY,
    )
    tint = np.where(np.isfinite(color), color - mean_color, 0.0)
    point = zero_point(
        instrumental[known] + term.slope * tint[known], error[known], magnitude[known], magnitude_error[known]
    )
    return Calibration(point.value, point.error, term, mean_color, point.n_used)


def extinction(zero_points: Floats, errors: Floats, airmass: Floats) -> ColorTerm:
    """Return what the frames' zero points (mag) lose with each airmass, as a straight line of it.

    Its slope is negative by as much as the air takes; clouded frames are out of line. Not fitted where the
    airmass varies too little.
    """
    known = np.isfinite(zero_points) & np.isfinite(errors) & np.isfinite(airmass)
    if np.count_nonzero(known) < 5 or np.ptp(airmass[known]) < AIRMASS_RANGE:
        return NO_TERM
    return fit_color_term(
        zero_points[known],
        np.hypot(errors[known], 0.005),
        airmass[known] - np.median(airmass[known]),
        np.zeros(int(known.sum())),
        accuracy=0.05,
    )


def contamination(ra: Floats, dec: Floats, magnitude: Floats, radius: float, fwhm: float) -> Floats:
    """Return by which part of its own light neighbours add to each star's aperture.

    Parameters
    ----------
    ra, dec : `numpy.ndarray`, (n,)
        ICRS degrees.
    magnitude : `numpy.ndarray`, (n,)
        On any common scale; NaN counts as nothing.
    radius, fwhm : `float`
        Of the aperture and of the stars, arcsec.
    """
    added = np.zeros(len(ra))
    light = np.nan_to_num(10 ** (-0.4 * (magnitude - np.nanmin(magnitude, initial=0.0))))
    reach = radius + 2 * fwhm
    pairs = cKDTree(unit_vectors(ra, dec)).query_pairs(math.radians(reach / 3600), output_type="ndarray")
    if not len(pairs):
        return added
    places = unit_vectors(ra, dec)
    one, other = pairs.T
    distance = np.degrees(np.linalg.norm(places[one] - places[other], axis=1)) * 3600
    # As much of a neighbour's light as a line across the aperture's edge leaves inside.
    part = ndtr((radius - distance) / (0.6 * fwhm))
    with np.errstate(divide="ignore", invalid="ignore"):
        np.add.at(added, one, part * np.where(light[one] > 0, light[other] / light[one], 0.0))
        np.add.at(added, other, part * np.where(light[other] > 0, light[one] / light[other], 0.0))
    return added
