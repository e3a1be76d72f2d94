"""Clipping: find the inputs of a stack that disagree with the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.means import Means, add, divide
from tololo.reduction.kernels.order import CHUNK, median_variance_factor, network
from tololo.reduction.kernels.outliers import excesses, may_be_far, screen

BAND = 16
"""Rows that are looked at at a time."""

PAD = 16
"""Values between two rows that are kept side by side."""

PSF_ALLOWANCE = 0.15
"""Part of the local signal that counts as one sigma of noise, for stars of good and bad seeing."""


def clip(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    n_sigma: float,
    psf_allowance: float = PSF_ALLOWANCE,
    tolerance: NDArray[np.float32] | None = None,
    rows: slice = slice(None),
    means: Means | None = None,
    skip: int = 0,
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
    tolerance : `numpy.ndarray`, (ny, nx), optional
        Variance by which inputs may differ beyond their noise.
    rows : `slice`
        Which rows of the planes are looked at, without a step; ``tolerance`` and the result have only these.
    means : `~tololo.reduction.kernels.means.Means`, optional
        Is filled with the mean of all inputs, rejected or not, while they are in the cache.
    skip : `int`
        How many of the rows come before the first of ``means``.

    Returns
    -------
    rejected : `numpy.ndarray`, (ny, nx)
        Bit p is set where input p disagrees.
    """
    n, height, nx = values.shape
    first, last, _ = rows.indices(height)
    shape = (last - first, nx)
    rejected = np.zeros(shape, np.uint64)
    if n < 2:
        return rejected
    spare = np.zeros(shape, np.float32) if tolerance is None else np.ascontiguousarray(tolerance)
    factors = np.array([median_variance_factor(m) for m in range(n + 1)], np.float32)
    _clip(
        np.ascontiguousarray(values),
        np.ascontiguousarray(noise),
        first,
        spare,
        network(n),
        factors,
        n_sigma,
        psf_allowance,
        _nowhere() if means is None else means,
        skip,
        rejected,
    )
    return rejected


def _nowhere() -> Means:
    """Return a mean of no rows."""
    nothing = np.zeros((0, 0), np.float32)
    return Means(
        np.zeros((0, 0, 0), np.int32),
        np.zeros(0),
        nothing,
        nothing,
        np.zeros((0, 0), np.int16),
        np.zeros((0, 0), np.int32),
    )


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
        spare = None if tolerance is None else tolerance[wide]
        rejected[rows] = clip(images, variances, n_sigma, tolerance=spare, rows=wide)[inner]
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
def _clip(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    top: int,
    tolerance: NDArray[np.float32],
    pairs: NDArray[np.int64],
    factors: NDArray[np.float32],
    n_sigma: float,
    allowance: float,
    means: Means,
    skip: int,
    rejected: NDArray[np.uint64],
) -> None:
    """Fill ``rejected`` row by row, so that what is looked at twice is still in the cache."""
    n, (ny, nx) = values.shape[0], rejected.shape
    near = np.zeros((ny, nx), np.uint64)
    # Two rows are kept side by side: planes that lie a power of two apart push one another out of the cache.
    rows = np.empty((2, 2, n, nx + PAD), np.float32)
    bounds = np.empty((2, 4, nx), np.float32)
    suspect, places = np.empty(nx, np.bool_), np.empty(nx, np.int64)
    sums = np.empty((4, CHUNK), np.float32)
    for y in range(ny + 1):
        if y < ny:
            own, source, spare = rows[y % 2, 0], rows[y % 2, 1], tolerance[y]
            for p in range(n):
                _copy(values[p, top + y], own[p])
                _copy(noise[p, top + y], source[p])
            for first in range(0, nx, CHUNK):
                here = suspect[first : first + CHUNK]
                screen(own, source, spare, first, factors, n_sigma, allowance, bounds[y % 2], here)
                if skip <= y < skip + means.image.shape[0]:
                    last = first + here.size
                    flags = means.mask[y - skip, first:last]
                    sums[:], flags[:] = np.float32(0.0), 0
                    for p in range(n):
                        w, found = np.float32(means.weights[p]), means.bits[p, top + y, first:last]
                        add(own[p, first:last], source[p, first:last], found, w, sums, flags)
                    image, variance = means.image[y - skip, first:last], means.variance[y - skip, first:last]
                    divide(sums, image, variance, means.n_used[y - skip, first:last])
            number = 0
            for x in range(nx):
                if suspect[x]:
                    places[number] = x
                    number += 1
            _reject(own, source, spare, pairs, factors, n_sigma, allowance, places[:number], rejected[y])
            _spread(rejected, y, near)
        if y > 0:
            own, source, spare = rows[(y - 1) % 2, 0], rows[(y - 1) % 2, 1], tolerance[y - 1]
            bits, found, bound = near[y - 1], rejected[y - 1], bounds[(y - 1) % 2]
            number = 0
            for x in range(nx):
                if bits[x] != 0 and found[x] == 0 and may_be_far(own, source, x, bits[x], bound):
                    places[number] = x
                    number += 1
            few = places[:number]
            _reject_beside(own, source, spare, pairs, factors, n_sigma / 2, allowance, few, bits, found)


