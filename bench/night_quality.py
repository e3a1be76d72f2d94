"""How good a reduction is: what was measured against what was put into the pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.simulation.sky import Psf

type Floats = NDArray[np.float64]
type Bools = NDArray[np.bool_]

BINS = (5.0, 7.0, 10.0, 20.0, math.inf)
"""Signal to noise of the stars that completeness is told of."""

EDGE = 8.0
"""Pixels along the edges whose stars nobody has to find."""

SAME, APART = 2.0, 4.0
"""Pixels within which a detection is a star, and by which stars are apart that can be told apart."""

BRIGHT = 100.0
"""Least signal to noise of bright stars."""

LONELY, FAINT = 25.0, 0.005
"""Pixels within which a lonely star has no neighbour with more than that part of its flux."""

STAMP = 21
"""Side of the stamps on which PSF models are compared, pixels; they are scaled to the same sum."""


@dataclass(frozen=True)
class Stars:
    """The stars on a CCD: zero-based pixels, expected electrons, and signal to noise of the best fit."""

    x: Floats
    y: Floats
    electrons: Floats
    snr: Floats

    @classmethod
    def on(
        cls, x: Floats, y: Floats, electrons: Floats, psf: Psf, noise: float, shape: tuple[int, int]
    ) -> Stars:
        """Take stars with a true PSF on a noise per pixel (e-)."""
        alpha, _, _ = psf.at(x, y, shape)
        # One over the sum of the squared profile of a Moffat star (beta = 3), pixels.
        area = 1.25 * math.pi * alpha**2
        return cls(x, y, electrons, electrons / np.sqrt(electrons + area * noise**2))

    def lonely(self) -> Bools:
        """Tell which have no neighbour that would disturb their photometry."""
        lonely = np.ones(len(self.x), bool)
        tree = cKDTree(np.column_stack([self.x, self.y]))
        pair = tree.query_pairs(LONELY, output_type="ndarray").T
        for one, other in (pair, pair[::-1]):
            lonely[one[self.electrons[other] > FAINT * self.electrons[one]]] = False
        return lonely

    def distinct(self) -> Bools:
        """Tell which are not in the light of a brighter star close by."""
        distinct = np.ones(len(self.x), bool)
        tree = cKDTree(np.column_stack([self.x, self.y]))
        pairs = tree.query_pairs(APART, output_type="ndarray")
        fainter = np.where(
            self.electrons[pairs[:, 0]] < self.electrons[pairs[:, 1]], pairs[:, 0], pairs[:, 1]
        )
        distinct[fainter] = False
        return distinct


def nearest(x: Floats, y: Floats, of_x: Floats, of_y: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return distance (pixels) and row of the nearest of others."""
    if not len(of_x):
        return np.full(len(x), np.inf), np.zeros(len(x), np.int64)
    distance, row = cKDTree(np.column_stack([of_x, of_y])).query(np.column_stack([x, y]))
    return np.asarray(distance), np.asarray(row)


def detection(
    x: Floats, y: Floats, stars: Stars, others: tuple[Floats, Floats, Floats], shape: tuple[int, int]
) -> dict[str, Any]:
    """Return completeness by signal to noise, and how many detections are none of the sources.

    Parameters
    ----------
    x, y : `numpy.ndarray`, (n,)
        Detections, zero-based pixels.
    stars : `Stars`
    others : `tuple` of 3 `numpy.ndarray`, (m,)
        Galaxies: x, y, and the radius within which a detection belongs to it.
    shape : `tuple` [`int`, `int`]
    """
    ny, nx = shape
    inside = (stars.x > EDGE) & (stars.x < nx - EDGE) & (stars.y > EDGE) & (stars.y < ny - EDGE)
    counted = inside & stars.distinct()
    found = nearest(stars.x, stars.y, x, y)[0] < SAME
    completeness: dict[str, float | None] = {}
    for low, high in pairwise(BINS):
        chosen = counted & (stars.snr >= low) & (stars.snr < high)
        name = f"{low:g}-{high:g}" if math.isfinite(high) else f">{low:g}"
        completeness[name] = _share(found[chosen])
    real = nearest(x, y, stars.x, stars.y)[0] < 2 * SAME
    galaxy_x, galaxy_y, reach = others
    tree = cKDTree(np.column_stack([x, y]))
    for rows in tree.query_ball_point(np.column_stack([galaxy_x, galaxy_y]), reach) if len(x) else ():
        real[rows] = True
    return {"sources": len(x), "completeness": completeness, "spurious": int((~real).sum())}


