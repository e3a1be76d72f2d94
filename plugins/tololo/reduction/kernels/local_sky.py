"""The sky about each position: clipped median of a ring."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.planes import Float32Image

CLIP = 3.0
ROUNDS = 5

SKY = np.dtype([("level", "f8"), ("scatter", "f8"), ("number", "i8")])
"""Median and standard deviation of what is left of a ring, and how many pixels these are."""


def local_sky(
    image: Float32Image,
    bad: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    inner: float,
    outer: float,
) -> NDArray[np.void]:
    """Measure the sky in a ring about each position.

    Parameters
    ----------
    image : `numpy.ndarray`, (ny, nx), float32
    bad : `numpy.ndarray`, (ny, nx), bool
        Pixels that are left out.
    x, y : `numpy.ndarray`, (n,)
        Centres, pixels.
    inner, outer : `float`
        Radii of the ring, pixels.

    Returns
    -------
    sky : structured `numpy.ndarray`, (n,)
        Fields of `SKY`; NaN where no pixel of a ring is good.

    Notes
    -----
    Clipped about the median at 3 standard deviations until nothing more goes: neighbours in the ring leave.
    The scatter is taken from the 16th and 84th percentiles.
    """
    found = np.zeros(len(x), SKY)
    out = np.empty((len(x), 3))
    _rings(image, bad, np.asarray(x, float), np.asarray(y, float), inner, outer, out)
    found["level"], found["scatter"], found["number"] = out.T
    return found


@compiled
def mask_discs(
    bad: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: NDArray[np.float64],
) -> None:
    """Mark the pixels within a radius of each position as bad; in place. NaN positions mark nothing."""
    height, width = bad.shape
    for n in range(x.size):
        r = radius[n]
        if not math.isfinite(x[n] + y[n] + r):
            continue
        for j in range(max(0, math.ceil(y[n] - r)), min(height, math.floor(y[n] + r) + 1)):
            across = math.sqrt(max(0.0, r * r - (j - y[n]) ** 2))
            for i in range(max(0, math.ceil(x[n] - across)), min(width, math.floor(x[n] + across) + 1)):
                bad[j, i] = True


@compiled
def _rings(
    image: Float32Image,
    bad: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    inner: float,
    outer: float,
    out: NDArray[np.float64],
) -> None:
    height, width = image.shape
    values = np.empty((2 * math.ceil(outer) + 3) ** 2, np.float32)
    for n in range(x.size):
        out[n, 0], out[n, 1], out[n, 2] = np.nan, np.nan, 0.0
        if not math.isfinite(x[n] + y[n]):
            continue
        count = 0
        for j in range(max(0, math.ceil(y[n] - outer)), min(height, math.floor(y[n] + outer) + 1)):
            across = math.sqrt(max(0.0, outer * outer - (j - y[n]) ** 2))
            for i in range(max(0, math.ceil(x[n] - across)), min(width, math.floor(x[n] + across) + 1)):
                if not bad[j, i] and (i - x[n]) ** 2 + (j - y[n]) ** 2 >= inner * inner:
                    values[count] = image[j, i]
                    count += 1
        if count == 0:
            continue
        ordered = np.sort(values[:count])
        # Sorted, clipping moves the two ends: no pixel is looked at twice.
        first, last = 0, count
        for _ in range(ROUNDS):
            number = last - first
            level = 0.5 * (ordered[first + (number - 1) // 2] + ordered[first + number // 2])
            scatter = 0.5 * (
                ordered[first + int(0.8413 * (number - 1))] - ordered[first + int(0.1587 * (number - 1))]
            )
            low, high = level - CLIP * scatter, level + CLIP * scatter
            before = number
            while first < last - 1 and ordered[first] < low:
                first += 1
            while last > first + 1 and ordered[last - 1] > high:
                last -= 1
            if last - first == before:
                break
        out[n, 0], out[n, 1], out[n, 2] = level, scatter, last - first
