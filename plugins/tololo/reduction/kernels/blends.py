"""Errors of stars whose neighbours are fitted along."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.reduction.kernels.compiled import compiled, compiled_fast
from tololo.reduction.kernels.planes import Float32Image
from tololo.reduction.kernels.stamps import Stamps

CLOSE_FWHM = 2.0
"""Neighbours nearer than this count for the errors; all within the stamp are flagged."""
MOST = 6
"""Neighbours of one star that are counted."""


def close_groups(
    x: NDArray[np.float64], y: NDArray[np.float64], fwhm: float, reach: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Find the stars that have neighbours.

    Parameters
    ----------
    x, y : `numpy.ndarray`, (n,)
        Pixels.
    fwhm, reach : `float`
        Pixels; a star with another within ``reach`` is blended.

    Returns
    -------
    blended : `numpy.ndarray`, (n,), bool
    groups : `numpy.ndarray`, (m, MOST + 1)
        A star and those closer than 2 FWHM, nearest first; -1 fills the rest.
    """
    number = x.size
    if number < 2:
        return np.zeros(number, bool), np.empty((0, MOST + 1), np.int64)
    tree = cKDTree(np.column_stack([x, y]))
    distance, index = tree.query(tree.data, k=min(MOST + 1, number), distance_upper_bound=reach)
    rows = np.arange(number)
    # A star need not be the first of two at one place.
    distance[index == rows[:, None]] = np.inf
    near = np.sort(np.where(distance < CLOSE_FWHM * fwhm, distance, np.inf), axis=1)
    order = np.argsort(distance, axis=1, kind="stable")
    members = np.where(np.isfinite(near), np.take_along_axis(index, order, axis=1), -1)
    groups = np.full((number, MOST + 1), -1, np.int64)
    groups[:, 0] = rows
    groups[:, 1 : members.shape[1]] = members[:, : members.shape[1] - 1]
    return np.isfinite(distance).any(axis=1), groups[groups[:, 1] >= 0]


@compiled
def blend_errors(
    noise: Float32Image,
    masked: NDArray[np.bool_],
    stamps: Stamps,
    corner: NDArray[np.int64],
    flux: NDArray[np.float64],
    groups: NDArray[np.int64],
    n_free: int,
    errors: NDArray[np.float64],
) -> None:
    """Write flux, x and y error of the first star of each group, with the others fitted along.

    The square roots of the diagonal of the inverse Fisher matrix; n_free is 1 (fluxes) or 3 (fluxes and
    positions).
    """
    block = np.empty(9)
    for g in range(groups.shape[0]):
        number = 0
        while number < groups.shape[1] and groups[g, number] >= 0:
            number += 1
        fisher = np.zeros((n_free * number, n_free * number))
        for a in range(number):
            k = groups[g, a]
            for b in range(a, number):
                m = groups[g, b]
                products_into(noise, masked, stamps[k], corner[k], stamps[m], corner[m], block)
                for i in range(n_free):
                    for j in range(n_free):
                        value = block[3 * i + j]
                        value *= flux[k] if i > 0 else 1.0
                        value *= flux[m] if j > 0 else 1.0
                        fisher[n_free * a + i, n_free * b + j] = value
                        fisher[n_free * b + j, n_free * a + i] = value
        scale = np.sqrt(np.diag(fisher)) + 1e-300
        for a in range(scale.size):
            for b in range(scale.size):
                fisher[a, b] /= scale[a] * scale[b]
            fisher[a, a] += 1e-9
        inverse = np.linalg.inv(fisher)
        for a in range(n_free):
            errors[g, a] = math.sqrt(max(0.0, inverse[a, a])) / scale[a]


@compiled_fast
def products_into(
    noise: Float32Image,
    masked: NDArray[np.bool_],
    one: NDArray[np.float32],
    at: NDArray[np.int64],
    other: NDArray[np.float32],
    there: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None:
    """Fill sums over noise of the products of P, X, Y (stamp and gradients) of two stars, row by column."""
    height, width = noise.shape
    size = one.shape[0]
    x0, x1 = max(0, at[0] + 1, there[0] + 1), min(width, at[0] + size - 1, there[0] + size - 1)
    y0, y1 = max(0, at[1] + 1, there[1] + 1), min(height, at[1] + size - 1, there[1] + size - 1)
    sums[:] = 0.0
    zero, half = np.float32(0.0), np.float32(0.5)
    for y in range(y0, y1):
        j, k, a, b = y - at[1], y - there[1], x0 - at[0], x0 - there[0]
        n = max(0, x1 - x0)
        line, hidden = noise[y, x0 : x0 + n], masked[y, x0 : x0 + n]
        p0, l0, r0 = one[j, a : a + n], one[j, a - 1 : a - 1 + n], one[j, a + 1 : a + 1 + n]
        d0, u0 = one[j - 1, a : a + n], one[j + 1, a : a + n]
        p1, l1, r1 = other[k, b : b + n], other[k, b - 1 : b - 1 + n], other[k, b + 1 : b + 1 + n]
        d1, u1 = other[k - 1, b : b + n], other[k + 1, b : b + n]
        pp, px, py, xp, xx, xy, yp, yx, yy = zero, zero, zero, zero, zero, zero, zero, zero, zero
        for i in range(n):
            w = zero if hidden[i] else np.float32(1.0) / line[i]
            p, gx, gy = w * p0[i], w * half * (l0[i] - r0[i]), w * half * (d0[i] - u0[i])
            q, hx, hy = p1[i], half * (l1[i] - r1[i]), half * (d1[i] - u1[i])
            pp += p * q
            px += p * hx
            py += p * hy
            xp += gx * q
            xx += gx * hx
            xy += gx * hy
            yp += gy * q
            yx += gy * hx
            yy += gy * hy
        sums[0] += pp
        sums[1] += px
        sums[2] += py
        sums[3] += xp
        sums[4] += xx
        sums[5] += xy
        sums[6] += yp
        sums[7] += yx
        sums[8] += yy
