"""How far the inputs of a stack are from one another at a pixel: a bound from sums, and the exact test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.order import CHUNK, sort_columns

FEW = 6
"""Inputs; of fewer the median may be a standard deviation from the mean."""


@compiled
def screen(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    tolerance: NDArray[np.float32],
    first: int,
    factors: NDArray[np.float32],
    n_sigma: float,
    allowance: float,
    bounds: NDArray[np.float32],
    suspect: NDArray[np.bool_],
) -> None:
    """Tell at which pixels an input may disagree with the others, from sums only.

    No median is more than a standard deviation s from the mean of the same values, and of `FEW` or more more
    than s / 2 only if more than a fifth of them are far off on one side. So where no input's distance from
    the mean of the others is more than the threshold less this, none is beyond the threshold.
    Short loops, each over few arrays, are what the compiler turns into vector instructions.

    Parameters
    ----------
    values, noise : `numpy.ndarray`, (n, pixels)
        Inputs and their variances.
    tolerance : `numpy.ndarray`, (pixels,)
        More variance.
    first : `int`
        First pixel to look at; as many as ``suspect`` has, at most `CHUNK`.
    factors : `numpy.ndarray`, (n + 1,)
        See `median_variance_factor`.
    n_sigma, allowance : `float`
        As for `clip`.
    bounds : `numpy.ndarray`, (4, pixels)
        Is filled for `may_be_far`.
    suspect : `numpy.ndarray` of `bool`, (pixels,)
        Is filled with the answer.
    """
    size, last = suspect.size, first + suspect.size
    number = np.zeros(CHUNK, np.float32)
    total = np.zeros(CHUNK, np.float32)
    mean, scatter = bounds[0, first:last], bounds[1, first:last]
    keep, spare = bounds[2, first:last], bounds[3, first:last]
    zero, one, limit = np.float32(0.0), np.float32(1.0), np.float32(n_sigma * n_sigma * 0.999)
    share_of_scatter, share, more = np.float32(0.5), np.float32(allowance), tolerance[first:last]
    mean[:], scatter[:], suspect[:] = zero, zero, False
    for p in range(values.shape[0]):
        own, source = values[p, first:last], noise[p, first:last]
        for x in range(size):
            usable = (own[x] - own[x]) + (source[x] - source[x]) == zero  # no NaN, no infinity
            mean[x] += own[x] if usable else zero
            number[x] += one if usable else zero
        for x in range(size):
            usable = (own[x] - own[x]) + (source[x] - source[x]) == zero
            total[x] += source[x] if usable else zero
    for x in range(size):
        mean[x] /= max(number[x], one)
    for p in range(values.shape[0]):
        own, source = values[p, first:last], noise[p, first:last]
        for x in range(size):
            usable = (own[x] - own[x]) + (source[x] - source[x]) == zero
            d = own[x] - mean[x]
            scatter[x] += d * d if usable else zero
    for x in range(size):
        m = int(number[x])
        others = np.float32(max(m - 1, 1))
        scatter[x] = np.sqrt(scatter[x] / others)
        # The smallest that the median of the others can be, whichever is left out.
        light = share * max(zero, abs(mean[x]) - np.float32(2.0) * scatter[x])
        part = factors[max(m - 1, 1)] / (others * others)
        # Distances are taken from the mean of all, not of the others, and so are shorter by this.
        scale = others / np.float32(max(m, 2))
        beyond = limit * scale * scale
        scatter[x] *= scale * (one if m < FEW else share_of_scatter)
        keep[x] = beyond * (one - part)
        spare[x] = keep[x] * more[x] + beyond * (part * (total[x] + number[x] * more[x]) + light * light)
    for p in range(values.shape[0]):
        own, source = values[p, first:last], noise[p, first:last]
        for x in range(size):
            reach = abs(own[x] - mean[x]) + scatter[x]
            suspect[x] |= reach * reach > keep[x] * source[x] + spare[x]


@compiled
def may_be_far(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    x: int,
    bits: np.uint64,
    bounds: NDArray[np.float32],
) -> bool:
    """Tell whether one of some inputs may be beyond half the threshold that ``bounds`` are made for."""
    mean, scatter, keep, spare = bounds[0, x], bounds[1, x], bounds[2, x], bounds[3, x]
    for p in range(values.shape[0]):
        if bits & (np.uint64(1) << np.uint64(p)) != 0:
            reach = np.float32(2.0) * (abs(values[p, x] - mean) + scatter)
            if reach * reach > keep * noise[p, x] + spare:
                return True
    return False


@compiled
def excesses(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    tolerance: NDArray[np.float32],
    pairs: NDArray[np.int64],
    factors: NDArray[np.float32],
    allowance: float,
    places: NDArray[np.int64],
    rejected: NDArray[np.uint64],
    excess: NDArray[np.float32],
    number: NDArray[np.int32],
) -> None:
    """Fill the squared distance of each input from the median of the others, over its expected variance.

    At some pixels, at most as many as ``excess`` has columns; NaN for inputs that are not used. ``number`` is
    filled with how many are.
    """
    n, size = values.shape[0], places.size
    own = np.empty((n, size), np.float32)
    source = np.empty((n, size), np.float32)
    ordered = np.empty((n, size), np.float32)
    low = np.empty(size, np.float32)
    above = np.empty(size, np.float32)
    high = np.empty(size, np.float32)
    beyond = np.empty(size, np.float32)
    total = np.zeros(size, np.float32)
    part = np.zeros(size, np.float32)
    middle = np.zeros(size, np.float32)
    more = np.zeros(size, np.float32)
    skip, zero, infinity = np.empty(size, np.uint64), np.float32(0.0), np.float32(np.inf)
    number[:] = 0
    for x in range(size):
        skip[x], more[x] = rejected[places[x]], tolerance[places[x]]
    for p in range(n):
        bit, value, variance = np.uint64(1) << np.uint64(p), own[p], source[p]
        for x in range(size):
            value[x], variance[x] = values[p, places[x]], noise[p, places[x]]
        for x in range(size):
            usable = (value[x] - value[x]) + (variance[x] - variance[x]) == zero and skip[x] & bit == 0
            value[x] = value[x] if usable else infinity
            variance[x] = variance[x] + more[x] if usable else infinity
        for x in range(size):
            usable = variance[x] < infinity
            total[x] += variance[x] if usable else zero
            number[x] += 1 if usable else 0
    ordered[:] = own
    sort_columns(ordered, pairs, size)
    for x in range(size):
        m = number[x]
        a, b = max(m - 2, 0) // 2, max(m - 1, 0) // 2
        # The median of m - 1 values is between those of these ranks, or the next where it was one of them.
        low[x], above[x] = ordered[a, x], ordered[min(a + 1, n - 1), x]
        high[x], beyond[x] = ordered[b, x], ordered[min(b + 1, n - 1), x]
        part[x] = factors[m - 1] / np.float32((m - 1) * (m - 1)) if m > 1 else np.float32(np.nan)
    half, share, least = np.float32(0.5), np.float32(allowance * allowance), np.float32(1e-30)
    for p in range(n):
        value, variance, out = own[p], source[p], excess[p]
        for x in range(size):
            middle[x] = half * (above[x] if value[x] <= low[x] else low[x])
        for x in range(size):
            middle[x] += half * (beyond[x] if value[x] <= high[x] else high[x])
        for x in range(size):
            expected = variance[x] + part[x] * (total[x] - variance[x]) + share * middle[x] * middle[x]
            d = value[x] - middle[x]
            out[x] = d * d / (least if expected < least else expected)
