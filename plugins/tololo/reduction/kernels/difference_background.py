"""The smooth remainder of the sky in a difference, and the noise that is left."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tololo.reduction.kernels.compiled import compiled, compiled_fast
from tololo.reduction.kernels.psf import PixelPsf

SAMPLES = 512
"""Pixels of a mesh cell that say what is an outlier there."""

SCORES = 30_000
"""Positions at which the score is looked at."""


def remove_background(
    difference: NDArray[np.float32], variance: NDArray[np.float32], bad: NDArray[np.bool_], mesh: int
) -> float:
    """Take a smooth background off a difference, in place; return its scatter over the expected noise.

    The mesh's clipped means are interpolated linearly, and continued linearly to the edges.
    """
    ny, nx = difference.shape
    cells = max(1, round(ny / mesh)), max(1, round(nx / mesh))
    levels = _cell_levels(difference, bad, cells)
    known = np.isfinite(levels)
    if not known.any():
        return float("nan")
    if not known.all():
        nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        levels = levels[tuple(nearest)]
    if min(cells) >= 3:
        # A cell full of a star's halo stands out from its neighbours and takes their median. The odd
        # reflection continues a slope beyond the edge: cells there do not stand out for lying on one.
        wider = np.pad(levels, 1, mode="reflect", reflect_type="odd")
        around = ndimage.median_filter(wider, 3)[1:-1, 1:-1]
        usual = 1.4826 * np.median(np.abs(levels - around))
        levels = np.where(np.abs(levels - around) > 5.0 * usual, around, levels)
    scatter = _subtract_levels(difference, variance, bad, levels)
    return float(1.4826 * np.median(np.abs(scatter - np.median(scatter))))


@compiled
def _cell_levels(
    difference: NDArray[np.float32], bad: NDArray[np.bool_], cells: tuple[int, int]
) -> NDArray[np.float64]:
    """Clipped mean of each cell of a mesh; NaN where fewer than a tenth of its pixels are good.

    A sample says what lies beyond 3 sigma; all the others make the mean, which a PSF's score feels least.
    """
    ny, nx = difference.shape
    levels = np.full(cells, np.nan)
    kept = np.empty(2 * SAMPLES + 64)
    for cy in range(cells[0]):
        for cx in range(cells[1]):
            y0, y1 = cy * ny // cells[0], (cy + 1) * ny // cells[0]
            x0, x1 = cx * nx // cells[1], (cx + 1) * nx // cells[1]
            stride = max(1, (y1 - y0) * (x1 - x0) // SAMPLES)
            n, seen = 0, 0
            for k in range((cy * 7 + cx * 3) % stride, (y1 - y0) * (x1 - x0), stride):
                y, x = y0 + k // (x1 - x0), x0 + k % (x1 - x0)
                seen += 1
                if not bad[y, x] and n < kept.size:
                    kept[n] = difference[y, x]
                    n += 1
            if n < max(20, seen // 10):
                continue
            middle = np.median(kept[:n])
            reach = 3.0 * 1.4826 * np.median(np.abs(kept[:n] - middle))
            total, number = _sum_near(
                difference, bad, (y0, y1, x0, x1), np.float32(middle), np.float32(reach)
            )
            levels[cy, cx] = middle + total / number if number else middle
    return levels


@compiled_fast
def _sum_near(
    plane: NDArray[np.float32],
    bad: NDArray[np.bool_],
    box: tuple[int, int, int, int],
    middle: np.float32,
    reach: np.float32,
) -> tuple[float, int]:
    """Sum over a box's good pixels within reach what they are above ``middle``; also return their number."""
    y0, y1, x0, x1 = box
    total, number = 0.0, 0
    for y in range(y0, y1):
        line, masked = plane[y, x0:x1], bad[y, x0:x1]
        part, count = np.float32(0.0), np.int32(0)
        for x in range(line.size):
            above = line[x] - middle
            use = (abs(above) <= reach) & (not masked[x])
            part += above if use else np.float32(0.0)
            count += np.int32(1) if use else np.int32(0)
        total += float(part)
        number += int(count)
    return total, number


