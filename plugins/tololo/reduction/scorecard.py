"""The scorecard of a night: one row a visit, from the summaries of its detectors.

Three datasets with dimensions ``instrument``, ``day_obs`` lie in the newest RUN
``{night}/{proc_type}/scorecard/{time}``, in front of the chain ``{night}/{proc_type}``; the first of them is
what templates and difference imaging read.

``night_scorecard`` (ArrowAstropy), one row a visit in order of time:

======================  ====================================================================================
``visit``               int
``band``                str
``exposure_time``       s
``mjd``                 TAI, middle of the exposure
``airmass``             NaN where the exposure does not tell
``seeing``              arcsec, FWHM of the PSF
``ellipticity``         of the PSF
``sky``                 counts a pixel
``zero_point``          AB magnitude of one count in the whole exposure
``zero_point_scatter``  mag, of the stars of a detector about it
``transparency``        light that arrived over what a clear sky lets through; NaN where nothing can tell
``depth``               AB magnitude of a point source of 5 sigma
``astrometric_rms``     mas an axis, of bright stars where there are enough
``stars``               int, reference stars of a detector that the zero point rests on
``calibration_age``     days to the night of the furthest borrowed bias or flat, 0 of its own; NaN of InstCal
``detectors``           int, how many were calibrated
``detectors_expected``  int
``verdict``             ``accepted``, ``flagged`` or ``rejected``
``reasons``             str, why it is not accepted: sentences, separated by blanks
======================  ====================================================================================

What is measured is the median over the visit's detectors, NaN (``stars``: 0) of a visit without any. Counts
are electrons of raws, ADU of InstCal.

``night_summary`` (StructuredDataDict):

- ``night``, ``proc_type``, ``visits``, ``accepted`` (numbers), ``flagged``, ``rejected`` (lists of visits);
- ``bands``: by band ``visits``, ``accepted``, and medians of ``seeing``, ``depth`` and ``transparency`` (null
  where not known), ``clear`` (zero point of a clear sky, for one second at airmass 1) and ``clear_from``;
- ``detectors``: ``expected``, ``done``, ``completeness``, and ``by_detector``, a list of ``detector``,
  ``expected``, ``done``;
- ``calibrations``: list of ``kind``, ``physical_filter``, ``night`` that they were taken in (null of one that
  was brought in by hand), ``age`` (days, negative for an earlier night), ``reason`` of a borrowed one,
  ``detectors``;
- ``failures``: list of ``reason``, ``label``, ``count``, ``visits``, ``example``, most frequent first;
- ``seconds``: by step (``bias``, ``flat``, ``visit``, ``instcal``), wall time of its runs;
- ``limits``: what the visits were judged by.

``night_plot`` (Plot): a PNG file. The Butler writes such a figure and does not read it back; its file is
``butler.getURI(ref)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.facility.scorecard import ACCEPTED, FLAGGED, REJECTED, Limits, best_of_night, judge
from tololo.facility.scorecard import transparency as transparency_of

COLUMNS: dict[str, type] = {
    "visit": np.int64,
    "band": str,
    "exposure_time": np.float64,
    "mjd": np.float64,
    "airmass": np.float64,
    "seeing": np.float64,
    "ellipticity": np.float64,
    "sky": np.float64,
    "zero_point": np.float64,
    "zero_point_scatter": np.float64,
    "transparency": np.float64,
    "depth": np.float64,
    "astrometric_rms": np.float64,
    "stars": np.int64,
    "calibration_age": np.float64,
    "detectors": np.int64,
    "detectors_expected": np.int64,
    "verdict": str,
    "reasons": str,
}

MEDIANS = {
    "seeing": "fwhm",
    "ellipticity": "ellipticity",
    "sky": "sky",
    "zero_point": "zero_point",
    "zero_point_scatter": "zero_point_scatter",
    "depth": "limiting_magnitude",
}
"""Columns of the scorecard, and those of ``detector_summary`` of which they are the median."""

NO_REFERENCE = "nothing"
FROM_CONFIGURATION = "configuration"
FROM_NIGHT = "best of the night"


@dataclass(frozen=True)
class Visit:
    """A visit that was asked for.

    Attributes
    ----------
    visit : `int`
    band : `str`
    exposure_time : `float`
        Seconds.
    mjd : `float`
        TAI, middle of the exposure.
    airmass : `float`
        NaN if not known.
    expected : `int`
        Detectors that should have been calibrated.
    calibration_age : `float`
        Days; NaN if there are none.
    failures : `str`
        Why detectors are missing.
    """

    visit: int
    band: str
    exposure_time: float
    mjd: float
    airmass: float
    expected: int
    calibration_age: float = math.nan
    failures: str = ""


@dataclass(frozen=True)
class ClearSky:
    """The zero point (AB magnitude of one count a second, airmass 1) of a clear sky, and how it is known."""

    zero_point: float | None
    source: str


@dataclass(frozen=True)
class Night:
    """The scorecard as a table (see the module's docstring), and what was taken for a clear sky by band."""

    table: Table
    clear: dict[str, ClearSky]


def score(
    visits: Sequence[tuple[Visit, Table | None]], proc_type: str, limits: Limits | None = None
) -> Night:
    """Make the scorecard of a night.

    Parameters
    ----------
    visits : sequence of (`Visit`, `astropy.table.Table` or `None`)
        With the rows of ``detector_summary`` of those of its detectors that were calibrated.
    proc_type : `str`
        ``drp`` or ``instcal``, also with ``_injected``: says what a count is.
    limits : `~tololo.facility.scorecard.Limits`, optional

    Returns
    -------
    night : `Night`
    """
    limits = limits or Limits()
    rows = sorted((_measured(visit, summary) for visit, summary in visits), key=lambda row: row["mjd"])
    clear = {band: _clear_sky(band, rows, proc_type, limits) for band in sorted({r["band"] for r in rows})}
    for row in rows:
        row["transparency"] = transparency_of(
            _per_second(row), row["band"], row["airmass"], clear[row["band"]].zero_point, limits
        )
        verdict = judge(row, limits)
        row |= {"verdict": verdict.verdict, "reasons": " ".join(verdict.reasons)}
    columns: dict[str, NDArray[Any]] = {
        name: np.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()
    }
    return Night(Table(columns), clear)


def summarise(night: Night, limits: Limits | None = None) -> dict[str, Any]:
    """Return the part of ``night_summary`` that follows from the scorecard."""
    table, limits = night.table, limits or Limits()
    verdict, visit = np.asarray(table["verdict"]), np.asarray(table["visit"])
    bands = {}
    for band, clear in night.clear.items():
        rows = table[np.asarray(table["band"]) == band]
        bands[band] = {
            "visits": len(rows),
            "accepted": int(np.count_nonzero(np.asarray(rows["verdict"]) == ACCEPTED)),
            **{name: _or_none(np.asarray(rows[name])) for name in ("seeing", "depth", "transparency")},
            "clear": clear.zero_point,
            "clear_from": clear.source,
        }
    return {
        "visits": len(table),
        "accepted": int(np.count_nonzero(verdict == ACCEPTED)),
        "flagged": visit[verdict == FLAGGED].tolist(),
        "rejected": visit[verdict == REJECTED].tolist(),
        "bands": bands,
        "limits": {
            name: {"flag": bound.flag, "reject": bound.reject} for name, bound in limits.bounds.items()
        }
        | {"depth": {band: {"flag": b.flag, "reject": b.reject} for band, b in limits.depth.items()}},
    }


def is_same(one: Table, other: Table) -> bool:
    """Tell whether two scorecards say the same; NaN is equal to NaN."""
    return one.colnames == other.colnames and all(
        _plain(one[name]) == _plain(other[name]) for name in one.colnames
    )


def _measured(visit: Visit, summary: Table | None) -> dict[str, Any]:
    """Return a row but for transparency and verdict."""
    rows = summary if summary is not None and len(summary) else None
    row: dict[str, Any] = {
        "visit": visit.visit,
        "band": visit.band,
        "exposure_time": visit.exposure_time,
        "mjd": visit.mjd,
        "airmass": visit.airmass,
        **{name: _median(rows, column) for name, column in MEDIANS.items()},
        "astrometric_rms": _astrometric_rms(rows),
        "calibration_age": visit.calibration_age,
        "detectors": 0 if rows is None else len(rows),
        "detectors_expected": visit.expected,
        "failures": visit.failures,
    }
    stars = _median(rows, "n_zero_point")
    return row | {"stars": int(stars) if math.isfinite(stars) else 0}


def _clear_sky(band: str, rows: Sequence[Mapping[str, Any]], proc_type: str, limits: Limits) -> ClearSky:
    known = limits.clear_zero_point(band, proc_type)
    if known is not None:
        return ClearSky(known, FROM_CONFIGURATION)
    of_band = [row for row in rows if row["band"] == band]
    best = best_of_night(limits.at_zenith(_per_second(row), band, row["airmass"]) for row in of_band)
    return ClearSky(best, NO_REFERENCE if best is None else FROM_NIGHT)


def _per_second(row: Mapping[str, Any]) -> float:
    seconds = row["exposure_time"]
    return float(row["zero_point"] - 2.5 * math.log10(seconds)) if seconds > 0 else math.nan


def _astrometric_rms(rows: Table | None) -> float:
    """Return mas an axis, of bright stars in those detectors that have enough of them."""
    if rows is None:
        return math.nan
    pixels = _values(rows, "astrometric_rms")
    if "astrometric_rms_bright" in rows.colnames:
        bright = _values(rows, "astrometric_rms_bright")
        pixels = np.where(np.isfinite(bright), bright, pixels)
    return _middle(1000 * pixels * _values(rows, "pixel_scale"))


def _median(rows: Table | None, column: str) -> float:
    return math.nan if rows is None else _middle(_values(rows, column))


def _values(rows: Table, column: str) -> NDArray[np.float64]:
    # A column that some detectors lack is masked where they were put together with others.
    return np.ma.filled(np.ma.asarray(rows[column], np.float64), np.nan)


def _middle(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else math.nan


def _or_none(values: NDArray[np.float64]) -> float | None:
    middle = _middle(values)
    return middle if math.isfinite(middle) else None


def _plain(column: Any) -> list[Any]:
    values = np.asarray(column).tolist()
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]