@compiled
def _copy(given: NDArray[np.float32], kept: NDArray[np.float32]) -> None:
    """Copy a row; the assignment of a slice would go value by value."""
    for x in range(given.size):
        kept[x] = given[x]


@compiled
def _spread(rejected: NDArray[np.uint64], y: int, near: NDArray[np.uint64]) -> None:
    """Tell the eight neighbours of the pixels of a row what is rejected there."""
    ny, nx = rejected.shape
    for x in range(nx):
        if rejected[y, x] != 0:
            for j in range(max(0, y - 1), min(ny, y + 2)):
                for i in range(max(0, x - 1), min(nx, x + 2)):
                    near[j, i] |= rejected[y, x]


@compiled
def _reject(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    tolerance: NDArray[np.float32],
    pairs: NDArray[np.int64],
    factors: NDArray[np.float32],
    n_sigma: float,
    allowance: float,
    places: NDArray[np.int64],
    rejected: NDArray[np.uint64],
) -> None:
    """Reject the worst input of some pixels, and again where there was one, until half of them are left.

    ``places`` is overwritten.
    """
    n = values.shape[0]
    excess, number = np.empty((n, CHUNK), np.float32), np.empty(CHUNK, np.int32)
    largest, worst = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.int32)
    gone, left = 0, places.size
    while left > 0:
        kept = 0
        for first in range(0, left, CHUNK):
            here = places[first : min(left, first + CHUNK)]
            excesses(values, noise, tolerance, pairs, factors, allowance, here, rejected, excess, number)
            largest[:], worst[:] = n_sigma * n_sigma, -1
            for p in range(n):
                own = excess[p]
                for x in range(here.size):
                    worse = own[x] > largest[x]
                    largest[x] = own[x] if worse else largest[x]
                    worst[x] = p if worse else worst[x]
            for x in range(here.size):
                if worst[x] >= 0 and gone < (number[x] + gone) // 2:
                    rejected[here[x]] |= np.uint64(1) << np.uint64(worst[x])
                    places[kept] = here[x]
                    kept += 1
        gone, left = gone + 1, kept


@compiled
def _reject_beside(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    tolerance: NDArray[np.float32],
    pairs: NDArray[np.int64],
    factors: NDArray[np.float32],
    n_sigma: float,
    allowance: float,
    places: NDArray[np.int64],
    near: NDArray[np.uint64],
    rejected: NDArray[np.uint64],
) -> None:
    """Test neighbours of rejected pixels for the same inputs: trails and cosmic rays have faint flanks.

    ``near`` holds what is rejected around a pixel. Where this would leave less than half of a pixel's inputs,
    the worst alone is rejected.
    """
    n, limit = values.shape[0], np.float32(n_sigma * n_sigma)
    excess, number = np.empty((n, CHUNK), np.float32), np.empty(CHUNK, np.int32)
    for first in range(0, places.size, CHUNK):
        here = places[first : first + CHUNK]
        excesses(values, noise, tolerance, pairs, factors, allowance, here, rejected, excess, number)
        for x in range(here.size):
            far, count, worst, largest = np.uint64(0), 0, np.uint64(0), limit
            for p in range(n):
                bit = np.uint64(1) << np.uint64(p)
                if near[here[x]] & bit != 0 and excess[p, x] > limit:
                    far, count = far | bit, count + 1
                    if excess[p, x] > largest:
                        worst, largest = bit, excess[p, x]
            rejected[here[x]] = far if count <= number[x] // 2 else worst
