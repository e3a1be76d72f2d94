"""Figures of a dataset: the light curve, how well its stars are measured, and where."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.timeseries.frames import read_frame
from tololo.reduction.timeseries.photometry import OFF_FRAME, Apertures
from tololo.reduction.timeseries.series import Series

Floats = NDArray[np.float64]

INK, FAINT, GRID = "#30343b", "#8a9099", "#e6e8ec"
TARGET, STAR, LINE, LIMIT = "#c8352b", "#2a6f97", "#e6a117", "#8a9099"

LEAST_POINTS = 5
"""Of a star whose scatter is shown."""

FIELD = 15.0
"""Half of the width of the picture of the target, in FWHM."""


def draw_plots(
    folder: Path, series: Series, title: str, frames: dict[str, Path], heartbeat: Callable[[], None] | None
) -> tuple[Path, ...]:
    """Draw all figures of a dataset into its folder.

    Parameters
    ----------
    folder : `pathlib.Path`
    series : `Series`
    title : `str`
    frames : `dict` [`str`, `pathlib.Path`]
        Files of the frames by image id.
    heartbeat : callable, optional
        Is called after each figure.

    Returns
    -------
    paths : `tuple` [`pathlib.Path`, ...]
        ``light_curve.png``, ``scatter.png``, ``apertures.png``.
    """
    figures: dict[str, Callable[[], Figure]] = {
        "light_curve": lambda: plot_light_curve(series, title),
        "scatter": lambda: plot_scatter(series, title),
        "apertures": lambda: plot_apertures(series, title, frames),
    }
    drawn = []
    for name, draw in figures.items():
        path = folder / f"{name}.png"
        part = path.with_name(f".{path.name}.part")
        draw().savefig(part, format="png")
        os.replace(part, path)
        drawn.append(path)
        if heartbeat:
            heartbeat()
    return tuple(drawn)


def plot_light_curve(series: Series, title: str) -> Figure:
    """Draw the target's light curve, a constant star of its brightness, and the frames' zero points."""
    figure = _figure((10, 8), title)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    curve = series.light_curve(0)
    _draw_curve(top, curve, TARGET)
    _magnitudes(top, f"{curve['filter'][0]} (mag)")
    check = _check_star(series)
    if check is not None:
        like = series.light_curve(check)
        like["magnitude"] -= series.ensemble.mean[check] + series.calibration.zero_point
        like["magnitude"] -= np.nanmedian(like["magnitude"])
        like["limit"] = np.nan
        middle.axhline(0, color=GRID, lw=1)
        _draw_curve(middle, like, STAR)
    _magnitudes(middle, "a constant star\n(mag)")
    bottom.errorbar(curve["mjd_utc"], series.scale, series.scale_err, fmt=".", color=INK, ms=5, lw=1)
    bottom.set_ylabel("zero point\n(mag)", color=INK)
    # Days of an MJD in full: an offset beside the axis is overlooked.
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
    bottom.xaxis.set_major_locator(MaxNLocator(7))
    bottom.set_xlabel("MJD (UTC)", color=INK)
    if np.ptp(curve["mjd_utc"]) == 0:  # of one time matplotlib would make years
        bottom.set_xlim(curve["mjd_utc"][0] - 0.5, curve["mjd_utc"][0] + 0.5)
    for axes in (top, middle, bottom):
        axes.ticklabel_format(axis="y", useOffset=False)
        _tidy(axes)
    return figure


def plot_scatter(series: Series, title: str) -> Figure:
    """Draw the scatter of each star over the frames against its magnitude, with what photons allow."""
    figure = _figure((9, 6.5), title)
    axes = figure.subplots()
    table = scatter_table(series)
    shown = table[(table["n"] >= LEAST_POINTS) & (table["scatter"] > 0)]
    stars = shown[shown["star"] != 0]
    axes.scatter(
        stars["magnitude"], 1000 * stars["scatter"], s=14, color=STAR, alpha=0.7, lw=0, label="stars"
    )
    target = shown[shown["star"] == 0]
    axes.scatter(
        target["magnitude"],
        1000 * target["scatter"],
        s=130,
        marker="*",
        color=TARGET,
        label="target",
        zorder=4,
    )
    order = np.argsort(stars["magnitude"])
    for name, color, style, label in (
        ("photon", LINE, "-", "photon limit"),
        ("error", INK, "--", "error as given"),
    ):
        if len(stars) >= LEAST_POINTS:
            smooth = _running(np.asarray(stars[name], float)[order])
            axes.plot(stars["magnitude"][order], 1000 * smooth, style, color=color, lw=1.6, label=label)
    if len(shown):
        axes.set_yscale("log")
    else:
        said = f"fewer than {LEAST_POINTS} frames: no scatter yet"
        axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", color=FAINT)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    band = series.measurements[0].facts["filter"]
    axes.set_xlabel(f"{band} (mag)", color=INK)
    axes.set_ylabel(f"scatter over {len(series.measurements)} frames (mmag)", color=INK)
    axes.legend(frameon=False, labelcolor=INK, loc="lower right")
    _tidy(axes)
    return figure


def scatter_table(series: Series) -> Table:
    """Return how well each star is measured.

    Returns
    -------
    table : `astropy.table.Table`
        ``star``, ``n`` (points), ``magnitude`` (mean), ``scatter`` (robust standard deviation), ``error`` and
        ``photon`` (what it should be by all errors, and by photons and read-out alone; medians), mag.
    """
    good = (series.flags == 0) & np.isfinite(series.magnitude)
    value, error = (np.where(good, a, np.nan) for a in (series.magnitude, series.error))
    with np.errstate(invalid="ignore", divide="ignore"):
        photons = np.array([m.stars["photon_err"] / m.stars["flux"] for m in series.measurements])
    photons = np.where(good, 2.5 / math.log(10) * photons, np.nan)
    seen = good.any(axis=0)
    middle = np.nanmedian(value[:, seen], axis=0)
    return Table(
        {
            "star": np.flatnonzero(seen),
            "n": good[:, seen].sum(axis=0),
            "magnitude": middle,
            "scatter": 1.4826 * np.nanmedian(np.abs(value[:, seen] - middle), axis=0),
            "error": np.nanmedian(error[:, seen], axis=0),
            "photon": np.nanmedian(photons[:, seen], axis=0),
        }
    )


def plot_apertures(series: Series, title: str, frames: dict[str, Path]) -> Figure:
    """Draw the sharpest frame of the target with the apertures, and the target with the ring of its sky."""
    sharp = sorted(
        (m for m in series.measurements if m.image_id in frames and not m.stars["flags"][0] & OFF_FRAME),
        key=lambda m: (np.nan_to_num(m.facts["fwhm"], nan=math.inf), m.image_id),
    )
    figure = _figure((12.5, 6.6), title)
    whole, near = figure.subplots(1, 2)
    for item in sharp:
        try:
            frame = read_frame(frames[item.image_id])
        except BadInputError:  # it has gone since it was measured
            continue
        break
    else:
        return figure
    facts, stars = item.facts, item.stars
    scale, fwhm = facts["pixel_scale"], facts["fwhm"] / facts["pixel_scale"]
    if not math.isfinite(fwhm):
        fwhm = 5.0
    rings = Apertures.of(facts["aperture"] or facts["fwhm"], scale, fwhm)
    picture = _stretched(frame.image, frame.bad)
    ny, nx = picture.shape
    step = max(1, min(ny, nx) // 1000)
    whole.imshow(
        picture[::step, ::step],
        origin="lower",
        cmap="gray_r",
        vmin=0,
        vmax=1,
        extent=(-0.5, nx - 0.5, -0.5, ny - 0.5),
    )
    whole.set_title(item.image_id, fontsize=9, color=FAINT)
    x, y = float(stars["x"][0]), float(stars["y"][0])
    half = FIELD * fwhm
    column, row = max(0, math.floor(x - half)), max(0, math.floor(y - half))
    cut = picture[row : math.ceil(y + half) + 1, column : math.ceil(x + half) + 1]
    near.imshow(
        cut,
        origin="lower",
        cmap="gray_r",
        vmin=0,
        vmax=1,
        extent=(column - 0.5, column + cut.shape[1] - 0.5, row - 0.5, row + cut.shape[0] - 0.5),
    )
    near.set_xlim(x - half, x + half)
    near.set_ylim(y - half, y + half)
    shown = (stars["flags"] & 1 == 0) & np.isfinite(stars["x"])
    shown[0] = False
    places = np.column_stack([stars["x"], stars["y"]])[shown]
    colors = np.where(stars["flags"][shown] == 0, STAR, LINE)
    for axes, width in ((whole, 0.7), (near, 1.3)):
        size = np.full(len(places), 2 * rings.radius)
        axes.add_collection(
            EllipseCollection(
                size,
                size,
                np.zeros(len(places)),
                units="xy",
                offsets=places,
                offset_transform=axes.transData,
                facecolors="none",
                edgecolors=list(colors),
                linewidths=width,
            )
        )
        axes.add_patch(Circle((x, y), rings.radius, fill=False, color=TARGET, lw=1.6))
        axes.set_xticks([])
        axes.set_yticks([])
    whole.add_patch(Circle((x, y), 0.03 * max(nx, ny), fill=False, color=TARGET, lw=1.2))
    if facts["aperture"]:
        for radius in (rings.inner, rings.outer):
            near.add_patch(Circle((x, y), radius, fill=False, color=TARGET, lw=0.9, ls=(0, (4, 3))))
    said = (
        f"aperture {facts['aperture']:g}\u2033, dashed: its sky"
        if facts["aperture"]
        else "fitted with the PSF"
    )
    near.set_title(f"the target: {said}; FWHM {facts['fwhm']:.1f}\u2033", fontsize=9, color=FAINT)
    return figure


def _check_star(series: Series) -> int | None:
    """Return a constant star about as bright as the target that is measured on most frames."""
    counts = np.count_nonzero((series.flags == 0) & np.isfinite(series.magnitude), axis=0)
    good = np.isfinite(series.ensemble.mean) & (series.ensemble.excess == 0) & (counts >= 0.8 * counts.max())
    good[0] = False
    like = np.flatnonzero(good)
    if not like.size:
        return None
    brightness = series.ensemble.mean[0]
    if not math.isfinite(brightness):
        return int(like[np.argmin(series.ensemble.mean[like])])
    return int(like[np.argmin(np.abs(series.ensemble.mean[like] - brightness))])


def _draw_curve(axes: Axes, curve: Table, color: str) -> None:
    seen = np.asarray(curve["detected"]) & (curve["flags"] == 0)
    limits = np.isfinite(curve["limit"]) & (curve["flags"] == 0)
    axes.errorbar(
        curve["mjd_utc"][seen],
        curve["magnitude"][seen],
        curve["error"][seen],
        fmt="o",
        ms=4,
        lw=1,
        color=color,
        ecolor=color,
        zorder=3,
    )
    axes.plot(curve["mjd_utc"][limits], curve["limit"][limits], "v", ms=6, mfc="none", color=LIMIT)


def _magnitudes(axes: Axes, label: str) -> None:
    axes.set_ylabel(label, color=INK)
    axes.invert_yaxis()


def _stretched(image: NDArray[np.float32], bad: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return an image between 0 and 1, faint and bright things visible at once."""
    good = image[~bad]
    sample = good[:: max(1, good.size // 200000)] if good.size else np.zeros(1, np.float32)
    low, sky, high = np.percentile(sample, [2, 50, 99.8])
    soft = max(float(sky - low), 1e-6)
    shown = np.arcsinh((np.where(bad, sky, image) - low) / soft) / np.arcsinh(
        max(float(high - low), soft) / soft
    )
    return np.asarray(np.clip(shown, 0, 1), np.float32)


def _running(values: Floats) -> Floats:
    """Return the running median over three values, or some hundredths of them."""
    half = max(1, len(values) // 60)
    return np.array([np.median(values[max(0, n - half) : n + half + 1]) for n in range(len(values))])


def _figure(size: tuple[float, float], title: str) -> Figure:
    figure = Figure(figsize=size, dpi=110, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=13, fontweight="bold", color=INK)
    return figure


def _tidy(axes: Axes) -> None:
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