@compiled
def _subtract_levels(
    difference: NDArray[np.float32],
    variance: NDArray[np.float32],
    bad: NDArray[np.bool_],
    levels: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Subtract the interpolated mesh; return a sample of difference / sqrt(variance) on good pixels."""
    ny, nx = difference.shape
    my, mx = levels.shape
    stride = max(1, ny * nx // 200_000)
    scatter = np.empty(ny * nx // stride + 1, np.float32)
    nodes, line, along = np.empty(mx), np.empty(nx, np.float32), np.arange(nx).astype(np.float32)
    n, count = 0, 0
    for y in range(ny):
        fy = (y + 0.5) * my / ny - 0.5
        j = min(max(int(fy), 0), max(my - 2, 0))
        for i in range(mx):
            nodes[i] = levels[j, i] + (fy - j) * (levels[min(j + 1, my - 1), i] - levels[j, i])
        # Straight pieces from the middle of a cell to that of the next, the outer ones on to the edges.
        first = 0
        for i in range(max(1, mx - 1)):
            last = math.ceil((i + 1.5) * nx / mx - 0.5) if i < mx - 2 else nx
            slope = (nodes[min(i + 1, mx - 1)] - nodes[i]) * mx / nx
            start = np.float32(nodes[i] + slope * (0.5 - (i + 0.5) * nx / mx))
            ramp(along[first:last], start, np.float32(slope), line[first:last])
            first = last
        own, masked, noise = difference[y], bad[y], variance[y]
        for x in range(nx):
            own[x] -= line[x]
        # The sample goes on from row to row, so that neighbouring rows give different columns.
        x = count
        while x < nx:
            if not masked[x]:
                scatter[n] = own[x] / math.sqrt(noise[x])
                n += 1
            x += stride
        count = x - nx
    return scatter[:n]


@compiled
def ramp(along: NDArray[np.float32], start: np.float32, slope: np.float32, out: NDArray[np.float32]) -> None:
    """Fill a straight line."""
    for i in range(out.size):
        out[i] = start + slope * along[i]


def score_scatter(
    difference: NDArray[np.float32], variance: NDArray[np.float32], bad: NDArray[np.bool_], psf: PixelPsf
) -> float:
    """Return the robust scatter of the PSF-matched filter's signal to noise, at a sample of positions.

    It is 1 where the variance is right and the noise white; NaN where no position has only good pixels.
    """
    ny, nx = difference.shape
    step = max(1, int(math.sqrt(ny * nx / SCORES)))
    kernel = psf.kernel(*psf.center)
    reach = int(np.abs(np.argwhere(kernel > 0.01 * kernel.max()) - kernel.shape[0] // 2).max())
    parts = max(1, round(ny / 512)), max(1, round(nx / 512))
    found = []
    for cy, cx in np.ndindex(parts):
        y0, y1 = cy * ny // parts[0], (cy + 1) * ny // parts[0]
        x0, x1 = cx * nx // parts[1], (cx + 1) * nx // parts[1]
        kernel = psf.kernel((x0 + x1) / 2, (y0 + y1) / 2)
        middle = slice(psf.size // 2 - reach, psf.size // 2 + reach + 1)
        box = max(y0, reach), min(y1, ny - reach), max(x0, reach), min(x1, nx - reach)
        found.append(_scores(difference, variance, bad, kernel[middle, middle].astype(np.float32), box, step))
    scores = np.concatenate(found)
    if not scores.size:
        return float("nan")
    return float(1.4826 * np.median(np.abs(scores - np.median(scores))))


@compiled_fast
def _scores(
    difference: NDArray[np.float32],
    variance: NDArray[np.float32],
    bad: NDArray[np.bool_],
    kernel: NDArray[np.float32],
    box: tuple[int, int, int, int],
    step: int,
) -> NDArray[np.float64]:
    """Return sum(p d) / sqrt(sum(p^2 v)) at every ``step``-th pixel of a box without bad pixels around."""
    size = kernel.shape[0]
    reach = size // 2
    out = np.empty((max(0, box[1] - box[0]) // step + 1) * (max(0, box[3] - box[2]) // step + 1))
    n = 0
    for y in range(box[0], box[1], step):
        for x in range(box[2], box[3], step):
            light, noise, spoiled = np.float32(0.0), np.float32(0.0), 0
            for j in range(size):
                row, first = y + j - reach, x - reach
                data, level = difference[row, first : first + size], variance[row, first : first + size]
                masked, weight = bad[row, first : first + size], kernel[j]
                for i in range(size):
                    light += weight[i] * data[i]
                    noise += weight[i] * weight[i] * level[i]
                    spoiled += masked[i]
            if spoiled == 0:
                out[n] = light / math.sqrt(noise)
                n += 1
    return out[:n]
