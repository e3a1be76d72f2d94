"""Clipping: find the inputs of a stack that disagree with the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.order import CHUNK, median_variance_factor, network, sort_chunk

BAND = 16
"""Rows that are looked at at a time."""

PSF_ALLOWANCE = 0.15
"""Part of the local signal that counts as one sigma of noise, for stars of good and bad seeing."""


def clip(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    n_sigma: float,
    psf_allowance: float = PSF_ALLOWANCE,
) -> NDArray[np.uint64]:
    """Find the inputs that disagree with the others, as `tololo.reduction.kernels.stack.stack` says it.

    Parameters
    ----------
    values, noise : `numpy.ndarray`, (n, ny, nx)
        Images and variances of at most 64 inputs; a pixel that is not finite in either is not used.
    n_sigma : `float`
        Rejection threshold in units of the expected noise; half of it for neighbours of rejected pixels.
    psf_allowance : `float`
        Part of the local signal that counts as one sigma of noise.

    Returns
    -------
    rejected : `numpy.ndarray`, (ny, nx)
        Bit p is set where input p disagrees.
    """
    n = len(values)
    rejected = np.zeros(values.shape[1:], np.uint64)
    factors = np.array([median_variance_factor(m) for m in range(n + 1)])
    medians = np.empty(values.shape[1:], np.float32)
    reject(values, noise, network(n), factors, n_sigma, psf_allowance, rejected, medians)
    reject_neighbours(values, noise, medians, factors, n_sigma / 2, psf_allowance, rejected)
    return rejected


def disagreeing(
    images: NDArray[np.float32],
    variances: NDArray[np.float32],
    *,
    n_sigma: float,
    tolerance: NDArray[np.float32] | None = None,
) -> NDArray[np.uint64]:
    """Find the disagreeing pixels of whole images; see `clip`.

    Parameters
    ----------
    images, variances : `numpy.ndarray`, (n, ny, nx)
        Images and variances of at most 64 inputs.
    n_sigma : `float`
        Rejection threshold in units of the expected noise.
    tolerance : `numpy.ndarray`, (ny, nx), optional
        Variance by which inputs may differ beyond their noise.
    """
    rejected = np.empty(images.shape[1:], np.uint64)
    for rows, wide, inner in bands(len(rejected)):
        noise = variances[:, wide] if tolerance is None else variances[:, wide] + tolerance[wide]
        rejected[rows] = clip(np.ascontiguousarray(images[:, wide]), noise, n_sigma)[inner]
    return rejected


def bands(ny: int, margin: int = 1) -> Sequence[tuple[slice, slice, slice]]:
    """Cut rows into bands: the rows of each, these and some at both sides, and the first in the second."""
    found = []
    for first in range(0, ny, BAND):
        last = min(ny, first + BAND)
        low, high = max(0, first - margin), min(ny, last + margin)
        found.append((slice(first, last), slice(low, high), slice(first - low, last - low)))
    return found


@compiled
def _screen(n_sigma: float, n: int) -> np.float32:
    """Return the squared distance from the plain median, in units of noise, below which none disagrees."""
    return np.float32((n_sigma * max(0.45, 1.0 - 1.3 / n)) ** 2)


@compiled
def reject(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    pairs: NDArray[np.int64],
    factors: NDArray[np.float64],
    n_sigma: float,
    allowance: float,
    rejected: NDArray[np.uint64],
    medians: NDArray[np.float32],
) -> None:
    """Set bit p of ``rejected`` where input p disagrees with the others, and fill in the plain medians.

    The distance from the plain median, fast and a little below that from the median of the others, sorts out
    the few pixels that are worth the full test.
    """
    n, ny, nx = values.shape
    ordered, number = np.empty((n, CHUNK), np.float32), np.empty(CHUNK, np.int32)
    middle, suspect = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    screen = _screen(n_sigma, n)
    share = np.float32(allowance * allowance)
    for y in range(ny):
        for first in range(0, nx, CHUNK):
            last = min(nx, first + CHUNK)
            sort_chunk(values, noise, y, first, last, pairs, ordered, number)
            suspect[:] = 0.0
            for x in range(last - first):
                m = max(number[x], 1)
                middle[x] = np.float32(0.5) * (ordered[(m - 1) // 2, x] + ordered[m // 2, x])
                medians[y, first + x] = middle[x]
            for p in range(n):
                own, source = values[p, y, first:last], noise[p, y, first:last]
                for x in range(last - first):
                    d = own[x] - middle[x]
                    over = d * d - screen * (source[x] + share * middle[x] * middle[x])
                    suspect[x] = over if over > suspect[x] else suspect[x]
            for x in range(last - first):
                if suspect[x] > 0.0:
                    rejected[y, first + x] = _outliers(
                        values, noise, first + x, y, factors, n_sigma, allowance
                    )


@compiled
def _gather(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    x: int,
    y: int,
    skip: np.uint64,
    ranked: NDArray[np.float64],
    spread: NDArray[np.float64],
    origin: NDArray[np.int64],
) -> int:
    """Fill the usable values of a pixel in rising order, their variances and inputs; return how many."""
    m = 0
    for p in range(values.shape[0]):
        value, variance = values[p, y, x], noise[p, y, x]
        if skip & (np.uint64(1) << np.uint64(p)) != 0 or not (
            math.isfinite(value) and math.isfinite(variance)
        ):
            continue
        k = m
        while k > 0 and ranked[k - 1] > value:
            ranked[k], spread[k], origin[k] = ranked[k - 1], spread[k - 1], origin[k - 1]
            k -= 1
        ranked[k], spread[k], origin[k] = value, variance, p
        m += 1
    return m


@compiled
def _excess(
    ranked: NDArray[np.float64],
    spread: NDArray[np.float64],
    m: int,
    k: int,
    total: float,
    factors: NDArray[np.float64],
    allowance: float,
) -> float:
    """Squared distance of the k-th of m values from the median of the others, over its expected variance.

    ``total`` is the sum of the m variances.
    """
    if m < 2:
        return 0.0
    a, b = (m - 2) // 2, (m - 1) // 2
    middle = 0.5 * (ranked[a + 1 if a >= k else a] + ranked[b + 1 if b >= k else b])
    others = total - spread[k]
    expected = spread[k] + factors[m - 1] * others / (m - 1) ** 2 + (allowance * middle) ** 2
    return float((ranked[k] - middle) ** 2 / max(expected, 1e-30))


@compiled
def _outliers(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    x: int,
    y: int,
    factors: NDArray[np.float64],
    n_sigma: float,
    allowance: float,
) -> np.uint64:
    """Reject the worst input of a pixel until all agree or half are left; return the rejected bits."""
    n = values.shape[0]
    ranked, spread, origin = np.empty(n), np.empty(n), np.empty(n, np.int64)
    skip = np.uint64(0)
    usable = _gather(values, noise, x, y, skip, ranked, spread, origin)
    m = usable
    for _ in range(usable // 2):
        worst, largest = -1, n_sigma * n_sigma
        total = np.sum(spread[:m])
        for k in range(m):
            excess = _excess(ranked, spread, m, k, total, factors, allowance)
            if excess > largest:
                worst, largest = k, excess
        if worst < 0:
            break
        skip |= np.uint64(1) << np.uint64(origin[worst])
        m = _gather(values, noise, x, y, skip, ranked, spread, origin)
    return skip


@compiled
def _is_far(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    inputs: NDArray[np.int64],
    x: int,
    y: int,
    median: np.float32,
    screen: np.float32,
    share: np.float32,
) -> bool:
    """Tell whether one of some inputs is so far from the median of a pixel that the full test is worth it."""
    for p in inputs:
        d = values[p, y, x] - median
        if d * d > screen * (noise[p, y, x] + share * median * median):
            return True
    return False


@compiled
def reject_neighbours(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    medians: NDArray[np.float32],
    factors: NDArray[np.float64],
    n_sigma: float,
    allowance: float,
    rejected: NDArray[np.uint64],
) -> None:
    """Test the eight neighbours of each rejected pixel again: trails and cosmic rays have faint flanks."""
    n, ny, nx = values.shape
    seed = rejected.copy()
    screen, share = _screen(n_sigma, n), np.float32(allowance * allowance)
    ranked, spread, origin = np.empty(n), np.empty(n), np.empty(n, np.int64)
    hit = np.empty(n, np.int64)
    for y in range(ny):
        for x in range(nx):
            if seed[y, x] == 0:
                continue
            hits = 0
            for p in range(n):
                if seed[y, x] & (np.uint64(1) << np.uint64(p)) != 0:
                    hit[hits] = p
                    hits += 1
            for j in range(max(0, y - 1), min(ny, y + 2)):
                for i in range(max(0, x - 1), min(nx, x + 2)):
                    if rejected[j, i] != 0:
                        continue
                    if not _is_far(values, noise, hit[:hits], i, j, medians[j, i], screen, share):
                        continue
                    m = _gather(values, noise, i, j, rejected[j, i], ranked, spread, origin)
                    total = np.sum(spread[:m])
                    for k in range(m):
                        bit = np.uint64(1) << np.uint64(origin[k])
                        if seed[y, x] & bit != 0 and (
                            _excess(ranked, spread, m, k, total, factors, allowance) > n_sigma * n_sigma
                        ):
                            rejected[j, i] |= bit
