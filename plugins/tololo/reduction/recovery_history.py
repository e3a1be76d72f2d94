"""The recovery of injected sources from night to night: as a table, and as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tololo.facility.nights import night_bounds
from tololo.reduction.instrument.filters import BANDS
from tololo.reduction.recovery_plots import LIMIT, color_of, label_axes
from tololo.reduction.scorecard_plots import INK

MEASURED = ("depth", "completeness", "purity", "bias")
"""Columns with an error each."""


def history(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Put the summaries of nights into one table.

    Parameters
    ----------
    summaries : sequence of mapping
        ``injection_recovery_summary`` of each night.

    Returns
    -------
    history : `astropy.table.Table`
        One row for each night and band, in order: ``night, band, catalogue, seeing`` (arcsec), ``injected,
        recovered``, and each of `MEASURED` with its ``_error`` (NaN where not known), ``alarms`` (how many
        the night had, in all bands).
    """
    rows = [
        {
            "night": int(summary["night"]),
            "band": str(band),
            "catalogue": str(summary["catalogue"]),
            "seeing": _number(found["seeing"]),
            "injected": int(found["injected"]),
            "recovered": int(found["recovered"]),
            **{f"{name}{end}": _number(found[f"{name}{end}"]) for name in MEASURED for end in ("", "_error")},
            "alarms": len(summary["alarms"]),
        }
        for summary in sorted(summaries, key=lambda item: int(item["night"]))
        for band, found in summary["bands"].items()
    ]
    return Table(rows=rows)


def plot_history(history: Table, limits: Mapping[str, Any]) -> Figure:
    """Draw depth, completeness, purity and flux of all nights.

    Parameters
    ----------
    history : `astropy.table.Table`
        As `history` returns.
    limits : mapping
        As in ``injection_recovery_summary``.
    """
    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained", facecolor="white")
    figure.suptitle("Injected sources from night to night", fontsize=13, fontweight="bold", color=INK)
    axes: Sequence[Axes] = figure.subplots(4, 1, sharex=True)
    labels = {
        "depth": "Half complete at\n(AB mag)",
        "completeness": "Completeness\nof bright sources",
        "purity": "Purity",
        "bias": "Flux measured\nover true, less 1",
    }
    there = set(np.asarray(history["band"]).tolist())
    bands = [*(band for band in BANDS if band in there), *sorted(there.difference(BANDS))]
    for panel, (name, label) in zip(axes, labels.items(), strict=True):
        for band in bands:
            rows = history[np.asarray(history["band"]) == band]
            when: Any = [_evening(int(night)) for night in rows["night"]]
            panel.errorbar(
                when, rows[name], rows[f"{name}_error"], fmt="o-", ms=5, lw=1, capsize=2, color=color_of(band)
            )
        limit = limits.get(name)
        if name == "depth":
            for band, value in (limit or {}).items():
                panel.axhline(value, color=color_of(band), lw=1, ls=(0, (4, 3)))
        elif limit is not None:
            for value in (limit, -limit) if name == "bias" else (limit,):
                panel.axhline(value, **LIMIT)
        if name in ("completeness", "purity"):
            panel.set_ylim(top=1.03)
        label_axes(panel, "", label)
    nights = np.unique(np.asarray(history["night"]))
    margin = timedelta(days=3)
    first, last = (_evening(int(night)) for night in (nights[0], nights[-1]))
    ends: Any = first - margin, last + margin
    axes[-1].set_xlim(ends)
    locator = AutoDateLocator(minticks=2, maxticks=9)  # type: ignore[no-untyped-call]
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    figure.legend(
        handles=[Line2D([], [], marker="o", color=color_of(band), label=band) for band in bands],
        loc="outside lower right",
        ncols=max(1, len(bands)),
        frameon=False,
    )
    return figure


def _evening(night: int) -> datetime:
    """Return where a night stands on the axis: at the beginning of its date."""
    return night_bounds(night)[0] - timedelta(hours=12)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
