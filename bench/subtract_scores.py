"""What a difference image is worth: noise, scatter of the score, what is found and what is not there."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal, spatial

BINS = (5.0, 6.0, 8.0, 12.0, np.inf)
"""Of the transients' expected signal to noise."""

THRESHOLD, MATCH, NEAR, EDGE, MESH = 5.0, 2.5, 15.0, 20, 128
"""Sigma; pixels for a match; pixels from a bright star; pixels left out at the edges; of the background."""

BRIGHT = 1e5
"""Electrons of a bright star."""


def scatter(values: NDArray[np.floating]) -> float:
    """Return 1.4826 times the median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def score(
    difference: NDArray[np.float32],
    variance: NDArray[np.float32],
    bad: NDArray[np.bool_],
    psf: NDArray[np.float64],
    stars: NDArray[np.float64],
    transients: NDArray[np.float64],
) -> dict[str, Any]:
    """Score a difference image, whoever has made it.

    A background of 128-pixel cells is taken off, a PSF matched filter makes the signal to noise, which is
    divided by its own scatter; peaks beyond 5 sigma of either sign are detections.

    Parameters
    ----------
    difference, variance : `numpy.ndarray`, (ny, nx)
    bad : `numpy.ndarray` of `bool`, (ny, nx)
        Pixels without meaning.
    psf : `numpy.ndarray`, (size, size)
        Of the difference, in the middle of the image.
    stars, transients : `numpy.ndarray`
        Truth: x, y, flux, and for transients the expected signal to noise.
    """
    bad = bad | ~np.isfinite(difference) | ~(variance > 0)
    clean = np.where(bad, 0.0, difference).astype(np.float64)
    pull = np.where(bad, 0.0, clean / np.sqrt(np.where(bad, 1.0, variance)))
    clean = np.where(bad, 0.0, clean - _background(np.where(bad, np.nan, clean)))
    light = signal.fftconvolve(clean, psf[::-1, ::-1], "same")
    noise = signal.fftconvolve(
        np.where(bad, np.median(variance[~bad]), variance), psf[::-1, ::-1] ** 2, "same"
    )
    raw = light / np.sqrt(noise)
    usable = ~ndimage.maximum_filter(bad, 5)
    usable[:EDGE] = usable[-EDGE:] = usable[:, :EDGE] = usable[:, -EDGE:] = False
    own = scatter(raw[usable])
    peaks = (np.abs(raw) > THRESHOLD * own) & (np.abs(raw) == ndimage.maximum_filter(np.abs(raw), 7)) & usable
    y, x = np.nonzero(peaks)
    found = np.column_stack([x, y]).reshape(-1, 2)
    ix, iy = np.rint(transients[:, :2]).astype(int).T
    inside = (ix >= 0) & (iy >= 0) & (ix < bad.shape[1]) & (iy < bad.shape[0])
    inside[inside] = usable[iy[inside], ix[inside]]
    seen = transients[inside]
    tree = spatial.cKDTree(found if len(found) else np.full((1, 2), -1e9))
    recovered = tree.query(seen[:, :2])[0] < MATCH
    other = (
        spatial.cKDTree(transients[:, :2]).query(found)[0] > 2 * MATCH if len(found) else np.zeros(0, bool)
    )
    bright = spatial.cKDTree(stars[stars[:, 2] > BRIGHT, :2])
    near = bright.query(found[other])[0] < NEAR if other.any() else np.zeros(0, bool)
    completeness = {}
    for low, high in itertools.pairwise(BINS):
        of = (seen[:, 3] >= low) & (seen[:, 3] < high)
        share = round(float(recovered[of].mean()), 3) if of.any() else None
        completeness[f"{low:g}-{high:g}" if np.isfinite(high) else f">{low:g}"] = share
    return {
        "noise_over_expected": round(scatter(pull[usable]), 4),
        "score_scatter": round(own, 4),
        "false_positives": int(other.sum()),
        "false_positives_near_bright_stars": int(near.sum()),
        "completeness": completeness,
        "bad_pixels": round(float(bad.mean()), 4),
    }


def _background(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the clipped median of 128-pixel cells, interpolated."""
    ny, nx = image.shape
    split = image[: ny // MESH * MESH, : nx // MESH * MESH].reshape(ny // MESH, MESH, nx // MESH, MESH)
    cells = split.transpose(0, 2, 1, 3).reshape(ny // MESH, nx // MESH, -1)
    middle = np.nanmedian(cells, axis=-1, keepdims=True)
    spread = 1.4826 * np.nanmedian(np.abs(cells - middle), axis=-1, keepdims=True)
    levels = np.nanmean(np.where(np.abs(cells - middle) < 3 * spread, cells, np.nan), axis=-1)
    at = np.meshgrid(*[(np.arange(n) + 0.5) / MESH - 0.5 for n in (ny, nx)], indexing="ij")
    return np.asarray(ndimage.map_coordinates(levels, at, order=1, mode="nearest"))
