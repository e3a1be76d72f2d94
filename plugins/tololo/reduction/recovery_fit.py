"""The magnitude at which half of the sources are found, by the most likely curve of completeness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

LEAST = 20
"""Sources that a fit needs, found and lost ones together."""

FEW = f"fewer than {LEAST} sources"
ALL_FOUND = "too few are lost: the sources do not reach the limit"
NONE_FOUND = "too few are found"

SOME = 3
"""At least so many have to be found, and so many lost."""

WIDTHS = math.log(0.02), math.log(2.0)
"""Logarithm of the least and largest width, magnitudes."""

_LITTLE = 1e-9
"""No source is found or lost for certain: one that should not be would decide alone."""


@dataclass(frozen=True)
class Depth:
    """Where completeness is one half.

    Attributes
    ----------
    depth, error, width : `float`
        Magnitudes; NaN where they could not be measured.
    top : `float`
        Completeness of the brightest.
    note : `str`
        Why there is no depth; empty if there is.
    """

    depth: float = math.nan
    error: float = math.nan
    width: float = math.nan
    top: float = math.nan
    note: str = ""

    def at(self, mag: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the completeness at some magnitudes."""
        return completeness(mag, self.depth, self.width, self.top)


def completeness(
    mag: NDArray[np.float64], depth: float, width: float, top: float = 1.0
) -> NDArray[np.float64]:
    """Return a logistic curve in magnitude that is ``top`` of the bright sources and 1/2 at the depth."""
    return np.asarray(top * expit(-(mag - depth) / width - math.log(2 * top - 1)))


def fit_depth(mag: NDArray[np.float64], found: NDArray[np.bool_]) -> Depth:
    """Fit the curve of completeness to sources that were found or lost, each for itself.

    Parameters
    ----------
    mag : `numpy.ndarray`, (n,)
    found : `numpy.ndarray`, (n,), bool

    Returns
    -------
    depth : `Depth`
        Its error is that of the information that the sources give on depth, width and top.
    """
    known = np.isfinite(mag)
    mag, found = mag[known], found[known]
    if len(mag) < LEAST:
        return Depth(note=FEW)
    if np.count_nonzero(found) < SOME:
        return Depth(note=NONE_FOUND)
    if np.count_nonzero(~found) < SOME:
        return Depth(note=ALL_FOUND)

    def cost(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        part, slopes = _curve(mag, values)
        per_part = np.where(found, 1 / part, -1 / (1 - part))
        return -float(np.sum(np.log(np.where(found, part, 1 - part)))), -(slopes @ per_part)

    low, high = float(mag.min()), float(mag.max())
    bounds = [(low, high), WIDTHS, (-4.0, 12.0)]
    # Chance makes narrow curves that are good only nearby: wider ones lead to the best, mostly.
    fits = [
        minimize(cost, np.array(start), method="L-BFGS-B", jac=True, bounds=bounds)
        for start in _starts(mag, found)
    ]
    fit = min(fits, key=lambda result: float(result.fun))
    depth, width, top = (float(value) for value in fit.x)
    if not low < depth < high:
        return Depth(note=ALL_FOUND if depth >= high else NONE_FOUND)
    part, slopes = _curve(mag, fit.x)
    information = (slopes / (part * (1 - part))) @ slopes.T
    variance = float(np.linalg.pinv(information)[0, 0])
    return Depth(depth, math.sqrt(variance), math.exp(width), 0.5 + 0.5 * float(expit(top)))


def _curve(
    mag: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return completeness and its derivatives, (3, n), by depth, logarithm of the width, and the top.

    The last of the values is the logit of 2 top - 1: the top is between 1/2 and 1.
    """
    depth, log_width, logit = values
    width, share = math.exp(log_width), float(expit(logit))
    top, far = 0.5 + 0.5 * share, (mag - depth) / width
    level = expit(-far - math.log(share))
    steep = top * level * (1 - level)
    slopes = np.stack([steep / width, steep * far, (1 - share) * (0.5 * share * level - steep)])
    return np.clip(top * level, _LITTLE, 1 - _LITTLE), slopes


def _starts(mag: NDArray[np.float64], found: NDArray[np.bool_]) -> list[list[float]]:
    """Return first guesses of depth, logarithm of the width and logit of the top."""
    order = np.argsort(mag)
    brightest = found[order][: max(5, len(mag) // 4)]
    starts = []
    for share in (float(np.clip(2 * brightest.mean() - 1, 0.1, 0.98)), 0.95):
        # The magnitude that parts found from lost best, if a part of the bright ones is lost, too.
        right = np.cumsum(found[order] - (0.5 + 0.5 * share) / 2)
        depth = float(mag[order][int(np.argmax(right))])
        starts += [[depth, math.log(width), math.log(share / (1 - share))] for width in (0.15, 0.5)]
    return starts
