"""The scorecard of a night in words: what a task's log shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from astropy.table import Row, Table
from astropy.time import Time

from tololo.facility.calibrations import describe_age
from tololo.facility.scorecard import ACCEPTED
from tololo.facility.waiting import numbered

_HEAD = (
    "   visit  UTC    band  exp/s  airm  seeing  ellip  depth  transp  zp.rms  astrom  stars   CCDs  verdict"
)


def describe(table: Table, summary: Mapping[str, Any]) -> str:
    """Write a night's scorecard as lines of text.

    Parameters
    ----------
    table : `astropy.table.Table`
        ``night_scorecard``.
    summary : mapping
        ``night_summary``.
    """
    detectors = summary["detectors"]
    lines = [
        f"Night {summary['night']}, {summary['proc_type']}: {summary['visits']} visits, "
        f"{summary['accepted']} accepted, {len(summary['flagged'])} flagged, "
        f"{len(summary['rejected'])} rejected; {detectors['done']} of {detectors['expected']} detectors",
        _HEAD,
        *(_row(row) for row in table),
    ]
    lines += [
        f"  {row['visit']} is {row['verdict']}: {row['reasons']}"
        for row in table
        if row["verdict"] != ACCEPTED
    ]
    lines += [
        f"  Transparency in {band} is not known: the configuration has no clear zero point of it, "
        "and there are too few visits to tell"
        for band, item in summary["bands"].items()
        if item["clear"] is None
    ]
    lines += [_calibration(use) for use in summary["calibrations"]]
    lines += [f"  Missing {item['count']} x: {item['reason']}" for item in summary["failures"]]
    if summary["seconds"]:
        spent = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in summary["seconds"].items())
        lines.append(f"  Time spent: {spent}")
    return "\n".join(lines)


def _row(row: Row) -> str:
    clock = (
        "  -  "
        if math.isnan(row["mjd"])
        else Time(row["mjd"], format="mjd", scale="tai").utc.strftime("%H:%M")
    )
    ccds = f"{row['detectors']}/{row['detectors_expected']}"
    return (
        f"{row['visit']:>8}  {clock}  {row['band']:<4}  {row['exposure_time']:>5.0f}"
        f"  {_number(row['airmass'], 4, 2)}  {_number(row['seeing'], 6, 2)}"
        f"  {_number(row['ellipticity'], 5, 2)}  {_number(row['depth'], 5, 2)}"
        f"  {_number(row['transparency'], 6, 2)}"
        f"  {_number(row['zero_point_scatter'], 6, 3)}  {_number(row['astrometric_rms'], 6, 0)}"
        f"  {row['stars']:>5}  {ccds:>5}  {row['verdict']}"
    )


def _number(value: float, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if math.isnan(value) else f"{value:>{width}.{digits}f}"


def _calibration(use: Mapping[str, Any]) -> str:
    glass = f" in {use['physical_filter'].split()[0]}" if use["physical_filter"] else ""
    detectors = numbered("detector", use["detectors"])
    if use["night"] is None:
        return f"  {use['kind'].capitalize()}{glass}, {detectors}: brought in by hand"
    if not use["age"]:
        return f"  {use['kind'].capitalize()}{glass}, {detectors}: the night's own"
    why = f": {use['reason']}" if use["reason"] else ""
    return (
        f"  {use['kind'].capitalize()}{glass}, {detectors}: borrowed from {use['night']} "
        f"({describe_age(use['age'])}){why}"
    )
