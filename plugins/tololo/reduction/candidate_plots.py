"""What a candidate looks like: its light curve, and what was there before, at and after a detection."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from astropy.table import Table
from astropy.time import Time
from astropy.visualization import ZScaleInterval
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from numpy.typing import NDArray

COLORS = {"u": "#7b3fb5", "g": "#1b8a6b", "r": "#c0392b", "i": "#a8651e", "z": "#44566c", "y": "#20242a"}
OTHER = "#2f6fb0"
INK, FAINT = "#30343b", "#8a9099"
MICRO = 1000.0
"""nJy in a microjansky."""


def plot_light_curve(table: Table) -> Figure:
    """Draw a light curve: change of flux on the differences, and magnitude on the visit images.

    Parameters
    ----------
    table : `astropy.table.Table`
        As `~tololo.reduction.light_curves.object_light_curve` returns it.
    """
    figure = Figure(figsize=(11, 5.6), dpi=110, layout="constrained", facecolor="white")
    change, magnitude = figure.subplots(2, sharex=True)
    _draw(change, table, "psfFlux", "psfFluxErr", 1 / MICRO)
    change.axhline(0, color=FAINT, lw=0.8, zorder=0)
    change.set_ylabel("Change of flux\n(μJy)")
    _draw(magnitude, table, "mag", "magErr", 1.0)
    magnitude.set_ylabel("Magnitude\n(AB, visit image)")
    magnitude.invert_yaxis()
    magnitude.set_xlabel("UTC", color=INK)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    magnitude.xaxis.set_major_locator(locator)
    magnitude.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    handles, labels = change.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, table: Table, column: str, error: str, scale: float) -> None:
    """Draw a column against time: filled where it was detected, open where it was forced."""
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color="#e6e8eb", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    times = Time(np.asarray(table["mjd_utc"], dtype=float), format="mjd", scale="utc").to_datetime()
    value, sigma = (scale * np.asarray(table[name], dtype=float) for name in (column, error))
    for band in sorted(set(table["band"])):
        color = COLORS.get(str(band), OTHER)
        for kind, fill in (("forced", "white"), ("detected", color)):
            rows = np.asarray((table["band"] == band) & (table["kind"] == kind)) & np.isfinite(value)
            if rows.any():
                axes.errorbar(
                    np.asarray(times)[rows],
                    value[rows],
                    np.nan_to_num(sigma[rows]),
                    fmt="o",
                    ms=5,
                    lw=1,
                    color=color,
                    mfc=fill,
                    label=f"{band} {kind}",
                    zorder=3 if kind == "detected" else 2,
                )


def triplet(stamps: Mapping[str, NDArray[np.float32]], scale: int = 5) -> bytes:
    """Return cutouts beside each other as a PNG, each in its own greys.

    Parameters
    ----------
    stamps : mapping of `numpy.ndarray`
        Squares of one size, in the order in which they are shown; NaN where there is nothing.
    scale : `int`, optional
        Pixels of the PNG for one of an image.
    """
    from PIL import Image

    gap = 2
    greys = [_greys(stamp) for stamp in stamps.values()]
    size = greys[0].shape[0]
    canvas = np.full((size, len(greys) * (size + gap) - gap), 255, np.uint8)
    for n, grey in enumerate(greys):
        canvas[:, n * (size + gap) : n * (size + gap) + size] = grey
    large = np.kron(np.flipud(canvas), np.ones((scale, scale), np.uint8))
    with io.BytesIO() as file:
        Image.fromarray(large).save(file, "PNG")
        return file.getvalue()


def _greys(stamp: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Stretch an image between what zscale finds, dark on light; nothing is mid-grey."""
    finite = stamp[np.isfinite(stamp)]
    if not finite.size:
        return np.full(stamp.shape, 190, np.uint8)
    low, high = ZScaleInterval().get_limits(finite)
    low, high = min(low, high - 1e-6), max(high, float(np.percentile(finite, 99.5)))
    level = 255 * (1 - np.clip((stamp - low) / (high - low), 0, 1))
    return np.where(np.isfinite(stamp), level, 190).astype(np.uint8)
