"""What makes a template good enough, and what may become of its versions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

type State = Literal["candidate", "accepted", "superseded", "rejected"]

CANDIDATE: State = "candidate"
ACCEPTED: State = "accepted"
SUPERSEDED: State = "superseded"
REJECTED: State = "rejected"

WARPS = ("direct", "psf_matched")
"""How visits are brought to the patches: as they are, or all convolved to one PSF."""

METRICS, TABLE, SUMMARY, PLOT = "template_metrics", "template_scorecard", "template_summary", "template_plot"
"""Dataset types: the metrics of a patch and band; those of a version as a table, in short, as a figure."""

type Bounds = tuple[float | None, float | None]

MEASURES: Mapping[str, tuple[str, str, Bounds]] = {
    "coverage": ("covered part of the patch", "", (None, None)),
    "inputs": ("number of inputs", "", (None, None)),
    "seeing": ("seeing", " arcsec", (None, 2.5)),
    "noise_ratio": ("noise over expectation", "", (0.5, 2.0)),
    "background": ("unevenness of the background over the noise", "", (None, 2.0)),
    "clipped": ("clipped part", "", (None, 0.2)),
    "depth": ("depth", " mag", (None, None)),
}
"""Columns of ``template_metrics`` that are judged: name, unit, limits unless the configuration has others.

