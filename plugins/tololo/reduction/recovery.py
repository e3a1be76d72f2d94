"""What became of a night's injected sources: completeness, purity, flux and depth, by band and visit.

Detections that the night has without injected sources too are not counted: they say nothing about these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.reduction.injection_recovery import RADIUS, matched
from tololo.reduction.instrument.filters import BANDS
from tololo.reduction.recovery_fit import fit_depth
from tololo.reduction.references import ZERO_POINT

BRIGHT = 10.0
"""Signal to noise on the visit; sources above it should all be recovered, and their fluxes be true."""

BENEATH = 5.0
"""Signal to noise of what lies beneath an injected source, above which it counts as upon a source."""

RELIABLE = 0.5
"""Reliability of what would enter the APDB."""

STEP = 0.5
"""Magnitudes of a bin."""

ENDS = "", "_error"

LEAST = 5
"""So many recovered sources tell the flux ratio of a bin."""


@dataclass(frozen=True)
class Injected:
    """A detector with injected sources.

    Attributes
    ----------
    visit, detector : `int`
    band : `str`
    seeing : `float`
        FWHM, arcsec; NaN if not known.
    truth : `astropy.table.Table`
        ``injected_source``.
    sources : `astropy.table.Table`
        ``dia_source_unfiltered`` of the difference with injected sources.
    plain : `astropy.table.Table` or `None`
        The same of the difference without them, if there is one.
    """

    visit: int
    detector: int
    band: str
    seeing: float
    truth: Table
    sources: Table
    plain: Table | None


def follow(one: Injected) -> tuple[Table, Table]:
    """Find the injected sources of a detector among its detections, and what else is new there.

    Parameters
    ----------
    one : `Injected`

    Returns
    -------
    injected : `astropy.table.Table`
        One row for each source that could be found: ``visit, band, seeing, mag, snr, flux, on_source``,
        ``detected`` (at all), ``recovered`` (as what would enter the APDB), ``measured`` and
        ``measured_error`` (nJy, NaN where not recovered). Sources beside the detector, on bad pixels,
        saturated, or where the night has a detection without them, are left out.
    new : `astropy.table.Table`
        Detections that would enter the APDB and are neither injected nor there without injection: ``visit,
        band, mag``. Empty where there is no difference without injected sources.
    """
    truth, sources = one.truth, one.sources
    usable = np.asarray(truth["inside"] & ~truth["masked"] & ~truth["saturated"], dtype=bool)
    accepted = sources[accepted_rows(sources)]
    positive = sources[~np.asarray(sources["isNegative"], dtype=bool)]
    if one.plain is not None:
        usable &= ~_near(truth, one.plain[accepted_rows(one.plain)])
    rows = positive[accepted_rows(positive)]
    found = matched(truth, rows)
    got = found >= 0
    measured, error = np.full((2, len(truth)), np.nan)
    measured[got] = np.asarray(rows["psfFlux"], float)[found[got]]
    error[got] = np.asarray(rows["psfFluxErr"], float)[found[got]]
    number = len(truth)
    injected = Table(
        {
            "visit": np.full(number, one.visit, np.int64),
            "band": np.full(number, one.band),
            "seeing": np.full(number, one.seeing, float),
            "mag": np.asarray(truth["mag"], float),
            "snr": np.asarray(truth["snr"], float),
            "flux": np.asarray(truth["flux"], float),
            "on_source": _on_source(truth),
            "detected": (matched(truth, positive) >= 0) | got,
            "recovered": got,
            "measured": measured,
            "measured_error": error,
        }
    )[usable]
    flux = np.abs(np.asarray(accepted["psfFlux"], float))
    is_new = np.zeros(len(accepted), bool)
    if one.plain is not None:
        is_new = ~_near(accepted, truth) & ~_near(accepted, one.plain)
    with np.errstate(divide="ignore"):
        mag = ZERO_POINT - 2.5 * np.log10(flux[is_new])
    number = len(mag)
    new = Table(
        {"visit": np.full(number, one.visit, np.int64), "band": np.full(number, one.band), "mag": mag}
    )
    return injected, new


def accepted_rows(sources: Table) -> NDArray[np.bool_]:
    """Tell which diaSources would enter the APDB by the default limits."""
    reliable = np.nan_to_num(np.asarray(sources["reliability"], float)) >= RELIABLE
    return np.asarray(sources["rejection"] == "", dtype=bool) & reliable


@dataclass(frozen=True)
class Night:
    """All injected sources of a night, and all new detections, as `follow` returns them.

    Attributes
    ----------
    injected, new : `astropy.table.Table`
    detectors, without_plain : `int`
        How many there are, and how many have no difference without injected sources.
    observed : `frozenset` [`str`]
        Bands of the detectors, also those in which nothing was injected.
    """

    injected: Table
    new: Table
    detectors: int
    without_plain: int
    observed: frozenset[str]

    @classmethod
    def of(cls, detectors: Iterable[Injected]) -> Night:
        """Follow each detector in turn."""
        injected, new, number, without = [], [], 0, 0
        observed = set()
        for one in detectors:
            parts = follow(one)
            injected.append(parts[0])
            new.append(parts[1])
            number += 1
            without += one.plain is None
            observed.add(one.band)
        return cls(
            vstack(injected, metadata_conflicts="silent") if injected else Table(),
            vstack(new, metadata_conflicts="silent") if new else Table(),
            number,
            without,
            frozenset(observed),
        )

    @property
    def bands(self) -> list[str]:
        """Bands with sources, in order of their wavelength."""
        there = {str(band) for band in self.injected["band"]} if len(self.injected) else set()
        return [*(band for band in BANDS if band in there), *sorted(there.difference(BANDS))]


def bins(night: Night) -> Table:
    """Return completeness, purity and flux by magnitude: the table ``injection_recovery``.

    Returns
    -------
    bins : `astropy.table.Table`
        For each band as a whole (``visit`` 0), for its sources on the sky and upon sources (``beneath``:
        ``all``, ``sky`` or ``source``), and for each visit: ``seeing`` (arcsec, median), ``mag_from, mag_to,
        injected, detected, recovered, completeness, completeness_error, spurious`` (new detections of such
        magnitude), ``purity`` (recovered of recovered and spurious), ``flux_ratio`` (median of measured over
        true flux), ``flux_ratio_error, flux_scatter`` (robust, of the ratio) and ``flux_pull`` (scatter of
        measured less true flux over the error). NaN where not known.
    """
    rows: list[dict[str, Any]] = []
    for band in night.bands:
        mine, new = _of(night.injected, band), _of(night.new, band)
        on_source = np.asarray(mine["on_source"], bool)
        rows += _binned(mine, new, band=band, visit=0, beneath="all")
        rows += _binned(mine[~on_source], new[:0], band=band, visit=0, beneath="sky")
        rows += _binned(mine[on_source], new[:0], band=band, visit=0, beneath="source")
        for visit in np.unique(mine["visit"]).tolist():
            own = mine[mine["visit"] == visit]
            rows += _binned(own, new[new["visit"] == visit], band=band, visit=visit, beneath="all")
    return Table(rows=rows)


def summarise(night: Night) -> dict[str, dict[str, Any]]:
    """Return the numbers of each band.

    Returns
    -------
    bands : `dict`
        By band ``injected, detected, recovered, spurious`` (numbers), ``seeing`` (median, arcsec),
        ``completeness`` (above `BRIGHT` sigma), ``purity`` (of all accepted detections that the night does
        not have without injection), ``bias`` (median of measured over true flux, less 1, above `BRIGHT`
        sigma), ``depth`` (magnitude of half completeness), each with ``_error``; ``depth_width``,
        ``depth_top`` (of the fitted curve), ``depth_note`` (why there is no depth), ``depth_sky``,
        ``depth_source`` (on the sky and upon sources),
        ``depth_noise`` (magnitude of 5 sigma by the errors of the recovered), ``pull``, and ``visits``: for
        each ``visit``, ``seeing``, ``injected``, ``completeness``, ``depth`` and ``depth_error``. `None`
        where not known.
    """
    return {
        band: _summary(_of(night.injected, band), len(_of(night.new, band)), night) for band in night.bands
    }


def _summary(mine: Table, spurious: int, night: Night) -> dict[str, Any]:
    on_source = np.asarray(mine["on_source"], bool)
    whole, sky, source = (_depth(rows) for rows in (mine, mine[~on_source], mine[on_source]))
    bright = mine[np.asarray(mine["snr"], float) >= BRIGHT]
    recovered = int(np.sum(mine["recovered"]))
    knows_purity = night.without_plain < night.detectors
    ratio = _ratio(bright)
    parts = {
        "completeness": _part(int(np.sum(bright["recovered"])), len(bright)),
        "purity": _part(recovered, recovered + spurious) if knows_purity else (math.nan, math.nan),
        "bias": (ratio["flux_ratio"] - 1, ratio["flux_ratio_error"]),
        "depth": (whole["depth"], whole["depth_error"]),
    }
    pairs = {f"{name}{end}": v for name, pair in parts.items() for end, v in zip(ENDS, pair, strict=True)}
    return {
        "injected": len(mine),
        "detected": int(np.sum(mine["detected"])),
        "recovered": recovered,
        "spurious": spurious if knows_purity else None,
        "seeing": _finite(_middle(mine["seeing"])),
        **{name: _finite(value) for name, value in pairs.items()},
        "depth_width": _finite(whole["width"]),
        "depth_top": _finite(whole["top"]),
        "depth_note": whole["note"],
        "depth_sky": _finite(sky["depth"]),
        "depth_source": _finite(source["depth"]),
        "depth_noise": _finite(_noise_depth(mine)),
        "pull": _finite(_ratio(mine)["flux_pull"]),
        "visits": [
            _visit(mine[np.asarray(mine["visit"]) == visit], visit)
            for visit in np.unique(mine["visit"]).tolist()
        ],
    }


def _visit(mine: Table, visit: int) -> dict[str, Any]:
    fit, bright = _depth(mine), mine[np.asarray(mine["snr"], float) >= BRIGHT]
    return {
        "visit": int(visit),
        "seeing": _finite(_middle(mine["seeing"])),
        "injected": len(mine),
        "completeness": _finite(_part(int(np.sum(bright["recovered"])), len(bright))[0]),
        "depth": _finite(fit["depth"]),
        "depth_error": _finite(fit["depth_error"]),
    }


def _depth(mine: Table) -> dict[str, Any]:
    fit = fit_depth(np.asarray(mine["mag"], float), np.asarray(mine["recovered"], bool))
    return {
        "depth": fit.depth,
        "depth_error": fit.error,
        "width": fit.width,
        "top": fit.top,
        "note": fit.note,
    }


def _noise_depth(mine: Table) -> float:
    """Return the magnitude of 5 sigma by the errors of what was recovered and is not bright itself."""
    errors = np.asarray(mine["measured_error"], float)
    faint = np.isfinite(errors) & (np.asarray(mine["snr"], float) < 2 * BRIGHT)
    return ZERO_POINT - 2.5 * math.log10(5 * float(np.median(errors[faint]))) if faint.any() else math.nan


def _binned(mine: Table, new: Table, **which: Any) -> Iterator[dict[str, Any]]:
    if not len(mine):
        return
    mag = np.asarray(mine["mag"], float)
    first, last = math.floor(mag.min() / STEP), math.floor(mag.max() / STEP)
    number = np.floor(mag / STEP).astype(int)
    new_number = np.floor(np.asarray(new["mag"], float) / STEP) if len(new) else np.empty(0)
    knows_purity = which["beneath"] == "all"
    for index in range(first, last + 1):
        rows = mine[number == index]
        recovered, spurious = int(np.sum(rows["recovered"])), int(np.sum(new_number == index))
        part, error = _part(recovered, len(rows))
        yield {
            **which,
            "seeing": _middle(mine["seeing"]),
            "mag_from": index * STEP,
            "mag_to": (index + 1) * STEP,
            "injected": len(rows),
            "detected": int(np.sum(rows["detected"])),
            "recovered": recovered,
            "completeness": part,
            "completeness_error": error,
            "spurious": spurious,
            "purity": _part(recovered, recovered + spurious)[0] if knows_purity else math.nan,
            **_ratio(rows),
        }


def _ratio(rows: Table) -> dict[str, float]:
    """Compare measured with true fluxes of what was recovered."""
    names = ("flux_ratio", "flux_ratio_error", "flux_scatter", "flux_pull")
    rows = rows[np.isfinite(np.asarray(rows["measured"], float))]
    if len(rows) < LEAST:
        return dict.fromkeys(names, math.nan)
    measured, true = np.asarray(rows["measured"], float), np.asarray(rows["flux"], float)
    middle, scatter = _robust(measured / true)
    _, pull = _robust((measured - true) / np.asarray(rows["measured_error"], float))
    # The median's error is 1.25 times that of the mean of normal values.
    return dict(zip(names, (middle, 1.2533 * scatter / math.sqrt(len(rows)), scatter, pull), strict=True))


def _robust(values: NDArray[np.float64]) -> tuple[float, float]:
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(values - middle)))


def _middle(values: Any) -> float:
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else math.nan


def _part(some: int, whole: int) -> tuple[float, float]:
    """Return a fraction and its error, not 0 where it is 0 or 1 itself (Agresti and Coull 1998)."""
    if not whole:
        return math.nan, math.nan
    middle = (some + 2) / (whole + 4)
    return some / whole, math.sqrt(middle * (1 - middle) / (whole + 4))


def _near(ones: Table, others: Table) -> NDArray[np.bool_]:
    """Tell which rows have one of the others within the radius of a match."""
    if not (len(ones) and len(others)):
        return np.zeros(len(ones), bool)
    tree = cKDTree(np.column_stack([others["x"], others["y"]]))
    distance, _ = tree.query(np.column_stack([ones["x"], ones["y"]]))
    return np.asarray(distance < RADIUS)


def _on_source(truth: Table) -> NDArray[np.bool_]:
    if "snr_beneath" not in truth.colnames:
        return np.zeros(len(truth), bool)
    return np.asarray(np.asarray(truth["snr_beneath"], float) > BENEATH)


def _of(table: Table, band: str) -> Table:
    return table[np.asarray(table["band"]) == band] if len(table) else table


def _finite(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
