"""The metrics of a version of a template in short: by band, in words, and as Markdown for who has to decide.

``template_summary`` holds

- ``version``, its collection; ``settings``, what shapes its pixels beside the inputs;
- ``templates``, their number, and ``unmeasured``, how many of them have no metrics;
- ``bands``: by band ``patches``, ``area`` (covered square degrees), ``visits`` (the most of any patch), and
  the medians over the patches of ``inputs``, ``seeing``, ``depth``, ``noise_ratio``, ``background`` and
  ``clipped``, as `tololo.reduction.template_metrics` has them (null if not known);
- ``poor``: what is beyond the limits, by band and patch; ``limits``, those it was compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from astropy.table import Table

from tololo.facility.templates import Judgement, Limits, judge, median, told

MEDIANS = ("inputs", "seeing", "depth", "noise_ratio", "background", "clipped")

COLUMNS = {
    "patches": ("patches", 0),
    "area": ("deg²", 3),
    "visits": ("visits", 0),
    "inputs": ("inputs", 1),
    "seeing": ("seeing", 2),
    "depth": ("depth", 2),
    "noise_ratio": ("noise", 2),
    "background": ("backgr.", 2),
    "clipped": ("clipped", 4),
}
"""Columns of the table in words: their heads, and decimals."""

SHOWN = 10
"""How many poor patches are named."""


def rows_of(table: Table) -> list[dict[str, Any]]:
    """Return a table of metrics as mappings, the way `~tololo.facility.templates.judge` takes them."""
    return [{name: row[name] for name in table.colnames} for row in table]


def summarise(
    table: Table, version: str, templates: int, settings: Mapping[str, Any], limits: Limits | None = None
) -> dict[str, Any]:
    """Sum up the metrics of a version; see the module."""
    limits = limits or Limits()
    rows = rows_of(table)
    return {
        "version": version,
        "settings": dict(settings),
        "templates": templates,
        "unmeasured": templates - len(rows),
        "bands": {
            band: _band([row for row in rows if row["band"] == band])
            for band in sorted({str(row["band"]) for row in rows})
        },
        "poor": judge(rows, limits).poor,
        "limits": told(limits),
    }


def _band(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    medians = {name: median(float(row[name]) for row in rows) for name in MEDIANS}
    return {
        "patches": len(rows),
        "area": round(sum(float(row["coverage"]) * float(row["size"]) ** 2 for row in rows), 5),
        "visits": max(int(row["visits"]) for row in rows),
    } | {name: None if math.isnan(value) else round(value, 4) for name, value in medians.items()}


def describe(summary: Mapping[str, Any], judgement: Judgement) -> str:
    """Write the summary of a version, and what is said of it, as lines of text for a log."""
    heads = "".join(f"{head:>9}" for head, _ in COLUMNS.values())
    lines = [_title(summary), f"  band{heads}"]
    lines += [
        f"  {band:<4}" + "".join(f"{cell:>9}" for cell in _cells(values))
        for band, values in summary["bands"].items()
    ]
    lines += [f"  Beyond the limits: {text}" for text in _poor(summary)]
    lines += [f"  {reason}" for reason in judgement.reasons]
    return "\n".join([*lines, _verdict(judgement)])


def report(summary: Mapping[str, Any], judgement: Judgement, plot: str = "") -> str:
    """Write the same as Markdown; ``plot`` is where its figure is."""
    lines = [
        _title(summary),
        "",
        "| band | " + " | ".join(head for head, _ in COLUMNS.values()) + " |",
        "|" + "---|" * (1 + len(COLUMNS)),
    ]
    lines += [f"| {band} | " + " | ".join(_cells(values)) + " |" for band, values in summary["bands"].items()]
    lines += ["", f"**{_verdict(judgement)}**", ""]
    lines += [f"- {reason}" for reason in judgement.reasons]
    lines += [f"- Beyond the limits: {text}" for text in _poor(summary)]
    return "\n".join([*lines, "", f"Figure: `{plot}`"] if plot else lines)


def _title(summary: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in summary["settings"].items())
    text = f"Version {summary['version']} ({settings}): {summary['templates']} templates"
    return text + (f", {summary['unmeasured']} of them not measured" if summary["unmeasured"] else "")


def _verdict(judgement: Judgement) -> str:
    return f"The limits {'accept' if judgement.is_good else 'refuse'} it."


def _cells(values: Mapping[str, Any]) -> list[str]:
    return [
        "-" if values[name] is None else f"{values[name]:.{digits}f}" for name, (_, digits) in COLUMNS.items()
    ]


def _poor(summary: Mapping[str, Any]) -> Iterator[str]:
    found = list(summary["poor"].items())
    for name, reasons in found[:SHOWN]:
        yield f"{name}: {', '.join(reasons)}"
    if len(found) > SHOWN:
        yield f"{len(found) - SHOWN} more patches"
