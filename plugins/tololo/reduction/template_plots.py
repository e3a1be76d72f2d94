"""A version of a template as a figure: its patches on the sky, by depth, seeing, inputs and noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.table import Table
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

INK, POOR = "#30343b", "#c0392b"

PANELS = {
    "depth": ("Depth, 5 sigma (AB mag)", "viridis"),
    "seeing": ("Seeing (arcsec)", "magma_r"),
    "inputs": ("Inputs, median", "cividis"),
    "noise_ratio": ("Noise over expectation", "coolwarm"),
}
"""Columns of ``template_metrics`` with their titles and colour maps."""


def plot_template(table: Table, summary: Mapping[str, Any]) -> Figure:
    """Draw the patches of a version, a row for each band.

    Parameters
    ----------
    table : `astropy.table.Table`
        ``template_scorecard``.
    summary : mapping
        ``template_summary``: patches beyond the limits have a red edge.

    Returns
    -------
    figure : `matplotlib.figure.Figure`
    """
    bands = list(summary["bands"]) or [""]
    figure = Figure(figsize=(15, 0.8 + 3.6 * len(bands)), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(
        f"{summary['version']} · {summary['templates']} templates, {len(summary['poor'])} beyond the limits",
        fontsize=14,
        fontweight="bold",
        color=INK,
    )
    grid = figure.subplots(len(bands), len(PANELS), squeeze=False)
    for band, row in zip(bands, grid, strict=True):
        chosen = table[np.asarray(table["band"]) == band]
        for axes, (column, (title, colors)) in zip(row, PANELS.items(), strict=True):
            _draw(axes, chosen, column, colors, summary)
            axes.set_title(f"{band} · {title}", fontsize=10, color=INK)
    return figure


def _draw(axes: Axes, table: Table, column: str, colors: str, summary: Mapping[str, Any]) -> None:
    """Draw one quantity: each patch a square, east to the left."""
    if not len(table):
        axes.set_axis_off()
        return
    # Those beyond the limits last, so that nothing covers their edges.
    poor = [f"{row['band']} {row['tract']}/{row['patch']}" in summary["poor"] for row in table]
    table = table[np.argsort(poor, kind="stable")]
    poor = sorted(poor)
    x, y = _offsets(np.asarray(table["ra"]), np.asarray(table["dec"]))
    size = np.asarray(table["size"])
    squares = PatchCollection(
        [
            Rectangle((float(a - s / 2), float(b - s / 2)), float(s), float(s))
            for a, b, s in zip(x, y, size, strict=True)
        ],
        cmap=colormaps[colors],
        edgecolors=[POOR if beyond else "white" for beyond in poor],
        linewidths=[2.0 if beyond else 0.5 for beyond in poor],
    )
    values = np.asarray(table[column], float)
    squares.set_array(np.ma.masked_invalid(values))
    if np.isfinite(values).any():
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        margin = 0.0 if high > low else 0.05 * max(abs(low), 1e-3)
        squares.set_clim(low - margin, high + margin)
    axes.add_collection(squares)
    half = size.max() / 2
    axes.set_xlim(x.max() + half, x.min() - half)
    axes.set_ylim(y.min() - half, y.max() + half)
    axes.set_aspect("equal")
    axes.set_xlabel("East (deg)", fontsize=8, color=INK)
    axes.set_ylabel("Dec (deg)", fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.figure.colorbar(squares, ax=axes, shrink=0.85).ax.tick_params(labelsize=7)


def _offsets(
    ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return degrees east of the first patch, along the parallel, and declination."""
    east = (ra - ra[0] + 180) % 360 - 180
    return east * np.cos(np.radians(dec)), dec