The limits of ``depth`` are given by band.
"""


@dataclass(frozen=True)
class Limits:
    """What the versions of a template are judged by.

    Attributes
    ----------
    bounds : `dict` [`str`, `tuple`]
        Lowest and highest value of each of `MEASURES` but ``depth``, `None` for none.
    depth : `dict` [`str`, `tuple`]
        Likewise, by band.
    good : `float`
        Part of a band's area that has to lie in patches within the bounds.
    kept : `float`
        Part of what the accepted version covers, band by band, that another has to cover to replace it.
    """

    bounds: Mapping[str, Bounds] = field(
        default_factory=lambda: {name: item[2] for name, item in MEASURES.items() if name != "depth"}
    )
    depth: Mapping[str, Bounds] = field(default_factory=dict)
    good: float = 0.9
    kept: float = 0.9

    def of(self, measure: str, band: str) -> Bounds:
        """Return the bounds of a measure in a band."""
        return self.depth.get(band, (None, None)) if measure == "depth" else self.bounds[measure]


@dataclass(frozen=True)
class Judgement:
    """What is to be said of a version.

    Attributes
    ----------
    is_good : `bool`
        Whether it may be accepted without a person.
    reasons : `list` [`str`]
        Sentences against it.
    poor : `dict` [`str`, `list` [`str`]]
        What is beyond the bounds, by band and patch ``r 9813/42``; some of it does no harm.
    """

    is_good: bool
    reasons: list[str] = field(default_factory=list)
    poor: dict[str, list[str]] = field(default_factory=dict)


def judge(
    rows: Sequence[Mapping[str, Any]],
    limits: Limits | None = None,
    accepted: Iterable[Mapping[str, Any]] = (),
) -> Judgement:
    """Judge a version.

    Parameters
    ----------
    rows : sequence of mappings
        Its ``template_metrics``. A value that is not known (NaN) is not judged.
    limits : `Limits`, optional
        Those of this module unless given.
    accepted : iterable of mappings
        Those of the version that it would replace; none if there is none, or it is this one.
    """
    limits = limits or Limits()
    if not rows:
        return Judgement(False, ["None of its templates has been measured."])
    reasons: list[str] = []
    poor: dict[str, list[str]] = {}
    for band in sorted({str(row["band"]) for row in rows}):
        of_band = [row for row in rows if row["band"] == band]
        found = {_name(row): _beyond(row, limits) for row in of_band}
        bad = {name: why for name, why in found.items() if why}
        poor |= {f"{band} {name}": why for name, why in bad.items()}
        area = sum(_area(row) for row in of_band)
        good = sum(_area(row) for row in of_band if not found[_name(row)])
        if bad and good < limits.good * area:
            name, why = next(iter(bad.items()))
            reasons.append(
                f"Band {band}: {good / area if area else 0:.0%} of the area is within the limits, "
                f"{limits.good:.0%} has to be; {len(bad)} of {len(of_band)} patches are beyond, "
                f"the first is {name}: {', '.join(why)}."
            )
    reasons += _lost(rows, list(accepted), limits.kept)
    return Judgement(not reasons, reasons, poor)


def _beyond(row: Mapping[str, Any], limits: Limits) -> list[str]:
    reasons = []
    for column, (name, unit, _) in MEASURES.items():
        value, (low, high) = float(row[column]), limits.of(column, str(row["band"]))
        if low is not None and value < low:
            reasons.append(f"{name} {value:.3g}{unit}, below {low:g}")
        elif high is not None and value > high:
            reasons.append(f"{name} {value:.3g}{unit}, above {high:g}")
    return reasons


def _lost(rows: Sequence[Mapping[str, Any]], accepted: Sequence[Mapping[str, Any]], part: float) -> list[str]:
    """Say where a version covers less than the one that it would replace."""
    now = {(row["band"], row["tract"], row["patch"]): _area(row) for row in rows}
    reasons = []
    for band in sorted({str(row["band"]) for row in accepted}):
        before = {
            (row["band"], row["tract"], row["patch"]): _area(row) for row in accepted if row["band"] == band
        }
        whole = sum(before.values())
        kept = sum(min(area, now.get(key, 0.0)) for key, area in before.items())
        if kept < part * whole:
            gone = len(before.keys() - now.keys())
            reasons.append(
                f"Band {band}: it covers {kept / whole:.0%} of what the accepted version covers, "
                f"{part:.0%} is needed; {gone} of {len(before)} patches are not there."
            )
    return reasons


def _area(row: Mapping[str, Any]) -> float:
    """Return the covered area of a patch, square degrees."""
    return float(row["coverage"]) * float(row["size"]) ** 2


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['tract']}/{row['patch']}"


def schema() -> dict[str, Any]:
    """Return the schema of the key ``templates.limits`` of a configuration."""
    pair = {
        "type": ["array", "null"],
        "items": {"type": ["number", "null"]},
        "minItems": 2,
        "maxItems": 2,
        "description": "write [lowest, highest], null for none",
    }
    part = {"type": "number", "minimum": 0, "maximum": 1}
    bands = {
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z0-9]+$"},
        "additionalProperties": pair,
        "description": "write {band: [lowest, highest]}",
    }
    names = {name: bands if name == "depth" else pair for name in MEASURES}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": names | {"good": part, "kept": part},
        "description": f"use {', '.join(MEASURES)}, good, kept",
    }


def read_limits(content: Mapping[str, Any] | None) -> Limits:
    """Return the limits that a configuration gives over those of this module, as `schema` describes them."""
    given, default = dict(content or {}), Limits()
    return Limits(
        bounds={name: _pair(given[name]) if name in given else old for name, old in default.bounds.items()},
        depth={band: _pair(item) for band, item in (given.get("depth") or {}).items()},
        good=float(given.get("good", default.good)),
        kept=float(given.get("kept", default.kept)),
    )


def misordered(content: Mapping[str, Any] | None) -> tuple[list[str], str] | None:
    """Find a pair of limits in the wrong order, which a schema cannot: its keys, and what is wrong."""
    given = content or {}
    pairs = [([name], given[name]) for name in MEASURES if name in given and name != "depth"]
    pairs += [(["depth", band], item) for band, item in (given.get("depth") or {}).items()]
    for keys, item in pairs:
        low, high = _pair(item)
        if low is not None and high is not None and low > high:
            return keys, f"the lowest value ({low:g}) is above the highest ({high:g})"
    return None


def told(limits: Limits) -> dict[str, Any]:
    """Return limits as a summary records them."""
    bounds = {name: list(pair) for name, pair in limits.bounds.items()}
    depth = {band: list(pair) for band, pair in limits.depth.items()}
    return bounds | {"depth": depth, "good": limits.good, "kept": limits.kept}


def _pair(item: Sequence[float | None] | None) -> Bounds:
    low, high = item or (None, None)
    return low, high


def median(values: Iterable[float]) -> float:
    """Return the median of the values that are known, NaN if none is."""
    known = sorted(value for value in values if math.isfinite(value))
    if not known:
        return math.nan
    half = len(known) // 2
    return known[half] if len(known) % 2 else (known[half - 1] + known[half]) / 2
