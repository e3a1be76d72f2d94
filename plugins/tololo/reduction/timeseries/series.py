"""The light curves of a dataset: all its frames on one scale, and that scale on the reference system."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.facility.errors import NothingToDoError
from tololo.reduction.kernels.color_terms import ColorTerm
from tololo.reduction.timeseries.calibration import (
    ALONE,
    ENOUGH,
    Calibration,
    calibrate,
    contamination,
    extinction,
)
from tololo.reduction.timeseries.ensemble import Ensemble, solve_ensemble
from tololo.reduction.timeseries.measurements import Measurement
from tololo.reduction.timeseries.stars import Stars

Floats = NDArray[np.float64]

CLOUDED = 2.0
"""Mag by which a frame may be fainter than the clear ones."""

STEADY = 0.03
"""Mag; a star whose scatter beyond its errors is larger does not calibrate."""

FACTS = (
    "start",
    "mjd_utc",
    "mjd_tdb",
    "hjd_utc",
    "bjd_tdb",
    "exposure_time",
    "filter",
    "telescope",
    "instrument",
    "site",
    "airmass",
)
"""What a light curve says of each frame."""

LIMIT_SIGMA = 3.0
"""Standard deviations of a limit."""


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
        Counts a second of the whole star: the aperture's with its frame's correction.
    magnitude, error : `numpy.ndarray`, (n_frames, n_stars)
        Calibrated; NaN where the flux is not positive. The error does not hold that of the zero point.
    scale : `numpy.ndarray`, (n_frames,)
        Zero point of each frame, mag; ``scale_err`` its error against the other frames.
    flags : `numpy.ndarray`, (n_frames, n_stars)
    ensemble : `Ensemble`
    calibration : `Calibration`
    contamination : `numpy.ndarray`, (n_stars,)
        By which part of its light known neighbours add to each star's aperture.
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
    contamination: Floats

    @property
    def detected(self) -> NDArray[np.bool_]:
        """Which stars are seen on which frames, above `LIMIT_SIGMA`; (n_frames, n_stars)."""
        with np.errstate(invalid="ignore"):
            return np.isfinite(self.magnitude) & (self.flux > LIMIT_SIGMA * self.flux_err)

    @property
    def limit(self) -> Floats:
        """Magnitude at `LIMIT_SIGMA` of stars that are not seen on a frame; NaN of others."""
        with np.errstate(invalid="ignore", divide="ignore"):
            faintest = self.scale[:, None] - 2.5 * np.log10(LIMIT_SIGMA * self.flux_err)
        return np.where(self.detected | ~np.isfinite(self.flux), np.nan, faintest)

    @property
    def extinction(self) -> ColorTerm:
        """What the zero points of the frames lose with each airmass."""
        airmass = np.array([item.facts["airmass"] for item in self.measurements], float)
        return extinction(self.scale, self.scale_err, airmass)

    def light_curve(self, star: int) -> Table:
        """Return the light curve of a star, one row a frame, in the order of time.

        Every value is of the row's own frame: ``image_id`` says which.
        """
        facts = [item.facts for item in self.measurements]
        table = Table({"image_id": [item.image_id for item in self.measurements]})
        for name in FACTS:
            table[name] = [fact[name] for fact in facts]
        table["star"] = np.full(len(facts), star)
        for name in ("flux", "flux_err", "magnitude", "error", "flags"):
            table[name] = getattr(self, name)[:, star]
        table["limit"] = self.limit[:, star]
        table["detected"] = self.detected[:, star]
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
    clouded = _repeated(good)
    set_aside |= clouded
    good = [m for m in good if m.image_id not in clouded]
    clouded = {"": ""}
    while clouded:
        whole = np.array([[m.facts["aperture_correction"]] for m in good], float)
        flux, flux_err = (whole * [m.stars[name] for m in good] for name in ("flux", "flux_err"))
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
    steady = np.isfinite(ensemble.mean) & (ensemble.excess < STEADY) & constant
    neighbours = _contamination(good, stars, ensemble.mean)
    alone = steady & (neighbours < ALONE)
    usable = alone if np.count_nonzero(alone & np.isfinite(stars.magnitude)) >= ENOUGH else steady
    calibration = calibrate(
        np.where(usable, ensemble.mean, np.nan), _typical(error), stars.magnitude, stars.error, stars.color
    )
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
        contamination=neighbours,
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


def _contamination(good: Sequence[Measurement], stars: Stars, mean: Floats) -> Floats:
    """Return what neighbours add to each star's aperture; nothing where the PSF was fitted."""
    radius = float(np.median([m.facts["aperture"] for m in good]))
    fwhm = np.array([m.facts["fwhm"] for m in good], float)
    if radius == 0 or not np.isfinite(fwhm).any():
        return np.zeros(len(stars.ra))
    return contamination(stars.ra, stars.dec, mean, radius, float(np.nanmedian(fwhm)))


def _typical(error: Floats) -> Floats:
    """Return the median of each column, NaN of one without values."""
    found = np.full(error.shape[1], np.nan)
    known = np.isfinite(error).any(axis=0)
    found[known] = np.nanmedian(error[:, known], axis=0)
    return found


def _repeated(good: Sequence[Measurement]) -> dict[str, str]:
    """Return frames of which another reduction counts: the one that went further, else the first by name."""
    best: dict[tuple[str, str, str], Measurement] = {}
    found = {}
    for item in sorted(good, key=lambda m: (-m.facts["level"], m.image_id)):
        exposure = (item.facts["telescope"], item.facts["instrument"], item.facts["start"])
        if exposure in best:
            found[item.image_id] = f"it is the exposure of {best[exposure].image_id}, reduced again"
        else:
            best[exposure] = item
    return found


def _nothing(set_aside: dict[str, str]) -> str:
    reasons = list(set_aside.values())
    if not reasons:
        return "The dataset has no frames"
    commonest = max(set(reasons), key=reasons.count)
    return f"None of the {len(reasons)} frames can be used; {reasons.count(commonest)} of them: {commonest}"
