"""The score of a difference image: a point source fitted at every pixel, over its true scatter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.detection import correlate_box, finish_box, separate, separate_norm, trim, weigh
from tololo.reduction.kernels.subtraction import Subtraction

TILE = 512
"""Side in pixels of the tiles that have one PSF and one scatter; PSFs vary little over it."""

LEAST_SCATTER = 0.8
"""A scatter below this is not believed: in an image without noise every pixel would be a source."""

FILTER_TOLERANCE = 1e-2
"""Of the separable filter: what it differs from the PSF by costs a ten thousandth of the signal to noise."""

SAMPLE, LEAST_SAMPLE = 30_000, 500
"""Pixels of a tile on which its scatter is measured, and how many it takes at least."""

BIN, BINS = 0.01, 1000
"""Width of the bins in which scores are counted, and their number on each side of zero."""

QUARTILES = 1.349
"""Distance of the quartiles of a Gaussian, in its sigma."""


@dataclass(frozen=True)
class Score:
    """A matched filter with the local PSF; all planes (ny, nx), float32."""

    score: NDArray[np.float32]
    """Flux over error over `scatter`: of unit scatter where nothing changed; 0 where there is no data."""

    flux: NDArray[np.float32]
    """Flux of a point source at each pixel, in the unit of the image."""

    flux_variance: NDArray[np.float32]
    """Its variance by the variance plane; infinite where there is no data."""

    scatter: NDArray[np.float64]
    """Robust scatter of flux over error, (tiles in y, tiles in x): 1 if the variance is right."""

    def scatter_at(self, x: NDArray[np.integer], y: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the scatter at pixels of the image."""
        ny, nx = self.scatter.shape
        return np.asarray(
            self.scatter[np.clip(y // TILE, 0, ny - 1), np.clip(x // TILE, 0, nx - 1)], dtype=float
        )


def score_of(subtraction: Subtraction) -> Score:
    """Filter a difference with its local PSF and divide by the scatter that the score really has.

    Where the variance plane misses noise (correlated by resampling, or of unresolved stars) a threshold on
    the plain score would let through what it should not, and where it has too much it would lose sources.

    Parameters
    ----------
    subtraction : `Subtraction`
        Its planes as `tololo.reduction.kernels.planes.check_planes` returns them.

    Returns
    -------
    score : `Score`
    """
    data, noise, masked = subtraction.difference, subtraction.variance, subtraction.bad
    score, flux, weight, weighted = (np.empty_like(data) for _ in range(4))
    scale = weigh(data, noise, masked, weight, weighted)
    # A rest of less than half a tile goes with the last whole one.
    rows, columns = _edges(data.shape[0]), _edges(data.shape[1])
    boxes = [(y0, y1, x0, x1) for y0, y1 in pairwise(rows) for x0, x1 in pairwise(columns)]
    full = []
    for y0, y1, x0, x1 in boxes:
        kernel = trim(subtraction.psf.kernel((x0 + x1) / 2, (y0 + y1) / 2))
        full.append(float((kernel**2).sum()))
        correlate_box(weighted, *separate(kernel, FILTER_TOLERANCE), flux, (y0, y1, x0, x1))
        correlate_box(weight, *separate_norm(kernel), score, (y0, y1, x0, x1))
    for box, squares in zip(boxes, full, strict=True):
        finish_box(score, flux, weight, masked, scale, squares, box)
    scatter = _settled(np.array([_scatter(score, box) for box in boxes]).reshape(len(rows) - 1, -1))
    for (y0, y1, x0, x1), own in zip(boxes, scatter.flat, strict=True):
        score[y0:y1, x0:x1] *= np.float32(1.0 / own)
    return Score(score, flux, weight, scatter)


def _edges(size: int) -> list[int]:
    return [*(TILE * k for k in range(max(1, (size + TILE // 2) // TILE))), size]


@compiled
def _scatter(score: NDArray[np.float32], box: tuple[int, int, int, int]) -> float:
    """Robust scatter of a sample of a box's pixels that have data; NaN of too few.

    The quartiles of the scores, counted in bins: the width between them is that of a Gaussian of this sigma.
    """
    y0, y1, x0, x1 = box
    step = max(1, int(math.sqrt((y1 - y0) * (x1 - x0) / SAMPLE)))
    counts, number = np.zeros(2 * BINS, np.int64), 0
    for y in range(y0, y1, step):
        for x in range(x0, x1, step):
            if score[y, x] != 0.0:
                counts[min(2 * BINS - 1, max(0, math.floor(score[y, x] / BIN) + BINS))] += 1
                number += 1
    if number < LEAST_SAMPLE:
        return np.nan
    low, high, below = 0.0, 0.0, 0
    for k in range(2 * BINS):
        for share in (0.25, 0.75):
            inside = share * number - below
            if 0.0 < inside <= counts[k]:
                value = (k - BINS + inside / counts[k]) * BIN
                low, high = (value, high) if share < 0.5 else (low, value)
        below += counts[k]
    return (high - low) / QUARTILES


def _settled(scatter: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill tiles without data with the median of the others, and let no single tile stand out by noise."""
    known = np.isfinite(scatter)
    usual = float(np.median(scatter[known])) if known.any() else 1.0
    filled = np.where(known, scatter, usual)
    smooth = ndimage.uniform_filter(filled, 3, mode="nearest") if filled.size > 1 else filled
    return np.asarray(np.maximum(smooth, LEAST_SCATTER))
