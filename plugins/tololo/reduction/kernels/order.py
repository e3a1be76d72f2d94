"""Order statistics of a few values at each pixel: sorting them, and how well their median is known."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled

CHUNK = 256
"""Columns that are sorted side by side; a chunk of 20 planes stays in the second-level cache."""

MEDIAN_VARIANCE = (
    *(1.0, 1.0, 1.0, 1.3460, 1.1928, 1.4342, 1.2885, 1.4731, 1.3454, 1.4949, 1.3833),
    *(1.5088, 1.4102, 1.5184, 1.4304, 1.5254, 1.4460, 1.5308, 1.4585, 1.5350, 1.4687),
)
"""n times the variance of the median of n unit normals, n = 0 to 20, from the order statistics' densities."""


def median_variance_factor(n: int) -> float:
    """Return n times the variance of the median of n unit normals: 1 for n = 1 and 2, pi / 2 for many.

    Beyond the table the leading term of the expansion in 1 / n is used, good to 0.2 %.
    """
    if n < len(MEDIAN_VARIANCE):
        return MEDIAN_VARIANCE[n]
    return math.pi / 2 - (0.68 if n % 2 else 2.11) / n


@lru_cache
def network(n: int) -> NDArray[np.int64]:
    """Pairs (i, j), i < j, to put in order one after the other so that n values get sorted; (m, 2).

    Batcher's odd-even merge sort (Knuth, TAOCP 3, algorithm 5.2.2M), which has no branches on the data.
    """
    pairs = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return np.array(pairs, np.int64).reshape(-1, 2)


@compiled
def sort_chunk(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    y: int,
    first: int,
    last: int,
    pairs: NDArray[np.int64],
    ordered: NDArray[np.float32],
    number: NDArray[np.int32],
) -> None:
    """Sort the values of a piece of a row, column by column; unusable ones go last, as infinity."""
    size = last - first
    number[:size] = 0
    for p in range(values.shape[0]):
        line, own, source = ordered[p], values[p, y, first:last], noise[p, y, first:last]
        for x in range(size):
            usable = (own[x] - own[x]) + (source[x] - source[x]) == 0.0  # false for NaN and infinity
            line[x] = own[x] if usable else np.float32(np.inf)
            number[x] += np.int32(1) if usable else np.int32(0)
    sort_columns(ordered, pairs, size)


@compiled
def sort_columns(ordered: NDArray[np.float32], pairs: NDArray[np.int64], size: int) -> None:
    """Sort each of the first columns, (n, size or more), by a `network` of pairs."""
    for q in range(pairs.shape[0]):
        a, b = ordered[pairs[q, 0]], ordered[pairs[q, 1]]
        for x in range(size):
            low, high = a[x], b[x]
            a[x] = low if low < high else high
            b[x] = high if low < high else low
