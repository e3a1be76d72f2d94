"""How a zero point depends on the colour of the stars: a straight line, robustly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

CLIP = 3.5
LARGEST_COLOR_ERROR = 0.04
"""Mag; a noisier colour makes the slope of the relation that predicts the magnitudes leak into this one."""


@dataclass(frozen=True)
class ColorTerm:
    """Slope of the zero point against colour, mag per mag; ``error`` and ``n_used`` are 0 if not fitted."""

    slope: float
    error: float
    n_used: int

    @property
    def fitted(self) -> bool:
        """Whether the stars have said it."""
        return self.n_used > 0


def fit_color_term(
    difference: ArrayLike,
    error: ArrayLike,
    color: ArrayLike,
    color_error: ArrayLike,
    *,
    nominal: float = 0.0,
    accuracy: float = 0.01,
) -> ColorTerm:
    """Fit reference less instrumental magnitude against colour.

    Parameters
    ----------
    difference, error : array_like, (n,)
        Reference less instrumental magnitude, and its standard error.
    color, color_error : array_like, (n,)
        Of the same stars. What is not finite is left out, as are stars with a noisy colour.
    nominal : `float`
        Slope that is taken where the stars do not tell it well enough.
    accuracy : `float`
        Standard error of the slope that is well enough, mag per mag.

    Returns
    -------
    term : `ColorTerm`
    """
    columns = np.array([np.ravel(c) for c in (difference, error, color, color_error)], dtype=np.float64)
    good = np.isfinite(columns).all(axis=0) & (columns[3] < LARGEST_COLOR_ERROR)
    value, sigma, tint, _ = columns[:, good]
    if len(value) < 5:
        return ColorTerm(nominal, 0.0, 0)
    start = value - nominal * tint
    used = np.abs(start - np.median(start)) < 0.3
    slope, slope_error = nominal, math.inf
    for _ in range(10):
        if np.count_nonzero(used) < 5:
            return ColorTerm(nominal, 0.0, 0)
        weight = used / sigma**2
        middle = (weight * tint).sum() / weight.sum()
        spread = (weight * (tint - middle) ** 2).sum()
        if spread <= 0:
            return ColorTerm(nominal, 0.0, 0)
        mean = (weight * value).sum() / weight.sum()
        slope = float((weight * (tint - middle) * value).sum() / spread)
        residual = value - mean - slope * (tint - middle)
        pull = np.abs(residual) / sigma
        scale = max(1.0, 1.4826 * float(np.median(pull[used])))
        slope_error = scale / math.sqrt(spread)
        before, used = used, pull < CLIP * scale
        if np.array_equal(before, used):
            break
    if slope_error > accuracy:
        return ColorTerm(nominal, 0.0, 0)
    return ColorTerm(slope, slope_error, int(np.count_nonzero(used)))
