"""What makes a visit good enough: accepted, flagged (no template takes it) or rejected (nothing uses it).

How clear the sky was follows from the zero point of one second at airmass 1, compared with that of a clear
sky, which the facility's configuration has by band: a night that is clouded throughout is noticed that way.
In a band that it does not have, the best visit of the night is taken for clear, if there are `LEAST_VISITS`;
with fewer, transparency is not known and not judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

type Word = Literal["accepted", "flagged", "rejected"]

ACCEPTED: Word = "accepted"
FLAGGED: Word = "flagged"
REJECTED: Word = "rejected"

LEAST_VISITS = 3
"""So many visits of a band can tell among themselves which of them had a clear sky."""

EXTINCTION = 0.1
"""Magnitudes per airmass of a band that the configuration does not have."""


@dataclass(frozen=True)
class Bound:
    """From where on a visit is flagged and rejected; `None` where nothing is bad enough."""

    flag: float | None = None
    reject: float | None = None


@dataclass(frozen=True)
class Measure:
    """Something that a visit is judged by.

    Attributes
    ----------
    name : `str`
        For people.
    bound : `Bound`
        Where the configuration has none.
    high_is_bad : `bool`
    unit : `str`
        Written after a value.
    optional : `bool`
        Whether it may be unknown; a visit is flagged where another one is.
    """

    name: str
    bound: Bound
    high_is_bad: bool = True
    unit: str = ""
    optional: bool = False

    def is_beyond(self, value: float, bound: float | None) -> bool:
        """Tell whether a value is worse than a bound."""
        return bound is not None and (value > bound if self.high_is_bad else value < bound)


TABLE, SUMMARY, PLOT = "night_scorecard", "night_summary", "night_plot"
"""Dataset types of a scored night, all with the dimensions instrument and day_obs."""

MEASURES: Mapping[str, Measure] = {
    "seeing": Measure("seeing", Bound(2.0, 3.5), unit=" arcsec"),
    "ellipticity": Measure("ellipticity", Bound(0.2, 0.4)),
    "transparency": Measure("transparency", Bound(0.65, 0.3), high_is_bad=False, optional=True),
    "zero_point_scatter": Measure("scatter of the zero point", Bound(0.1, 0.3), unit=" mag"),
    "depth": Measure("depth", Bound(), high_is_bad=False, unit=" mag"),
    "astrometric_rms": Measure("astrometric rms", Bound(100.0, 300.0), unit=" mas"),
    "stars": Measure("number of stars of the zero point", Bound(2, 1), high_is_bad=False),
    "calibration_age": Measure("age of the calibrations", Bound(7, None), unit=" days", optional=True),
    "detectors": Measure("calibrated part of the detectors", Bound(0.9, 0.5), high_is_bad=False),
}
"""All that is judged; ``depth`` has bounds for each band, since they depend on how long a survey exposes."""

CLEAR = {"g": 26.61, "r": 26.82, "i": 26.76, "z": 26.48, "y": 25.32}
"""AB magnitude of one electron a second, at airmass 1 through a clear sky: the Legacy Surveys' of DECam."""

EXTINCTIONS = {"g": 0.17, "r": 0.10, "i": 0.08, "z": 0.06, "y": 0.06}
"""Magnitudes per airmass, likewise."""

GAIN = 4.0
"""Electrons an ADU, mean of the camera: counts of InstCal are ADU."""


@dataclass(frozen=True)
class Limits:
    """What visits are judged by.

    Attributes
    ----------
    bounds : `dict` [`str`, `Bound`]
        Of each of `MEASURES` but ``depth``.
    depth : `dict` [`str`, `Bound`]
        By band.
    clear : `dict` [`str`, `float`]
        By band, as `CLEAR`.
    extinction : `dict` [`str`, `float`]
        By band, as `EXTINCTIONS`.
    gain : `float`
        As `GAIN`.
    """

    bounds: Mapping[str, Bound] = field(
        default_factory=lambda: {name: item.bound for name, item in MEASURES.items() if name != "depth"}
    )
    depth: Mapping[str, Bound] = field(default_factory=dict)
    clear: Mapping[str, float] = field(default_factory=lambda: dict(CLEAR))
    extinction: Mapping[str, float] = field(default_factory=lambda: dict(EXTINCTIONS))
    gain: float = GAIN

    def of(self, measure: str, band: str) -> Bound:
        """Return the bounds of a measure in a band."""
        return self.depth.get(band, Bound()) if measure == "depth" else self.bounds[measure]

    def clear_zero_point(self, band: str, proc_type: str) -> float | None:
        """Return the zero point of a clear sky in the counts of visits from raws or InstCal, if it is known.

        AB magnitude of one count a second at airmass 1.
        """
        known = self.clear.get(band)
        if known is None or not proc_type.startswith("instcal"):
            return known
        return known - 2.5 * math.log10(self.gain)

    def at_zenith(self, zero_point: float, band: str, airmass: float) -> float:
        """Return what a zero point would be at airmass 1; an airmass that is not known is taken for 1."""
        path = airmass - 1 if math.isfinite(airmass) else 0.0
        return zero_point + self.extinction.get(band, EXTINCTION) * path


@dataclass(frozen=True)
class Verdict:
    """What a visit is good for, and the sentences that say why it is not accepted."""

    verdict: Word
    reasons: tuple[str, ...] = ()


