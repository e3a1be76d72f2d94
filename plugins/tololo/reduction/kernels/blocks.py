"""Statistics of an image in square blocks: robust levels, and the noise between two images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled

ROW_STEP = 4
"""Every so many rows of a block go into its median: that of 256 pixels says enough, and quickly."""

CLIP = 4.5
"""Standard deviations beyond which a pixel does not count as noise; of pure noise 7e-6 is lost."""


def block_medians(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return the median of the finite pixels of each block, of every `ROW_STEP`-th row.

    Parameters
    ----------
    image : `numpy.ndarray`, (ny, nx)
        Any unit; NaN where there is no data.
    size : `int`
        Side of a block, pixels; the last ones of a row or column may be smaller.

    Returns
    -------
    medians : `numpy.ndarray`, (ceil(ny / size), ceil(nx / size))
        NaN where less than half of a block is finite.
    """
    ny, nx = image.shape
    medians = np.empty((math.ceil(ny / size), math.ceil(nx / size)), np.float32)
    _block_medians(image, size, medians)
    return medians


def usable_pixels(
    image: NDArray[np.float32], bits: NDArray[np.int32], unusable: int, saturated: int, factor: float
) -> tuple[NDArray[np.float32], int]:
    """Return an image times a factor, NaN where mask bits say that it cannot be used.

    Also returns how many pixels have the bit ``saturated``.
    """
    out = np.empty(image.shape, np.float32)
    return out, int(_usable_pixels(image, bits, unusable, saturated, np.float32(factor), out))


def pair_noise(
    first: NDArray[np.float32], second: NDArray[np.float32], size: int, step: int = 1
) -> tuple[float, float, float]:
    """Measure the noise of the difference of two images that show the same.

    Parameters
    ----------
    first, second : `numpy.ndarray`, (ny, nx)
        On one scale; NaN where there is no data.
    size : `int`
        Side of the blocks within which the noise is measured, pixels.
    step : `int`, optional
        Look at every so many blocks only.

    Returns
    -------
    variance : `float`
        Of a pixel of the difference, outliers left out; NaN if there are no pixels.
    level_first, level_second : `float`
        Means of the two images over the same pixels.
    """
    total = np.zeros(4)
    _pair_noise(first, second, size, step, CLIP, total)
    if total[0] == 0:
        return math.nan, math.nan, math.nan
    return float(total[1] / total[0]), float(total[2] / total[0]), float(total[3] / total[0])


@compiled
def _usable_pixels(
    image: NDArray[np.float32],
    bits: NDArray[np.int32],
    unusable: int,
    saturated: int,
    factor: np.float32,
    out: NDArray[np.float32],
) -> int:
    count = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            out[y, x] = np.float32(np.nan) if bits[y, x] & unusable else image[y, x] * factor
            count += 1 if bits[y, x] & saturated else 0
    return count


@compiled
def _block_medians(image: NDArray[np.float32], size: int, medians: NDArray[np.float32]) -> None:
    ny, nx = image.shape
    values = np.empty(size * size, np.float32)
    for j in range(medians.shape[0]):
        for i in range(medians.shape[1]):
            rows = range(j * size, min(ny, (j + 1) * size), ROW_STEP)
            columns = range(i * size, min(nx, (i + 1) * size))
            n = 0
            for y in rows:
                for x in columns:
                    if math.isfinite(image[y, x]):
                        values[n] = image[y, x]
                        n += 1
            enough = n > 0 and 2 * n >= len(rows) * len(columns)
            medians[j, i] = np.median(values[:n]) if enough else np.float32(np.nan)


@compiled
def _spread(values: NDArray[np.float64], middle: float, distance: NDArray[np.float64]) -> float:
    """Return the standard deviation of values about their median, the worst of them left out.

    Counts are whole numbers, and so may their median deviation be: it only says which are the worst.
    """
    for k in range(values.size):
        distance[k] = abs(values[k] - middle)
    limit, kept, square = 8 * 1.4826 * np.median(distance[: values.size]), 0, 0.0
    for k in range(values.size):
        if distance[k] <= limit:
            kept += 1
            square += distance[k] * distance[k]
    return math.sqrt(square / kept)


@compiled
def _pair_noise(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    size: int,
    step: int,
    clip: float,
    total: NDArray[np.float64],
) -> None:
    """Add up over blocks: degrees of freedom, squares of the difference, both levels."""
    ny, nx = first.shape
    difference, distance = np.empty(size * size), np.empty(size * size)
    for block in range(0, (ny // size) * (nx // size), step):
        y0, x0 = (block // (nx // size)) * size, (block % (nx // size)) * size
        n = 0
        for y in range(y0, y0 + size):
            for x in range(x0, x0 + size):
                d = first[y, x] - second[y, x]
                if math.isfinite(d):
                    difference[n] = d
                    n += 1
        if n < 16:
            continue
        middle = np.median(difference[:n])
        limit = clip * _spread(difference[:n], middle, distance)
        used, mean, square, low, high = 0, 0.0, 0.0, 0.0, 0.0
        for y in range(y0, y0 + size):
            for x in range(x0, x0 + size):
                d = first[y, x] - second[y, x] - middle
                if abs(d) <= limit:  # false for NaN
                    used += 1
                    mean += d
                    square += d * d
                    low += first[y, x]
                    high += second[y, x]
        if used < 16:
            continue
        freedom = used - 1
        total[0] += freedom
        total[1] += square - mean * mean / used
        total[2] += low * freedom / used
        total[3] += high * freedom / used
