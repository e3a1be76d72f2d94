"""Sums of light in circles, with the exact overlap of circle and pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.planes import Float32Image

HALF_DIAGONAL = 0.5 * math.sqrt(2.0)


@compiled
def quarter(x: float, y: float, r: float) -> float:
    """Return the area of a circle about the origin between the axes and (x, y), with the sign of x y."""
    sign = 1.0 if x * y >= 0.0 else -1.0
    a, b = min(abs(x), r), min(abs(y), r)
    if a * a + b * b <= r * r:
        return sign * a * b
    # Flat up to c, then below the arc.
    c, root = math.sqrt(r * r - b * b), math.sqrt(r * r - a * a)
    arc = 0.5 * (a * root - c * b + r * r * (math.asin(a / r) - math.asin(c / r)))
    return sign * (c * b + arc)


@compiled
def overlap(x: float, y: float, r: float) -> float:
    """Return which part of the pixel about (x, y) lies in a circle of radius r about the origin."""
    distance = math.hypot(x, y)
    if distance <= r - HALF_DIAGONAL:
        return 1.0
    if distance >= r + HALF_DIAGONAL:
        return 0.0
    left, right, low, high = x - 0.5, x + 0.5, y - 0.5, y + 0.5
    return (quarter(right, high, r) - quarter(left, high, r)) - (
        quarter(right, low, r) - quarter(left, low, r)
    )


@compiled
def circle_sums(
    data: Float32Image,
    noise: Float32Image,
    masked: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> None:
    """Fill the sums of light, variance and area of the good pixels in a circle about each position."""
    height, width = data.shape
    for n in range(x.size):
        r = radius[n]
        light, square, area = 0.0, 0.0, 0.0
        sums[n, :] = 0.0
        if not math.isfinite(x[n] + y[n] + r):
            continue
        for j in range(max(0, math.floor(y[n] - r + 0.5)), min(height, math.floor(y[n] + r + 0.5) + 1)):
            # Beyond this the row does not reach into the circle.
            nearest = max(0.0, abs(j - y[n]) - 0.5)
            reach = math.sqrt(max(0.0, r * r - nearest * nearest))
            first = max(0, math.floor(x[n] - reach + 0.5))
            for i in range(first, min(width, math.floor(x[n] + reach + 0.5) + 1)):
                if not masked[j, i]:
                    part = overlap(i - x[n], j - y[n], r)
                    light += part * data[j, i]
                    square += part * noise[j, i]
                    area += part
        sums[n, 0], sums[n, 1], sums[n, 2] = light, square, area


@compiled
def first_moments(
    data: Float32Image,
    masked: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    reach: NDArray[np.float64],
    moments: NDArray[np.float64],
) -> None:
    """Fill the mean distance of the light from each position, out to a reach; 0 where there is no light."""
    height, width = data.shape
    for n in range(x.size):
        light, distance = 0.0, 0.0
        moments[n] = 0.0
        if not math.isfinite(x[n] + y[n] + reach[n]):
            continue
        for j in range(max(0, math.ceil(y[n] - reach[n])), min(height, math.floor(y[n] + reach[n]) + 1)):
            dy = j - y[n]
            half = math.sqrt(max(0.0, reach[n] ** 2 - dy * dy))
            for i in range(max(0, math.ceil(x[n] - half)), min(width, math.floor(x[n] + half) + 1)):
                if not masked[j, i]:
                    dx = i - x[n]
                    light += data[j, i]
                    distance += math.sqrt(dx * dx + dy * dy) * data[j, i]
        moments[n] = distance / light if light > 0.0 and distance > 0.0 else 0.0
