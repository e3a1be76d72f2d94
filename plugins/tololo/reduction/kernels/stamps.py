"""A star's light on the pixels around it: its stamp, its weights, and how both go into an image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled, compiled_fast
from tololo.reduction.kernels.interpolation import HALF_WIDTH, sinc_weights
from tololo.reduction.kernels.planes import Float32Image
from tololo.reduction.kernels.psf import polynomial_terms

MIN_PIXELS = 5

type Stamps = NDArray[np.float32]
"""(n, size, size)."""


@compiled
def stamp_at(
    coefficients: Stamps,
    frame: NDArray[np.float64],
    x: float,
    y: float,
    x0: int,
    y0: int,
    work: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write a star of unit flux at (x, y) into ``out``, whose corner is the pixel (x0, y0).

    What `tololo.reduction.kernels.psf.stamp_into` does, in single precision and along whole rows. ``work``
    is (2, size, size).
    """
    half = out.shape[0] // 2
    terms = np.empty(coefficients.shape[0])
    polynomial_terms((x - frame[0]) / frame[2], (y - frame[1]) / frame[3], terms)
    combine_into(coefficients, terms, work[0])
    move_into(work[0], x - x0 - half, y - y0 - half, out)


@compiled_fast
def combine_into(coefficients: Stamps, terms: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    """Write the sum of the terms of a PSF, of unit sum, into ``out``."""
    flat, total = out.reshape(-1), np.float32(0.0)
    flat[:] = np.float32(0.0)
    for k in range(terms.size):
        source, factor = coefficients[k].reshape(-1), np.float32(terms[k])
        for i in range(flat.size):
            flat[i] += factor * source[i]
    for i in range(flat.size):
        total += flat[i]
    scale = np.float32(1.0 / total)
    for i in range(flat.size):
        flat[i] *= scale


@compiled_fast
def move_into(image: NDArray[np.float32], dx: float, dy: float, out: NDArray[np.float32]) -> None:
    """Move an image by (dx, dy) pixels, at most 1, as `shift_into` does, the whole of it at once.

    With zeros beside the rows and above and below them, each weight goes with one shift of one long row.
    """
    size = image.shape[0]
    wide = size + 2 * HALF_WIDTH
    wx, wy = np.empty(2 * HALF_WIDTH + 1), np.empty(2 * HALF_WIDTH + 1)
    sinc_weights(-dx, wx)
    sinc_weights(-dy, wy)
    padded = np.zeros(size * wide + 2 * HALF_WIDTH, np.float32)
    for j in range(size):
        first = HALF_WIDTH + j * wide
        padded[first : first + size] = image[j]
    along = np.zeros((size + 2 * HALF_WIDTH) * wide, np.float32)
    target = along[HALF_WIDTH * wide : (HALF_WIDTH + size) * wide]
    for k in range(wx.size):
        w, source = np.float32(wx[k]), padded[k : k + target.size]
        for i in range(target.size):
            target[i] += w * source[i]
    moved = np.zeros(size * wide, np.float32)
    for k in range(wy.size):
        w, source = np.float32(wy[k]), along[k * wide : k * wide + moved.size]
        for i in range(moved.size):
            moved[i] += w * source[i]
    for j in range(size):
        out[j] = moved[j * wide : j * wide + size]


@compiled_fast
def add_light(residual: Float32Image, stamp: NDArray[np.float32], x0: int, y0: int, flux: float) -> None:
    """Add a star's light as far as it falls on the image."""
    size = stamp.shape[0]
    low, high = max(0, -x0), min(size, residual.shape[1] - x0)
    if high <= low:
        return
    factor = np.float32(flux)
    for j in range(max(0, -y0), min(size, residual.shape[0] - y0)):
        target, source = residual[y0 + j, x0 + low : x0 + high], stamp[j, low:high]
        for i in range(high - low):
            target[i] += factor * source[i]


@compiled_fast
def variance_line(
    noise: Float32Image, masked: NDArray[np.bool_], stamp: NDArray[np.float32], x0: int, y0: int
) -> tuple[float, float, float, float]:
    """Fit variance = a + b stamp (b >= 0) to a stamp's good pixels.

    A variance plane that holds the photon noise of the very pixels it weighs makes fluxes too low by about
    one count per pixel of the PSF's area. The straight line takes the pixels' own noise out of their weights.

    Returns
    -------
    number, light : `float`
        Of good pixels, and the part of the star's light on them.
    a, b : `float`
    """
    height, width = noise.shape
    size = stamp.shape[0]
    low, high = max(0, -x0), min(size, width - x0)
    n, s, ss, v, sv = 0.0, 0.0, 0.0, 0.0, 0.0
    lowest = np.float32(3e38)
    if high > low:
        for j in range(max(0, -y0), min(size, height - y0)):
            line, hidden = noise[y0 + j, x0 + low : x0 + high], masked[y0 + j, x0 + low : x0 + high]
            shape = stamp[j, low:high]
            zero = np.float32(0.0)
            row_n, row_s, row_ss, row_v, row_sv = zero, zero, zero, zero, zero
            for i in range(high - low):
                good = zero if hidden[i] else np.float32(1.0)
                p, value = good * shape[i], good * line[i]
                row_n += good
                row_s += p
                row_ss += p * p
                row_v += value
                row_sv += p * value
                lowest = min(lowest, np.float32(3e38) if hidden[i] else line[i])
            n, s, ss = n + float(row_n), s + float(row_s), ss + float(row_ss)
            v, sv = v + float(row_v), sv + float(row_sv)
    if n < MIN_PIXELS:
        return n, s, 0.0, 0.0
    det = n * ss - s * s
    b = max(0.0, (n * sv - s * v) / det) if det > 0 else 0.0
    return n, s, max(float(lowest), (v - b * s) / n), b


@compiled_fast
def weigh_into(
    noise: Float32Image,
    masked: NDArray[np.bool_],
    stamp: NDArray[np.float32],
    x0: int,
    y0: int,
    weight: NDArray[np.float32],
) -> tuple[float, float]:
    """Fill the inverse of the smoothed variance, 0 on bad pixels.

    Return the number of good pixels, 0 where they are too few, and the part of the light on them.
    """
    height, width = noise.shape
    size = stamp.shape[0]
    number, light, a, b = variance_line(noise, masked, stamp, x0, y0)
    weight[:] = np.float32(0.0)
    low, high = max(0, -x0), min(size, width - x0)
    if number < MIN_PIXELS or not a > 0.0:
        return 0.0, light
    level, slope = np.float32(a), np.float32(b)
    for j in range(max(0, -y0), min(size, height - y0)):
        hidden, shape, target = masked[y0 + j, x0 + low : x0 + high], stamp[j, low:high], weight[j, low:high]
        for i in range(high - low):
            value = np.float32(1.0) / (level + slope * max(np.float32(0.0), shape[i]))
            target[i] = np.float32(0.0) if hidden[i] else value
    return number, light


@compiled
def corner_of(x: float, y: float, size: int) -> tuple[int, int]:
    """Return the pixel (x0, y0) of the corner of the stamp of a star at (x, y)."""
    return math.floor(x + 0.5) - size // 2, math.floor(y + 0.5) - size // 2


@compiled_fast
def add_model_error(
    variance: Float32Image,
    stamps: Stamps,
    corner: NDArray[np.int64],
    flux: NDArray[np.float64],
    model_error: float,
) -> None:
    """Add the square of a part of each star's light to the variance."""
    height, width = variance.shape
    size = stamps.shape[1]
    for n in range(flux.size):
        x0, y0 = corner[n]
        low, high = max(0, -x0), min(size, width - x0)
        if high <= low:
            continue
        factor = np.float32(model_error * flux[n])
        for j in range(max(0, -y0), min(size, height - y0)):
            target, source = variance[y0 + j, x0 + low : x0 + high], stamps[n, j, low:high]
            for i in range(high - low):
                light = factor * source[i]
                target[i] += light * light
