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


def psf_weight(kernel: NDArray[np.float64]) -> float:
    """Return the variance (pixel^2) of the round Gaussian under which shapes are measured: half the light."""
    return 4.0 * float(np.sum(np.sort(kernel.ravel())[::-1].cumsum() < 0.5)) / math.pi / (2 * math.log(2))


def shapes(
    subtraction: Subtraction,
    kernel: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    sign: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Second moments xx, yy, xy (pixel^2) of the sources, (n, 3), and of the PSF, (3,)."""
    middle, weight = np.array([float(kernel.shape[0] // 2)]), psf_weight(kernel)
    blank = np.zeros(kernel.shape, bool)
    point = moments(kernel.astype(np.float32), blank, middle, middle, np.ones(1), weight)[0]
    return moments(subtraction.difference, subtraction.bad, x, y, sign, weight), point


def axes(
    shape: NDArray[np.float64], point: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the variances along both axes over the PSF's, (n,) each, and the major axis' angle.

    The angle is in radians from x towards y.
    """
    area = math.sqrt(max(float(point[0] * point[1] - point[2] ** 2), 1e-6))
    mean, half = (shape[:, 0] + shape[:, 1]) / 2, (shape[:, 0] - shape[:, 1]) / 2
    root = np.hypot(half, shape[:, 2])
    return (mean + root) / area, (mean - root) / area, 0.5 * np.arctan2(shape[:, 2], half)


def sizes(
    major: NDArray[np.float64], minor: NDArray[np.float64], area: float, snr: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the excess of the mean width over the PSF's, and a first guess of the trail length in pixels.

    The excess has its noise (10 / snr) taken off towards zero, so that faint points stay points. A trail
    of length L through a PSF of variance v (``area``) has the variance v + L^2 / 12 along it.
    """
    major, minor = (np.sqrt(np.maximum(np.nan_to_num(axis, nan=1.0), 0.0)) - 1.0 for axis in (major, minor))
    noise = 10.0 / np.maximum(snr, 1.0)
    mean = np.sqrt((1.0 + major) * (1.0 + minor)) - 1.0
    excess = np.sign(mean) * np.maximum(np.abs(mean) - noise, 0.0)
    longer = major - np.maximum(minor, 0.0) > np.maximum(noise, 0.1)
    stretch = np.where(longer, (1.0 + major) ** 2 - 1.0, 0.0)
    return excess.astype(np.float32), np.sqrt(12.0 * stretch * area)


def sharpness(
    subtraction: Subtraction,
    flux: NDArray[np.float64],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    sign: NDArray[np.float64],
    kernel: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return the brightest of the 3 x 3 central pixels over what the PSF puts into its peak.

    4.5 sigma of that pixel are taken off first, so that noise alone makes no source sharp; 0 where none of
    the pixels is good.
    """
    expected = np.maximum(float(kernel.max()) * np.abs(np.nan_to_num(flux)), 1e-30)
    sharp = np.zeros(i.size)
    ny, nx = subtraction.bad.shape
    for b in (-1, 0, 1):
        for a in (-1, 0, 1):
            y, x = np.clip(j + b, 0, ny - 1), np.clip(i + a, 0, nx - 1)
            good = ~subtraction.bad[y, x]
            excess = sign * subtraction.difference[y, x] - 4.5 * np.sqrt(subtraction.variance[y, x])
            sharp = np.maximum(sharp, np.where(good, excess / expected, 0.0))
    return sharp.astype(np.float32)
