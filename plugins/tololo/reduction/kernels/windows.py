"""PSFs drawn into a small window around a source, and what fits of several parameters share."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.stamps import move_into

LEAST_PIXELS = 20
"""Good pixels that a fit needs."""

ENOUGH = 0.02
"""A gain in chi^2 below this ends a fit."""


@compiled
def damp(normal: NDArray[np.float64], damping: float) -> None:
    """Raise the diagonal of normal equations, which shortens the step (Levenberg and Marquardt)."""
    for a in range(normal.shape[0]):
        normal[a, a] += damping * normal[a, a] + 1e-30


@compiled
def place_into(
    kernel: NDArray[np.float32],
    x: float,
    y: float,
    weight: float,
    work: NDArray[np.float32],
    window: NDArray[np.float64],
) -> None:
    """Add ``weight`` times a PSF centred at (x, y), pixels of the window, as far as it falls into it.

    Parameters
    ----------
    kernel : `numpy.ndarray`, (size, size), float32
        Centred PSF of unit sum.
    x, y, weight : `float`
    work : `numpy.ndarray`, (2, size, size), float32
        Overwritten.
    window : `numpy.ndarray`, (height, width), float64
    """
    size = kernel.shape[0]
    half = size // 2
    i0, j0 = math.floor(x + 0.5), math.floor(y + 0.5)
    move_into(kernel, x - i0, y - j0, work[1])
    height, width = window.shape
    for j in range(max(0, j0 - half), min(height, j0 + half + 1)):
        line, source = window[j], work[1, j - j0 + half]
        for i in range(max(0, i0 - half), min(width, i0 + half + 1)):
            line[i] += weight * source[i - i0 + half]


@compiled
def slopes_into(
    window: NDArray[np.float64], along_x: NDArray[np.float64], along_y: NDArray[np.float64]
) -> None:
    """Write how a window's values change when what it shows moves by a pixel in x, and in y."""
    height, width = window.shape
    along_x[:] = 0.0
    along_y[:] = 0.0
    for j in range(1, height - 1):
        for i in range(1, width - 1):
            along_x[j, i] = 0.5 * (window[j, i - 1] - window[j, i + 1])
            along_y[j, i] = 0.5 * (window[j - 1, i] - window[j + 1, i])


@compiled
def cut_into(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    bad: NDArray[np.bool_],
    x0: int,
    y0: int,
    data: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> int:
    """Copy a window of an image and its inverse variance, 0 on bad pixels; return how many are good."""
    ny, nx = image.shape
    number = 0
    for j in range(data.shape[0]):
        for i in range(data.shape[1]):
            y, x = y0 + j, x0 + i
            data[j, i], weight[j, i] = 0.0, 0.0
            if 0 <= y < ny and 0 <= x < nx and not bad[y, x]:
                value, noise = image[y, x], variance[y, x]
                if math.isfinite(value) and noise > 0.0 and math.isfinite(noise):
                    data[j, i], weight[j, i] = value, 1.0 / noise
                    number += 1
    return number


@compiled
def normal_of(
    design: NDArray[np.float64],
    left: NDArray[np.float64],
    weight: NDArray[np.float64],
    normal: NDArray[np.float64],
    right: NDArray[np.float64],
) -> float:
    """Fill the normal equations of columns ``design`` (n, height, width) and residuals; return chi^2."""
    n = design.shape[0]
    normal[:] = 0.0
    right[:] = 0.0
    chi2 = 0.0
    height, width = left.shape
    for j in range(height):
        for i in range(width):
            w = weight[j, i]
            if w == 0.0:
                continue
            value = left[j, i]
            chi2 += w * value * value
            for a in range(n):
                part = w * design[a, j, i]
                right[a] += part * value
                for b in range(a + 1):
                    normal[a, b] += part * design[b, j, i]
    for a in range(n):
        for b in range(a):
            normal[b, a] = normal[a, b]
    return chi2


@compiled
def single_chi2(data: NDArray[np.float64], weight: NDArray[np.float64], window: NDArray[np.float64]) -> float:
    """Chi^2 that is left when the best multiple of a model is taken off."""
    pp, pd, dd = 0.0, 0.0, 0.0
    for j in range(data.shape[0]):
        for i in range(data.shape[1]):
            w, p, d = weight[j, i], window[j, i], data[j, i]
            pp += w * p * p
            pd += w * p * d
            dd += w * d * d
    return dd - pd * pd / pp if pp > 0.0 else dd
