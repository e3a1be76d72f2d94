"""What became of the injected sources of a night, as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tololo.reduction.recovery_fit import completeness
from tololo.reduction.scorecard_plots import FAINT, INK

COLORS = {
    "u": "#7a4fb5",
    "g": "#2a8f4f",
    "r": "#c8452f",
    "i": "#9a6a1e",
    "z": "#4a5560",
    "y": "#1f2328",
    "VR": "#c06aa0",
}
OTHER = "#3f7f93"
"""Of a band that is not among them: a narrow one."""
ALARM = "#c0392b"
LIMIT: dict[str, Any] = {"color": "#6b7280", "lw": 1, "ls": (0, (4, 3))}
_PLAIN: dict[str, Any] = {"fontsize": 8.5, "color": INK}


def plot_recovery(bins: Table, summary: Mapping[str, Any]) -> Figure:
    """Draw the recovery of a night.

    Parameters
    ----------
    bins : `astropy.table.Table`
        ``injection_recovery``.
    summary : mapping
        ``injection_recovery_summary``.

    Returns
    -------
    figure : `matplotlib.figure.Figure`
        Completeness, purity and flux by magnitude, depth by seeing, and the numbers.
    """
    figure = Figure(figsize=(13, 8), dpi=110, layout="constrained", facecolor="white")
    grid = figure.add_gridspec(2, 3)
    figure.suptitle(
        f"Injected sources of night {summary['night']} · {summary['chain'].partition('/')[2]} · "
        f"catalogue {summary['catalogue']}",
        fontsize=13,
        fontweight="bold",
        color=INK,
    )
    whole = bins[(np.asarray(bins["visit"]) == 0) & (np.asarray(bins["beneath"]) == "all")]
    bands: Mapping[str, Mapping[str, Any]] = summary["bands"]
    panels = [
        figure.add_subplot(grid[row, column]) for row, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))
    ]
    _draw_completeness(panels[0], whole, bands)
    _draw_beneath(panels[1], bins, bands)
    _draw_flux(panels[2], whole, bands, summary["limits"].get("bias"))
    _draw_purity(panels[3], whole, bands, summary["limits"].get("purity"))
    _draw_seeing(panels[4], bands, summary["limits"].get("depth") or {})
    _write_notes(figure.add_subplot(grid[1, 2]), summary)
    return figure


def _draw_completeness(axes: Axes, whole: Table, bands: Mapping[str, Mapping[str, Any]]) -> None:
    for band, rows, mag in _by_band(whole, bands):
        color = color_of(band)
        part = np.asarray(rows["completeness"], float)
        axes.errorbar(mag, part, rows["completeness_error"], fmt="o", ms=4, lw=1, color=color, zorder=3)
        number = np.maximum(1, np.asarray(rows["injected"]))
        axes.plot(mag, np.asarray(rows["detected"]) / number, lw=0.9, ls=":", color=color)
        found = bands[band]
        if found["depth"] is not None:
            _draw_curve(axes, found, float(mag.min()), float(mag.max()), color)
            axes.axvline(found["depth"], color=color, lw=0.8, ls=(0, (4, 3)))
    axes.axhline(0.5, color="#c9ced6", lw=0.8)
    axes.set_ylim(-0.03, 1.06)
    label_axes(axes, "True magnitude (AB)", "Recovered part", "Completeness (dotted: detected at all)")
    _legend(axes, bands)


def _draw_curve(axes: Axes, found: Mapping[str, Any], low: float, high: float, color: str) -> None:
    mag = np.linspace(low - 0.25, high + 0.25, 200)
    axes.plot(mag, completeness(mag, found["depth"], found["depth_width"], found["depth_top"]), color=color)


def _draw_beneath(axes: Axes, bins: Table, bands: Mapping[str, Mapping[str, Any]]) -> None:
    overall = bins[np.asarray(bins["visit"]) == 0]
    for beneath, style, marker in (("sky", "-", "o"), ("source", "--", "s")):
        part = overall[np.asarray(overall["beneath"]) == beneath]
        for band, rows, mag in _by_band(part, bands):
            axes.errorbar(
                mag,
                rows["completeness"],
                rows["completeness_error"],
                ls=style,
                marker=marker,
                ms=4,
                lw=1,
                color=color_of(band),
            )
    axes.set_ylim(-0.03, 1.06)
    label_axes(axes, "True magnitude (AB)", "Recovered part", "On blank sky (line), upon sources (dashed)")


def _draw_flux(axes: Axes, whole: Table, bands: Mapping[str, Mapping[str, Any]], limit: float | None) -> None:
    spreads = []
    for band, rows, mag in _by_band(whole, bands):
        ratio, scatter = np.asarray(rows["flux_ratio"], float), np.asarray(rows["flux_scatter"], float)
        axes.fill_between(mag, ratio - scatter, ratio + scatter, color=color_of(band), alpha=0.12, lw=0)
        axes.errorbar(mag, ratio, rows["flux_ratio_error"], fmt="o", ms=4, lw=1.2, color=color_of(band))
        known = np.isfinite(ratio)
        spreads += (np.abs(ratio[known] - 1) + scatter[known]).tolist()
    axes.axhline(1, color="#c9ced6", lw=0.8)
    if limit is not None:
        for value in (1 - limit, 1 + limit):
            axes.axhline(value, **LIMIT)
    reach = min(0.4, max(0.05, 1.2 * max(spreads, default=0.05)))
    axes.set_ylim(1 - reach, 1 + reach)
    label_axes(
        axes, "True magnitude (AB)", "Measured over true flux", "Fluxes (shaded: scatter of single ones)"
    )


def _draw_purity(
    axes: Axes, whole: Table, bands: Mapping[str, Mapping[str, Any]], limit: float | None
) -> None:
    for band, rows, mag in _by_band(whole, bands):
        axes.plot(mag, rows["purity"], "o-", ms=4, lw=1, color=color_of(band))
    if limit is not None:
        axes.axhline(limit, **LIMIT)
    axes.set_ylim(-0.03, 1.06)
    label_axes(axes, "Magnitude (AB)", "Injected part", "Purity of the detections that injection adds")


def _draw_seeing(axes: Axes, bands: Mapping[str, Mapping[str, Any]], limits: Mapping[str, float]) -> None:
    for band, found in bands.items():
        visits = [item for item in found["visits"] if item["depth"] is not None]
        if visits:
            axes.errorbar(
                [item["seeing"] if item["seeing"] is not None else math.nan for item in visits],
                [item["depth"] for item in visits],
                [item["depth_error"] or 0.0 for item in visits],
                fmt="o",
                ms=5,
                lw=1,
                capsize=2,
                color=color_of(band),
            )
        if band in limits:
            axes.axhline(limits[band], color=color_of(band), lw=1, ls=(0, (4, 3)))
    if not any(item["depth"] is not None for found in bands.values() for item in found["visits"]):
        axes.text(
            0.5,
            0.5,
            "too few sources a visit",
            ha="center",
            color=FAINT,
            transform=axes.transAxes,
            fontsize=9,
        )
        axes.set_xticks([])
        axes.set_yticks([])
    label_axes(axes, "Seeing (arcsec)", "Half complete at (AB mag)", "Depth of each visit")


def _write_notes(axes: Axes, summary: Mapping[str, Any]) -> None:
    axes.set_axis_off()
    place = 1.0

    def write(text: str, **style: Any) -> None:
        nonlocal place
        axes.text(0, place, text, va="top", transform=axes.transAxes, **_PLAIN | style)
        place -= 0.052

    head: dict[str, Any] = {"color": FAINT, "fontweight": "bold", "fontsize": 8}
    for band, found in list(summary["bands"].items())[:4]:
        write(f"BAND {band}", **head)
        write(
            f"{found['recovered']} of {found['injected']} sources recovered, "
            f"{_or_dash(found['spurious'])} other new detections"
        )
        depth = found["depth_note"] or _pair(found, "depth", "{:.2f}", " mag")
        write(f"half complete at {depth}")
        write(
            f"bright: {_pair(found, 'completeness', '{:.1%}')} recovered, "
            f"flux {_pair(found, 'bias', '{:+.2%}')} off"
        )
        place -= 0.02
    write("BEYOND THE LIMITS", **head)
    for sentence in summary["alarms"] or ["nothing"]:
        for line in wrap(sentence, 62):
            write(line, color=ALARM if summary["alarms"] else INK)


def _pair(found: Mapping[str, Any], name: str, form: str, unit: str = "") -> str:
    value, error = found[name], found[f"{name}_error"]
    if value is None:
        return "not known"
    return (
        form.format(value) + (f" ± {form.replace('+', '').format(error)}" if error is not None else "") + unit
    )


def _or_dash(value: Any) -> str:
    return "–" if value is None else str(value)


def _by_band(table: Table, bands: Mapping[str, Any]) -> Any:
    """Go through the bands' rows with the middles of their bins."""
    for band in bands:
        rows = table[(np.asarray(table["band"]) == band) & (np.asarray(table["injected"]) > 0)]
        if len(rows):
            yield band, rows, (np.asarray(rows["mag_from"]) + np.asarray(rows["mag_to"])) / 2


def _legend(axes: Axes, bands: Mapping[str, Any]) -> None:
    handles = [Line2D([], [], marker="o", color=color_of(band), label=band) for band in bands]
    axes.legend(handles=handles, loc="lower left", frameon=False, fontsize=9, labelcolor=INK)


def color_of(band: str) -> str:
    """Return the color in which a band is drawn."""
    return COLORS.get(band, OTHER)


def label_axes(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Give axes their labels and the house's look."""
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    if title:
        axes.set_title(title, color=INK, fontsize=10, loc="left")
    axes.grid(True, color="#eceef1", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#c9ced6")