def judge(measured: Mapping[str, Any], limits: Limits | None = None) -> Verdict:
    """Judge a visit.

    Parameters
    ----------
    measured : mapping
        ``band``, ``detectors`` and ``detectors_expected`` (numbers), and the other `MEASURES` by name, NaN
        where not known; ``failures`` (text), why detectors are not there. If no detector is, nothing else
        counts.
    limits : `Limits`, optional
        Those of this module unless given.

    Returns
    -------
    verdict : `Verdict`
        The worst of what each measure says.
    """
    limits = limits or Limits()
    findings = list(_findings(measured, limits))
    words = {word for word, _ in findings}
    worst = next((word for word in (REJECTED, FLAGGED) if word in words), ACCEPTED)
    return Verdict(worst, tuple(sentence for _, sentence in findings))


def _findings(measured: Mapping[str, Any], limits: Limits) -> Iterator[tuple[Word, str]]:
    done, expected = int(measured["detectors"]), int(measured["detectors_expected"])
    why = f": {measured['failures']}" if measured.get("failures") else ""
    if not done:
        yield REJECTED, f"0 of {expected} detectors were calibrated{why}."
        return
    for name, measure in MEASURES.items():
        bound = limits.of(name, str(measured["band"]))
        if name == "detectors":
            if finding := _beyond(measure, done / expected, bound):
                word, limit = finding
                yield word, f"{done} of {expected} detectors were calibrated, less than {limit:.0%}{why}."
            continue
        value = float(measured.get(name, math.nan))
        if math.isnan(value):
            if not measure.optional and bound != Bound():
                yield FLAGGED, f"The {measure.name} is not known."
        elif finding := _beyond(measure, value, bound):
            word, limit = finding
            side = "above" if measure.high_is_bad else "below"
            yield word, f"The {measure.name} is {value:.4g}{measure.unit}, {side} {limit:g}{measure.unit}."


def _beyond(measure: Measure, value: float, bound: Bound) -> tuple[Word, float] | None:
    for word, limit in ((REJECTED, bound.reject), (FLAGGED, bound.flag)):
        if limit is not None and measure.is_beyond(value, limit):
            return word, limit
    return None


def transparency(zero_point: float, band: str, airmass: float, clear: float | None, limits: Limits) -> float:
    """Return how much of the light arrived that arrives through a clear sky; NaN if that is not known.

    Parameters
    ----------
    zero_point : `float`
        AB magnitude of one count a second.
    band : `str`
    airmass : `float`
        NaN if not known.
    clear : `float` or `None`
        Zero point of a clear sky at airmass 1.
    limits : `Limits`
    """
    if clear is None or not math.isfinite(zero_point):
        return math.nan
    return float(10 ** (0.4 * (limits.at_zenith(zero_point, band, airmass) - clear)))


def best_of_night(zero_points: Iterable[float]) -> float | None:
    """Return the best zero point (of one second, at airmass 1) if there are enough to tell."""
    known = [value for value in zero_points if math.isfinite(value)]
    return max(known) if len(known) >= LEAST_VISITS else None


def schema() -> dict[str, Any]:
    """Return the schema of the key ``scorecard`` of a configuration."""
    number = {"type": "number"}
    bound = {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {word: {"type": ["number", "null"], "minimum": 0} for word in ("flag", "reject")},
        "description": "write {flag: number, reject: number}, null for none",
    }
    band = {"type": "object", "propertyNames": {"pattern": "^[A-Za-z0-9]+$"}}
    names = {name: bound for name in MEASURES if name != "depth"}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": names
        | {
            "depth": band | {"additionalProperties": bound},
            "clear": band | {"additionalProperties": number},
            "extinction": band | {"additionalProperties": number | {"minimum": 0}},
            "gain": number | {"exclusiveMinimum": 0},
        },
        "description": f"use {', '.join(MEASURES)}, clear, extinction, gain",
    }


def read_limits(content: Mapping[str, Any] | None) -> Limits:
    """Return the limits that a configuration gives over those of this module.

    Parameters
    ----------
    content : mapping, optional
        As `schema` describes it. Of a measure both bounds are replaced: the one that is not named is none.
    """
    given = dict(content or {})
    default = Limits()
    bounds = {name: _bound(given[name]) if name in given else old for name, old in default.bounds.items()}
    return Limits(
        bounds=bounds,
        depth={band: _bound(item) for band, item in (given.get("depth") or {}).items()},
        clear={**default.clear, **(given.get("clear") or {})},
        extinction={**default.extinction, **(given.get("extinction") or {})},
        gain=float(given.get("gain", default.gain)),
    )


def misordered(content: Mapping[str, Any] | None) -> tuple[list[str], str] | None:
    """Find a pair of bounds in the wrong order, which a schema cannot.

    Returns
    -------
    keys, message : `list` [`str`], `str`
        Where it is in the configuration, and what is wrong; `None` if all is well.
    """
    given = content or {}
    pairs = [([name], given[name]) for name in MEASURES if name in given and name != "depth"]
    pairs += [(["depth", band], item) for band, item in (given.get("depth") or {}).items()]
    for keys, item in pairs:
        bound, measure = _bound(item), MEASURES[keys[0]]
        if (
            bound.flag is not None
            and bound.reject is not None
            and measure.is_beyond(bound.flag, bound.reject)
        ):
            side = "less" if measure.high_is_bad else "more"
            return keys, f"flag ({bound.flag:g}) has to be {side} than reject ({bound.reject:g})"
    return None


def _bound(item: Mapping[str, float | None] | None) -> Bound:
    return Bound(**(item or {}))
