"""The scorecard of a night as a figure: what was measured over the night, the focal plane, and the causes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from textwrap import shorten, wrap
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.time import Time
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from tololo.facility.calibrations import describe_age
from tololo.facility.scorecard import ACCEPTED, FLAGGED, REJECTED
from tololo.reduction.instrument.detectors import detectors

COLORS: dict[str, str] = {ACCEPTED: "#1b8a6b", FLAGGED: "#e6a117", REJECTED: "#c0392b"}
MARKERS: dict[str, str] = {ACCEPTED: "o", FLAGGED: "^", REJECTED: "X"}
BANDS = {"u": "#d9c8ee", "g": "#cfe8cf", "r": "#f3d3cf", "i": "#ead9c4", "z": "#d6d6d6", "y": "#c4c4c4"}
INK, FAINT = "#30343b", "#8a9099"

PANELS = {
    "seeing": "Seeing\n(arcsec)",
    "transparency": "Transparency",
    "depth": "Depth, 5 sigma\n(AB mag)",
    "astrometric_rms": "Astrometric\nrms (mas)",
}
CCD = 30.72, 61.44
"""Size of a CCD in the focal plane, mm."""

LINES = 13
"""Lines of text that there is room for."""


def plot_night(table: Table, summary: Mapping[str, Any]) -> Figure:
    """Draw the scorecard of a night.

    Parameters
    ----------
    table : `astropy.table.Table`
        ``night_scorecard``.
    summary : mapping
        ``night_summary``.

    Returns
    -------
    figure : `matplotlib.figure.Figure`
        Over the night (UTC): seeing, transparency, depth, astrometric rms, calibrated detectors; beside it
        the focal plane, and what was used and what failed.
    """
    figure = Figure(figsize=(13, 8.6), dpi=110, layout="constrained", facecolor="white")
    grid = figure.add_gridspec(6, 2, width_ratios=(2.1, 1), height_ratios=(0.28, 1, 1, 1, 1, 0.8))
    figure.suptitle(
        f"Night {summary['night']} · {summary['proc_type']} · {summary['visits']} visits: "
        f"{summary['accepted']} accepted, {len(summary['flagged'])} flagged, "
        f"{len(summary['rejected'])} rejected",
        fontsize=14,
        fontweight="bold",
        color=INK,
    )
    # An exposure that does not tell when it was has no place in the night.
    dated = table[np.isfinite(np.asarray(table["mjd"]))]
    if len(dated):
        _draw_night([figure.add_subplot(grid[row, 0]) for row in range(6)], dated, summary)
    _draw_focal_plane(figure.add_subplot(grid[:4, 1]), summary)
    _write_notes(figure.add_subplot(grid[4:, 1]), summary)
    _add_legend(figure)
    return figure


def _draw_night(panels: list[Axes], table: Table, summary: Mapping[str, Any]) -> None:
    """Draw all that changes over the night, one below the other."""
    strip, *measures, completeness = panels
    times = Time(np.asarray(table["mjd"]), format="mjd", scale="tai").utc.to_datetime()
    for axes in panels[1:]:
        axes.sharex(strip)
    _draw_bands(strip, times, np.asarray(table["band"]))
    for axes, (column, label) in zip(measures, PANELS.items(), strict=True):
        _draw_measure(axes, times, table, column, label, summary)
    _draw_completeness(completeness, times, table, summary)
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    locator = AutoDateLocator(minticks=3, maxticks=9)  # type: ignore[no-untyped-call]
    completeness.xaxis.set_major_locator(locator)
    completeness.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    completeness.set_xlabel("UTC", color=INK)


def _add_legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], ls="", marker=MARKERS[word], color=color, label=word) for word, color in COLORS.items()
    ]
    handles.append(Line2D([], [], ls="", marker="x", mew=1.6, color=COLORS[REJECTED], label="no detector"))
    figure.legend(
        handles=handles, loc="outside lower right", ncols=4, frameon=False, fontsize=9, labelcolor=INK
    )


def _draw_bands(axes: Axes, times: NDArray[Any], bands: NDArray[Any]) -> None:
    """Draw which band was observed when."""
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    _clear(axes)
    starts, ends = _spans(times)
    for band, group in groupby(range(len(bands)), lambda index: str(bands[index])):
        rows = list(group)
        first, last = starts[rows[0]], ends[rows[-1]]
        axes.axvspan(first, last, color=BANDS.get(band, "#e4e0f0"), ec="white", lw=1)
        axes.text(
            first + (last - first) / 2,
            0.5,
            band,
            ha="center",
            va="center",
            fontsize=10,
            color=INK,
            clip_on=True,
        )
    axes.set_ylabel("Band", rotation=0, ha="right", va="center", color=INK, fontsize=9)
    axes.set_xlim(starts[0], ends[-1])


def _draw_measure(
    axes: Axes, times: NDArray[Any], table: Table, column: str, label: str, summary: Mapping[str, Any]
) -> None:
    """Draw one quantity over the night; visits without any detector are crosses at the bottom."""
    values = np.asarray(table[column], float)
    known = np.isfinite(values)
    for word, color in COLORS.items():
        rows = known & (np.asarray(table["verdict"]) == word)
        axes.scatter(
            times[rows],
            values[rows],
            s=60 if word == REJECTED else 36,
            c=color,
            marker=MARKERS[word],
            linewidths=0.5,
            edgecolors="white",
            zorder=3,
        )
    for time in times[np.asarray(table["detectors"]) == 0]:
        axes.plot(
            [time], [0.04], "x", color=COLORS[REJECTED], ms=6, mew=1.6, transform=axes.get_xaxis_transform()
        )
    if known.any():
        if column != "depth":
            axes.set_ylim(0, 1.15 * float(values[known].max()))
    else:
        axes.set_yticks([])
    _draw_limits(axes, summary["limits"].get(column, {}))
    axes.set_ylabel(label, color=INK, fontsize=9)
    _style(axes)


def _draw_limits(axes: Axes, bound: Mapping[str, float | None]) -> None:
    """Draw where visits are flagged and rejected, as far as that is near what was measured."""
    low, high = axes.get_ylim()
    for word, key in ((FLAGGED, "flag"), (REJECTED, "reject")):
        limit = bound.get(key)
        if limit is not None and low < limit < 2.5 * high:
            axes.axhline(limit, color=COLORS[word], lw=1, ls=(0, (4, 3)), zorder=1)


def _draw_completeness(axes: Axes, times: NDArray[Any], table: Table, summary: Mapping[str, Any]) -> None:
    """Draw which part of the detectors was calibrated."""
    part = np.asarray(table["detectors"]) / np.maximum(1, np.asarray(table["detectors_expected"]))
    starts, ends = _spans(times)
    width, middle = 0.86 * (ends - starts), starts + (ends - starts) / 2
    colors = [COLORS[str(word)] for word in table["verdict"]]
    axes.bar(middle, np.ones(len(part)), width, color=colors, alpha=0.13)
    axes.bar(middle, part, width, color=colors)
    axes.set_ylim(0, 1.05)
    _draw_limits(axes, summary["limits"]["detectors"])
    axes.set_ylabel("Detectors", color=INK, fontsize=9)
    _style(axes)


def _draw_focal_plane(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Draw each CCD of the camera, by how often it was calibrated; below its number, how often it was not."""
    counts = {item["detector"]: item for item in summary["detectors"]["by_detector"]}
    ramp = colormaps["RdYlGn"]
    width, height = CCD
    for number, ccd in detectors().items():
        item = counts.get(number)
        part = item["done"] / item["expected"] if item and item["expected"] else None
        color = "#f1f2f4" if part is None else ramp(0.08 + 0.84 * part)
        corner = ccd.x - width / 2, ccd.y - height / 2
        axes.add_patch(Rectangle(corner, width, height, facecolor=color, edgecolor="white", lw=1.2))
        if item is not None:
            text = f"{number}" if part == 1 else f"{number}\n-{item['expected'] - item['done']}"
            axes.text(ccd.x, ccd.y, text, ha="center", va="center", fontsize=6.5, color=INK)
    axes.set_xlim(-240, 240)
    axes.set_ylim(-235, 235)
    axes.set_aspect("equal")
    axes.set_axis_off()
    whole = summary["detectors"]
    axes.set_title(
        f"{whole['done']} of {whole['expected']} detectors calibrated ({whole['completeness']:.0%})",
        fontsize=11,
        color=INK,
    )


