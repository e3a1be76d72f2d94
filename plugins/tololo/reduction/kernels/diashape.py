"""Shapes of sources in a difference image: lobes of the other sign, second moments, sharpness."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.subtraction import Subtraction


@compiled
def opposite_lobe(
    score: NDArray[np.float32],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    sign: NDArray[np.float64],
    radius: float,
) -> NDArray[np.float64]:
    """Find the strongest score of the other sign around each source: its size, x and y; (n, 3)."""
    ny, nx = score.shape
    reach = math.ceil(radius)
    out = np.zeros((i.size, 3))
    for s in range(i.size):
        out[s, 1], out[s, 2] = i[s], j[s]
        for y in range(max(0, j[s] - reach), min(ny, j[s] + reach + 1)):
            for x in range(max(0, i[s] - reach), min(nx, i[s] + reach + 1)):
                value = -sign[s] * score[y, x]
                if value > out[s, 0] and (x - i[s]) ** 2 + (y - j[s]) ** 2 <= radius * radius:
                    out[s, 0], out[s, 1], out[s, 2] = value, x, y
    return out


@compiled
def moments(
    image: NDArray[np.float32],
    bad: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    sign: NDArray[np.float64],
    weight: float,
) -> NDArray[np.float64]:
    """Second moments xx, yy, xy (pixel^2) of sources under a round Gaussian of variance ``weight``; (n, 3).

    For a Gaussian source with the covariance C the moments are (1 / C + 1 / W)^-1, from which C is returned;
    NaN where the sum of the light is not positive or the shape is wider than the weight can tell.
    """
    ny, nx = image.shape
    reach = math.ceil(2.5 * math.sqrt(weight))
    out = np.full((x.size, 3), np.nan)
    for s in range(x.size):
        if not (math.isfinite(x[s]) and math.isfinite(y[s])):
            continue
        ci, cj = round(x[s]), round(y[s])
        total, xx, yy, xy = 0.0, 0.0, 0.0, 0.0
        for j in range(max(0, cj - reach), min(ny, cj + reach + 1)):
            for i in range(max(0, ci - reach), min(nx, ci + reach + 1)):
                dx, dy = i - x[s], j - y[s]
                if bad[j, i] or not math.isfinite(image[j, i]):
                    continue
                value = sign[s] * image[j, i] * math.exp(-0.5 * (dx * dx + dy * dy) / weight)
                total += value
                xx += value * dx * dx
                yy += value * dy * dy
                xy += value * dx * dy
        if total <= 0.0:
            continue
        xx, yy, xy = xx / total, yy / total, xy / total
        det = xx * yy - xy * xy
        if det <= 0.0 or xx <= 0.0:
            out[s] = 0.0
            continue
        a, b, c = yy / det - 1.0 / weight, xx / det - 1.0 / weight, -xy / det
        det = a * b - c * c
        if a > 0.0 and det > 0.0:
            out[s, 0], out[s, 1], out[s, 2] = b / det, a / det, -c / det
    return out


def shapes(
    subtraction: Subtraction,
    kernel: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    sign: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Variances of the sources along both axes over that of the PSF, and the PSF's (pixel^2); (n, 3)."""
    half = kernel.shape[0] // 2
    weight = 4.0 * float(np.sum(np.sort(kernel.ravel())[::-1].cumsum() < 0.5)) / math.pi / (2 * math.log(2))
    middle = np.array([float(half)])
    point = moments(
        kernel.astype(np.float32), np.zeros(kernel.shape, bool), middle, middle, np.ones(1), weight
    )
    area = math.sqrt(max(point[0, 0] * point[0, 1] - point[0, 2] ** 2, 1e-6))
    found = moments(subtraction.difference, subtraction.bad, x, y, sign, weight)
    mean = (found[:, 0] + found[:, 1]) / 2
    root = np.hypot((found[:, 0] - found[:, 1]) / 2, found[:, 2])
    return np.column_stack([(mean + root) / area, (mean - root) / area, np.full(x.size, area)])


def sizes(
    shape: NDArray[np.float64], snr: NDArray[np.float64], pixel_scale: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the excess of the mean width over the PSF's, and the trail length in arcsec.

    The excess has its noise (10 / snr) taken off towards zero, so that faint points stay points. A trail
    of length L through a PSF of variance v has the variance v + L^2 / 12 along it.
    """
    major, minor = (np.sqrt(np.maximum(np.nan_to_num(shape[:, k], nan=1.0), 0.0)) - 1.0 for k in (0, 1))
    noise = 10.0 / np.maximum(snr, 1.0)
    mean = np.sqrt((1.0 + major) * (1.0 + minor)) - 1.0
    excess = np.sign(mean) * np.maximum(np.abs(mean) - noise, 0.0)
    stretch = np.where(major > np.maximum(noise, 0.1), (1.0 + major) ** 2 - 1.0, 0.0)
    trail = pixel_scale * np.sqrt(12.0 * stretch * shape[:, 2])
    return excess.astype(np.float32), trail.astype(np.float32)


def is_sharp(
    subtraction: Subtraction,
    flux: NDArray[np.float64],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    sign: NDArray[np.float64],
    kernel: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Say where the brightest of the 3 x 3 central pixels exceeds what the PSF puts into its peak.

    By 4.5 sigma of that pixel, and by 20 % of the expected value for the error of the PSF and its sub-pixel
    shift.
    """
    peak = float(kernel.max())
    expected = 1.2 * peak * np.abs(np.nan_to_num(flux))
    sharp = np.zeros(i.size, np.bool_)
    ny, nx = subtraction.bad.shape
    for b in (-1, 0, 1):
        for a in (-1, 0, 1):
            y, x = np.clip(j + b, 0, ny - 1), np.clip(i + a, 0, nx - 1)
            excess = sign * subtraction.difference[y, x] - expected
            sharp |= ~subtraction.bad[y, x] & (excess > 4.5 * np.sqrt(subtraction.variance[y, x]))
    return sharp
