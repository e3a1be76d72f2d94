"""How the part of a star's light that an aperture holds changes over a frame.

Stars are seldom equally wide everywhere; where they are wider an aperture holds less of them. The ratio of
what two apertures hold tells it from each star's bright core, long before the light outside can be measured.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]

PRIOR = 0.01
"""Change of the ratio (of its logarithm) from the middle of a frame to its edge that is expected."""

CLIP = 3.5
ROUNDS = 6
LEAST = 6
"""Stars that must tell it."""

MOFFAT = 3.0
"""Exponent of the profile that says how the ratio and the light inside go together."""


def light_inside(x: Floats, y: Floats, shape: tuple[int, int], small: Floats, large: Floats) -> Floats:
    """Return by how much more or less of a star's light an aperture holds at each place.

    Parameters
    ----------
    x, y : `numpy.ndarray`, (n,)
        Pixels from 0.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the frame.
    small, large : `numpy.ndarray`, (n, 2)
        Flux and its error in the half of the aperture's radius, and in the aperture; NaN of stars that shall
        not tell anything.

    Returns
    -------
    change : `numpy.ndarray`, (n, 2)
        Natural logarithm of the light inside relative to its mean over the stars that tell it, and the error
        of that; 0 where fewer than `LEAST` do.

    Notes
    -----
    The logarithm of the ratio is a polynomial of second order over the frame, whose terms are expected to be
    within `PRIOR`: a few stars then change little.
    """
    nothing = np.zeros((len(x), 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.log(small[:, 0] / large[:, 0])
        a, b = small[:, 1] / small[:, 0], large[:, 1] / large[:, 0]
        # The small aperture is a part of the large one, its noise too.
        variance = a**2 + b**2 - 2 * small[:, 1] ** 2 / (small[:, 0] * large[:, 0])
    used = np.isfinite(ratio) & (variance > 0)
    if np.count_nonzero(used) < LEAST:
        return nothing
    u, v = 2 * x / shape[1] - 1, 2 * y / shape[0] - 1
    terms = np.column_stack([np.ones(len(x)), u, v, u * u, u * v, v * v])
    sigma = np.sqrt(np.where(used, variance, 1.0) + 0.001**2)
    among = used
    solution = np.zeros(6)
    covariance = np.zeros((6, 6))
    for _ in range(ROUNDS):
        known = terms[among] / sigma[among, None]
        scale = 1.0
        if solution.any():
            pull = (ratio - terms @ solution)[among] / sigma[among]
            scale = max(1.0, 1.4826 * float(np.median(np.abs(pull))))
        precision = known.T @ known / scale**2 + np.diag([0.0, *[PRIOR**-2] * 5])
        covariance = np.linalg.inv(precision)
        solution = covariance @ (known.T @ (ratio[among] / sigma[among])) / scale**2
        residual = np.where(used, ratio - terms @ solution, 0.0) / sigma
        spread = max(1.0, 1.4826 * float(np.median(np.abs(residual[used]))))
        before, among = among, used & (np.abs(residual) < CLIP * spread)
        if np.count_nonzero(among) < LEAST:
            return nothing
        if np.array_equal(before, among):
            break
    weight = among / sigma**2
    off_mean = terms - (weight[:, None] * terms).sum(axis=0) / weight.sum()
    part = _part(float(np.exp(np.average(ratio[among], weights=weight[among]))))
    error = np.sqrt(np.einsum("ni,ij,nj->n", off_mean, covariance, off_mean))
    change = part * np.column_stack([off_mean @ solution, error])
    return np.where(np.isfinite(change), change, 0.0)


def _part(ratio: float) -> float:
    """Return how much the light in an aperture changes with the ratio to it of that in half of its radius.

    Both as logarithms, for Moffat profiles whose width alone differs.
    """

    def held(radius: float) -> float:
        return 1 - math.pow(1 + radius**2, 1 - MOFFAT)

    def log_ratio(radius: float) -> float:
        return math.log(held(radius / 2) / held(radius))

    low, high = 0.05, 50.0  # radii of the aperture in units of the profile's
    wanted = math.log(ratio) if ratio > 0 else -math.inf
    if not log_ratio(low) < wanted < log_ratio(high):
        return 0.0
    radius: float = brentq(lambda r: log_ratio(r) - wanted, low, high)
    step = 1.01
    change = math.log(held(radius * step) / held(radius))
    return float(change / (log_ratio(radius * step) - log_ratio(radius)))