def _write_notes(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Write down calibrations, failures and time spent."""
    axes.set_axis_off()
    lines = ["CALIBRATIONS", *_calibrations(summary["calibrations"])]
    lines += (
        ["FAILURES"] + [f"{item['count']} x {item['reason']}" for item in summary["failures"][:4]]
        if summary["failures"]
        else []
    )
    if summary["seconds"]:
        spent = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in summary["seconds"].items())
        lines += ["TIME SPENT", spent]
    place = 1.0
    wrapped = [part for text in lines for part in wrap(shorten(text, 130), 62)]
    for line in wrapped[:LINES]:
        is_head = line.isupper()
        axes.text(
            0,
            place,
            line,
            fontsize=8,
            va="top",
            transform=axes.transAxes,
            color=FAINT if is_head else INK,
            fontweight="bold" if is_head else "normal",
        )
        place -= 1 / LINES


def _calibrations(uses: list[dict[str, Any]]) -> list[str]:
    if not uses:
        return ["none: the archive's calibrated images, or nothing was calibrated"]
    lines = []
    for use in uses:
        glass = f" {use['physical_filter'].split()[0]}" if use["physical_filter"] else ""
        when = "by hand" if use["night"] is None else f"{use['night']} ({describe_age(use['age'])})"
        lines.append(f"{use['kind']}{glass}: {when}, {len(use['detectors'])} detectors")
    return lines


def _spans(times: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return where the part of the axis that is a visit's begins and ends; visits far apart leave a gap."""
    stamps = np.array(times, "datetime64[us]")
    steps = np.diff(stamps)
    usual = np.median(steps).astype("timedelta64[us]") if len(steps) else np.timedelta64(0, "us")
    half = max(usual, np.timedelta64(30_000_000, "us")) // 2
    halves = np.minimum(np.concatenate([[half], steps // 2, [half]]), half)
    return stamps - halves[:-1], stamps + halves[1:]


def _style(axes: Axes) -> None:
    axes.grid(True, axis="y", color="#e8eaed", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8)
    _clear(axes)
    axes.spines["left"].set_visible(True)
    axes.spines["left"].set_color("#c9ced6")


def _clear(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