def photometry(
    x: Floats, y: Floats, magnitude: Floats, stars: Stars, true: Floats, usable: Bools
) -> dict[str, Any]:
    """Return scatter and error of the zero point (mag) of bright lonely stars.

    Parameters
    ----------
    x, y, magnitude : `numpy.ndarray`, (n,)
        Detections with calibrated magnitudes.
    stars : `Stars`
    true : `numpy.ndarray`, (m,)
        Their magnitudes.
    usable : `numpy.ndarray`, (m,), bool
        Stars that are to be looked at.
    """
    distance, row = nearest(stars.x, stars.y, x, y)
    chosen = usable & (stars.snr > BRIGHT) & (distance < SAME)
    off = magnitude[row[chosen]] - true[chosen]
    off = off[np.isfinite(off)]
    return {
        "bright_stars": len(off),
        "bright_scatter_mag": _round(robust_scatter(off), 5),
        "zero_point_error_mag": _round(float(np.median(off)) if len(off) else math.nan, 5),
    }


def places(
    x: Floats, y: Floats, wcs: WCS, true: WCS, stars: Stars, usable: Bools, shape: tuple[int, int]
) -> dict[str, Any]:
    """Return how far bright stars, and the WCS by itself on a grid, are off the truth, mas per axis.

    Parameters
    ----------
    x, y : `numpy.ndarray`, (n,)
        Detections, zero-based pixels.
    wcs, true : `astropy.wcs.WCS`
        The solution, and the truth.
    stars : `Stars`
    usable : `numpy.ndarray`, (m,), bool
        Stars that are to be looked at.
    shape : `tuple` [`int`, `int`]
    """
    distance, row = nearest(stars.x, stars.y, x, y)
    chosen = usable & (stars.snr > BRIGHT) & (distance < SAME)
    own = wcs.all_pix2world(x[row[chosen]], y[row[chosen]], 0)
    off = _apart(own, true.all_pix2world(stars.x[chosen], stars.y[chosen], 0))
    grid = np.meshgrid(np.linspace(0, shape[1] - 1, 17), np.linspace(0, shape[0] - 1, 33))
    flat = [axis.ravel() for axis in grid]
    bent = _apart(wcs.all_pix2world(*flat, 0), true.all_pix2world(*flat, 0))
    return {
        "bright_rms_mas": _round(_rms(off), 2),
        "wcs_rms_mas": _round(_rms(bent), 2),
        "wcs_max_mas": _round(float(np.hypot(*bent).max()), 2),
    }


def psf_residuals(
    model: Callable[[float, float], Floats], psf: Psf, shape: tuple[int, int]
) -> dict[str, Any]:
    """Compare a PSF model with the true one, at the middle and near the corners.

    Parameters
    ----------
    model : callable
        Takes a position (x, y) and returns the centred PSF on `STAMP` x `STAMP` pixels.
    psf : `Psf`
    shape : `tuple` [`int`, `int`]

    Returns
    -------
    residuals : `dict`
        Largest difference as a part of the true peak, at each of the positions and of all; and of what a star
        gets when the model is fitted to it: the largest error of its flux.
    """
    ny, nx = shape
    worst: dict[str, float] = {}
    flux = 0.0
    for u, v in ((0.5, 0.5), (0.06, 0.04), (0.94, 0.04), (0.06, 0.96), (0.94, 0.96)):
        x, y = u * (nx - 1), v * (ny - 1)
        true, found = true_stamp(psf, x, y, shape), model(x, y)
        found = found / found.sum()
        worst[f"{x:.0f},{y:.0f}"] = round(float(np.abs(found - true).max() / true.max()), 4)
        flux = max(flux, abs(float((found * true).sum() / (found**2).sum()) - 1))
    return {
        "max_residual_of_peak": max(worst.values()),
        "max_residual_by_position": worst,
        "flux_error": _round(flux, 4),
    }


