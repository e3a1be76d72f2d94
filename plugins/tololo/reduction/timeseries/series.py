"""The light curves of a dataset: all its frames on one scale, and that scale on the reference system."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.facility.errors import NothingToDoError
from tololo.reduction.kernels.calibration import zero_point
from tololo.reduction.kernels.color_terms import ColorTerm, fit_color_term
from tololo.reduction.timeseries.ensemble import Ensemble, solve_ensemble
from tololo.reduction.timeseries.measurements import Measurement
from tololo.reduction.timeseries.stars import Stars

Floats = NDArray[np.float64]

UNCALIBRATED = 25.0
"""Zero point where no star of the reference catalogue is there to tell it."""

CLOUDED = 2.0
"""Mag by which a frame may be fainter than the clear ones."""

BRIGHT, ENOUGH = 0.03, 8
"""Mag; stars with a smaller error on a frame calibrate the series, if there are so many."""

OUT_OF_LINE = 0.1
"""Mag; a star that is farther from the others than that, and than their spread, does not calibrate."""

LIMIT_SIGMA = 3.0
"""Standard deviations of a limit."""


@dataclass(frozen=True)
class Calibration:
    """How the series is tied to the reference catalogue.

    ``zero_point`` is the magnitude of one count a second on the scale of the series, through the aperture,
    for a star of the mean colour ``color``; ``n_stars`` is 0 if it is `UNCALIBRATED`.
    """

    zero_point: float
    error: float
    color_term: ColorTerm
    color: float
    n_stars: int


@dataclass(frozen=True)
class Series:
    """Frames of a dataset on one scale.

    Attributes
    ----------
    measurements : `list` [`Measurement`]
        The frames that count, in the order of their times.
    set_aside : `dict` [`str`, `str`]
        Frames that do not, and why.
    flux, flux_err : `numpy.ndarray`, (n_frames, n_stars)
        Counts a second as measured.
    magnitude, error : `numpy.ndarray`, (n_frames, n_stars)
        Calibrated; NaN where the flux is not positive. The error does not hold that of the zero point.
    scale : `numpy.ndarray`, (n_frames,)
        Zero point of each frame, mag; ``scale_err`` its error against the other frames.
    flags : `numpy.ndarray`, (n_frames, n_stars)
    ensemble : `Ensemble`
    calibration : `Calibration`
    """

    measurements: list[Measurement]
    set_aside: dict[str, str]
    flux: Floats
    flux_err: Floats
    magnitude: Floats
    error: Floats
    scale: Floats
    scale_err: Floats
    flags: NDArray[np.int32]
    ensemble: Ensemble
    calibration: Calibration

    def light_curve(self, star: int) -> Table:
        """Return the light curve of a star, one row a frame, in the order of time.

        Every value is of the row's own frame: ``image_id`` says which.
        """
        facts = [item.facts for item in self.measurements]
        columns = (
            "start",
            "mjd_utc",
            "mjd_tdb",
            "hjd_utc",
            "bjd_tdb",
            "filter",
            "telescope",
            "instrument",
            "airmass",
        )
        table = Table({"image_id": [item.image_id for item in self.measurements]})
        for name in columns:
            table[name] = [fact[name] for fact in facts]
        table["star"] = np.full(len(facts), star)
        for name in ("flux", "flux_err", "magnitude", "error", "flags"):
            table[name] = getattr(self, name)[:, star]
        table["limit"] = self.scale - 2.5 * np.log10(LIMIT_SIGMA * self.flux_err[:, star])
        table["zero_point"], table["zero_point_err"] = self.scale, self.scale_err
        return table


def build_series(measurements: Sequence[Measurement], stars: Stars) -> Series:
    """Put all measured frames on one scale, and that on the reference catalogue's.

    Parameters
    ----------
    measurements : sequence of `Measurement`
        All frames of the dataset, in any order: the result is the same.
    stars : `Stars`

    Raises
    ------
    NothingToDoError
        No frame can be used; the message names the commonest reason.
    """
    set_aside = {item.image_id: item.reason for item in measurements if item.reason}
    good = sorted((m for m in measurements if not m.reason), key=lambda m: (m.facts["mjd_utc"], m.image_id))
    if not good:
        raise NothingToDoError(_nothing(set_aside), "dataset", "look at its frames")
    clouded = {"": ""}
    while clouded:
        flux, flux_err = (np.array([m.stars[name] for m in good], float) for name in ("flux", "flux_err"))
        flags = np.array([m.stars["flags"] for m in good], np.int32)
        instrumental, error = _magnitudes(flux, flux_err)
        constant = np.ones(flux.shape[1], bool)
        constant[0] = False  # the target
        told = np.where(flags == 0, instrumental, np.nan)
        ensemble = solve_ensemble(told, error, constant)
        clouded = _clouded(good, ensemble)
        set_aside |= clouded
        good = [m for m in good if m.image_id not in clouded]
        if not good:
            raise NothingToDoError(_nothing(set_aside), "dataset", "look at its frames")
    calibration = _calibrate(ensemble, stars, np.nanmedian(error, axis=0))
    scale = calibration.zero_point - ensemble.offset
    correction = np.where(np.isfinite(stars.color), stars.color - calibration.color, 0.0)
    magnitude = instrumental + scale[:, None] + calibration.color_term.slope * correction
    return Series(
        measurements=good,
        set_aside=set_aside,
        flux=flux,
        flux_err=flux_err,
        magnitude=magnitude,
        error=np.sqrt(error**2 + ensemble.offset_error[:, None] ** 2 + ensemble.frame_excess[:, None] ** 2),
        scale=scale,
        scale_err=ensemble.offset_error,
        flags=flags,
        ensemble=ensemble,
        calibration=calibration,
    )


def _magnitudes(flux: Floats, flux_err: Floats) -> tuple[Floats, Floats]:
    with np.errstate(invalid="ignore", divide="ignore"):
        positive = np.where(flux > 0, flux, np.nan)
        return -2.5 * np.log10(positive), 2.5 / math.log(10) * flux_err / positive


def _clouded(good: Sequence[Measurement], ensemble: Ensemble) -> dict[str, str]:
    """Return frames that lost too much light, or that no common star ties to the others."""
    clear = np.nanpercentile(ensemble.offset, 10)
    found = {}
    for item, offset in zip(good, ensemble.offset, strict=True):
        if not math.isfinite(offset):
            found[item.image_id] = "too few of its stars are constant and measured well"
        elif offset - clear > CLOUDED:
            found[item.image_id] = f"clouds: {offset - clear:.1f} mag fainter than the clear frames"
    return found


def _calibrate(ensemble: Ensemble, stars: Stars, typical: Floats) -> Calibration:
    """Fit zero point and colour term on stars that do not vary.

    ``typical`` is each star's error on one frame. That it is smaller in the mean does not count: a neighbour
    in the aperture matters the more the fainter a star is.
    """
    steady = np.isfinite(ensemble.mean) & (ensemble.excess < 0.03)
    known = steady & np.isfinite(stars.magnitude)
    known[0] = False
    bright = known & (typical < BRIGHT)
    if np.count_nonzero(bright) >= ENOUGH:
        known = bright
    if not known.any():
        return Calibration(UNCALIBRATED, math.nan, ColorTerm(0.0, 0.0, 0), 0.0, 0)
    colored = known & np.isfinite(stars.color)
    color = float(np.median(stars.color[colored])) if colored.any() else 0.0
    difference = stars.magnitude - ensemble.mean
    middle = np.median(difference[known])
    spread = 1.4826 * np.median(np.abs(difference[known] - middle))
    # Two stars in one aperture, or a variable of the catalogue, tell nothing; they err to one side.
    known &= np.abs(difference - middle) <= max(3 * spread, OUT_OF_LINE)
    colored &= known
    error = np.hypot(np.hypot(stars.error, typical), 0.005)
    term = fit_color_term(
        difference[colored], error[colored], stars.color[colored] - color, np.zeros(int(colored.sum()))
    )
    tint = np.where(np.isfinite(stars.color), stars.color - color, 0.0)
    point = zero_point(
        ensemble.mean[known] + term.slope * tint[known],
        typical[known],
        stars.magnitude[known],
        stars.error[known],
    )
    return Calibration(point.value, point.error, term, color, point.n_used)


def _nothing(set_aside: dict[str, str]) -> str:
    reasons = list(set_aside.values())
    if not reasons:
        return "The dataset has no frames"
    commonest = max(set(reasons), key=reasons.count)
    return f"None of the {len(reasons)} frames can be used; {reasons.count(commonest)} of them: {commonest}"
