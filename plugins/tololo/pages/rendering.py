"""How values become HTML: every one escaped, numbers with as many digits as they deserve."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tololo.facility import collections
from tololo.facility.calibrations import describe_age
from tololo.facility.nights import MJD_EPOCH, tai_minus_utc
from tololo.facility.scorecard import FLAGGED, MEASURES, REJECTED
from tololo.facility.waiting import ranges

NONE = "–"
"""What stands where there is no value."""


def render(template: str, base: str, content: Mapping[str, Any]) -> str:
    """Return a page.

    Parameters
    ----------
    template : `str`
        File in ``templates``.
    base : `str`
        Address of the pages, that links begin with.
    content : mapping
        What the template shows.
    """
    return _ENVIRONMENT.get_template(template).render(content, base=base, now=datetime.now(UTC))


def number(value: float | None, digits: int = 0) -> str:
    """Write a number with so many decimals; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.{digits}f}".replace("-", "−")


def micro(nanojansky: float | None, digits: int = 0) -> str:
    """Write a flux in nJy as μJy."""
    return number(None if nanojansky is None else nanojansky / 1000, digits)


def percent(fraction: float | None) -> str:
    """Write a fraction as a percentage; what is not all of it is never 100 %."""
    if fraction is None or not math.isfinite(fraction):
        return NONE
    value = math.floor(1000 * fraction) / 10
    return f"{value:.0f} %" if value >= 100 else f"{value:.1f} %"


def hundredths(fraction: float | None, digits: int = 0) -> str:
    """Write a fraction in hundredths, with its sign and without the sign of the percentage."""
    return number(None if fraction is None else 100 * fraction, digits)


def duration(seconds: float | None) -> str:
    """Write a time: ``4.2 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock(mjd: float | None) -> str:
    """Write the time of day (UTC) of a Modified Julian Date in TAI."""
    if mjd is None:
        return NONE
    tai = MJD_EPOCH + timedelta(days=mjd)
    return f"{tai - timedelta(seconds=tai_minus_utc(tai)):%H:%M:%S}"


def moment(mjd: float | None) -> str:
    """Write the date and time of day (UTC) of a Modified Julian Date in TAI."""
    if mjd is None:
        return NONE
    tai = MJD_EPOCH + timedelta(days=mjd)
    return f"{tai - timedelta(seconds=tai_minus_utc(tai)):%Y-%m-%d %H:%M}"


def written(run: str) -> str:
    """Write when a RUN was made, from its name: ``2026-11-21 03:12``, UTC``."""
    when = collections.run_time(run)
    return f"{when:%Y-%m-%d %H:%M}" if when else NONE


def age(days: int | None) -> str:
    """Write how far the night of a calibration is away."""
    return NONE if days is None else describe_age(days)


def numbers(values: Iterable[int]) -> str:
    """Write numbers, neighbours as a range."""
    return ranges(values) or NONE


def incomplete(by_detector: Iterable[Mapping[str, int]]) -> list[tuple[tuple[int, int], list[int]]]:
    """Group detectors that lack visits by how many they have of how many."""
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for row in by_detector:
        if row["done"] < row["expected"]:
            groups[row["done"], row["expected"]].append(row["detector"])
    return sorted(groups.items())


def mark(row: Mapping[str, Any], column: str, limits: Mapping[str, Any]) -> str:
    """Return the verdict that one value of a visit asks for: ``flagged``, ``rejected`` or nothing.

    Parameters
    ----------
    row : mapping
        A row of ``night_scorecard``.
    column : `str`
        One of its columns.
    limits : mapping
        Those of ``night_summary``.
    """
    measure, bounds = MEASURES.get(column), limits.get(column) or {}
    if column == "depth":
        bounds = bounds.get(row["band"]) or {}
    value = row[column]
    if column == "detectors":
        value /= max(1, row["detectors_expected"])
    if measure is None or value is None:
        return ""
    for word, key in ((REJECTED, "reject"), (FLAGGED, "flag")):
        if measure.is_beyond(value, bounds.get(key)):
            return word
    return ""


def limit_rows(limits: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the limits of a night for people: ``name``, ``side``, ``flag`` and ``reject`` with their unit."""
    for column, measure in MEASURES.items():
        given = limits.get(column) or {}
        of_bands = given.items() if column == "depth" else [("", given)]
        for band, bound in of_bands:
            known = {key: bound.get(key) for key in ("flag", "reject")}
            if any(value is not None for value in known.values()):
                told = {
                    key: NONE if value is None else f"{value:g}{measure.unit}" for key, value in known.items()
                }
                side = "above" if measure.high_is_bad else "below"
                yield {"name": f"{measure.name} {band}".strip(), "side": side} | told


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=["jinja2.ext.do"],
)
_ENVIRONMENT.filters |= {
    filter_.__name__: filter_
    for filter_ in (
        number,
        micro,
        percent,
        hundredths,
        duration,
        clock,
        moment,
        written,
        age,
        numbers,
        incomplete,
        mark,
        limit_rows,
    )
}