def true_stamp(psf: Psf, x: float, y: float, shape: tuple[int, int], size: int = STAMP) -> Floats:
    """Return the true PSF at a position, centred, of unit sum."""
    (alpha,), (g1,), (g2,) = psf.at(np.array([x]), np.array([y]), shape)
    axis = np.arange(size) - size // 2
    dx, dy = axis[None, :], axis[:, None]
    stretch = alpha * math.sqrt(1 - g1**2 - g2**2)
    a, b = ((1 - g1) * dx - g2 * dy) / stretch, (-g2 * dx + (1 + g1) * dy) / stretch
    profile = (1 + a**2 + b**2) ** -3.0
    return np.asarray(profile / profile.sum())


def cosmic_rays(mask: Bools, charge: NDArray[np.float32], noise: float, good: Bools) -> dict[str, Any]:
    """Return recall by pixel, above 5 sigma of the sky and above 300 e-, and how many pixels are false.

    Parameters
    ----------
    mask : `numpy.ndarray`, (ny, nx), bool
        Pixels that are said to be struck.
    charge : `numpy.ndarray`, (ny, nx)
        What cosmic rays left, e-.
    noise : `float`
        Of the sky, e-.
    good : `numpy.ndarray`, (ny, nx), bool
        Pixels to look at.
    """
    seen, strong = good & (charge > 5 * noise), good & (charge > max(300.0, 5 * noise))
    false = mask & good & (charge == 0)
    struck = charge > 0
    beside = struck.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            beside |= np.roll(struck, step, axis)
    return {
        "pixels": int(seen.sum()),
        "recall_5_sigma": _share(mask[seen]),
        "recall_300_e": _share(mask[strong]),
        "false_pixels": int(false.sum()),
        "false_pixels_beside_tracks": int((false & beside).sum()),
    }


def blank_pulls(
    image: NDArray[np.float32], variance: NDArray[np.float32], bad: Bools, x: Floats, y: Floats, side: int = 5
) -> dict[str, Any]:
    """Return scatter and median of what square apertures without a source hold, in units of their noise."""
    ny, nx = (size // side * side for size in image.shape)
    cells = (ny // side, side, nx // side, side)

    def sums(plane: NDArray[Any]) -> Floats:
        return np.asarray(plane[:ny, :nx].reshape(cells).sum(axis=(1, 3), dtype=float)).ravel()

    centre = [np.arange(size // side) * side + (side - 1) / 2 for size in (nx, ny)]
    at_x, at_y = (axis.ravel() for axis in np.meshgrid(*centre))
    clean = (sums(bad) == 0) & (nearest(at_x, at_y, x, y)[0] > 18)
    pull = sums(image)[clean] / np.sqrt(sums(variance)[clean])
    return {
        "apertures": len(pull),
        "pull_scatter": _round(robust_scatter(pull), 4),
        "pull_median": _round(float(np.median(pull)), 4),
    }


def robust_scatter(values: Floats) -> float:
    """Return 1.4826 times the median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if len(values) else math.nan


def _apart(sky: Any, other: Any) -> tuple[Floats, Floats]:
    """Return the distance of places on the sky (degrees) along both axes, mas."""
    (ra, dec), (other_ra, other_dec) = sky, other
    return 3.6e6 * (ra - other_ra) * np.cos(np.radians(other_dec)), 3.6e6 * (dec - other_dec)


def _rms(off: tuple[Floats, Floats]) -> float:
    return float(np.sqrt((off[0] ** 2 + off[1] ** 2).mean() / 2))


def _share(true: Bools) -> float | None:
    return round(float(true.mean()), 4) if len(true) else None


def _round(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None
