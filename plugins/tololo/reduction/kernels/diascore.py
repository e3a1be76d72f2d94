"""The score of a difference image: a point source fitted at every pixel, over its true scatter."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tololo.reduction.kernels.detection import matched_filter, trim
from tololo.reduction.kernels.subtraction import Subtraction

TILE = 512
"""Side in pixels of the tiles that have one PSF and one scatter; PSFs vary little over it."""

LEAST_SCATTER = 0.8
"""A scatter below this is not believed: in an image without noise every pixel would be a source."""

LEAST_SAMPLE = 500
"""Pixels needed to measure a scatter."""


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

    Returns
    -------
    score : `Score`
    """
    difference = subtraction.difference
    ny, nx = difference.shape
    score, flux = np.zeros((ny, nx), np.float32), np.zeros((ny, nx), np.float32)
    flux_variance = np.full((ny, nx), np.inf, np.float32)
    # A rest of less than half a tile goes with the last whole one.
    rows, columns = _edges(ny), _edges(nx)
    scatter = np.ones((len(rows) - 1, len(columns) - 1))
    for r, (y0, y1) in enumerate(pairwise(rows)):
        for c, (x0, x1) in enumerate(pairwise(columns)):
            kernel = subtraction.psf.kernel((x0 + x1) / 2, (y0 + y1) / 2)
            margin = trim(kernel).shape[0] // 2
            low_y, low_x = max(0, y0 - margin), max(0, x0 - margin)
            box = np.s_[low_y : min(ny, y1 + margin), low_x : min(nx, x1 + margin)]
            filtered = matched_filter(
                difference[box], subtraction.variance[box], subtraction.bad[box], kernel
            )
            inside = np.s_[y0 - low_y : y1 - low_y, x0 - low_x : x1 - low_x]
            for plane, values in zip((score, flux, flux_variance), filtered, strict=True):
                plane[y0:y1, x0:x1] = values[inside]
            scatter[r, c] = _scatter(filtered[0][inside])
    scatter = _settled(scatter)
    for r, (y0, y1) in enumerate(pairwise(rows)):
        for c, (x0, x1) in enumerate(pairwise(columns)):
            score[y0:y1, x0:x1] /= np.float32(scatter[r, c])
    return Score(score, flux, flux_variance, scatter)


def _edges(size: int) -> list[int]:
    return [*(TILE * k for k in range(max(1, (size + TILE // 2) // TILE))), size]


def _scatter(score: NDArray[np.float32]) -> float:
    """Robust scatter of the pixels that have data; NaN of too few."""
    step = max(1, int(np.sqrt(score.size / 30_000)))
    sample = score[::step, ::step]
    sample = sample[sample != 0]
    if sample.size < LEAST_SAMPLE:
        return float("nan")
    return 1.4826 * float(np.median(np.abs(sample - np.median(sample))))


def _settled(scatter: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill tiles without data with the median of the others, and let no single tile stand out by noise."""
    known = np.isfinite(scatter)
    usual = float(np.median(scatter[known])) if known.any() else 1.0
    filled = np.where(known, scatter, usual)
    smooth = ndimage.uniform_filter(filled, 3, mode="nearest") if filled.size > 1 else filled
    return np.asarray(np.maximum(smooth, LEAST_SCATTER))
