"""The fit of stars, one at a time with all others subtracted, on plain arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.planes import Float32Image
from tololo.reduction.kernels.psf import adaptive_moments, stamp_into

EDGE, MASKED, FAILED, NOT_CENTRED, BLENDED = 1, 2, 4, 8, 16
"""Bits of ``flags``: the stamp reaches over the image's edge; less than 0.9 of the star's light is on good
pixels; no flux could be fitted; the position ran away and was put back; a neighbour within the stamp was
fitted along."""
MIN_GOOD_LIGHT, FULL_LIGHT = 0.3, 0.9
MIN_PIXELS = 5
MAX_STEP, MAX_MOVE = 0.5, 1.5
MIN_SNR_TO_CENTRE = 2.0


@compiled
def smooth_variance(
    noise: Float32Image,
    masked: NDArray[np.bool_],
    stamp: NDArray[np.float64],
    x0: int,
    y0: int,
    out: NDArray[np.float64],
) -> bool:
    """Fit variance = a + b stamp (b >= 0) to a stamp's good pixels; write it, 0 on bad ones, into ``out``.

    A variance plane that holds the photon noise of the very pixels it weighs makes fluxes too low by about
    one count per pixel of the PSF's area. The straight line takes the pixels' own noise out of their weights.
    """
    height, width = noise.shape
    size = stamp.shape[0]
    n, s, ss, v, sv = 0.0, 0.0, 0.0, 0.0, 0.0
    lowest = np.inf
    for j in range(size):
        for i in range(size):
            yy, xx = y0 + j, x0 + i
            if yy < 0 or xx < 0 or yy >= height or xx >= width or masked[yy, xx]:
                continue
            value = noise[yy, xx]
            n += 1.0
            s += stamp[j, i]
            ss += stamp[j, i] * stamp[j, i]
            v += value
            sv += stamp[j, i] * value
            lowest = min(lowest, value)
    out[:, :] = 0.0
    if n < MIN_PIXELS:
        return False
    det = n * ss - s * s
    b = max(0.0, (n * sv - s * v) / det) if det > 0 else 0.0
    a = max(lowest, (v - b * s) / n)
    for j in range(size):
        for i in range(size):
            yy, xx = y0 + j, x0 + i
            if yy < 0 or xx < 0 or yy >= height or xx >= width or masked[yy, xx]:
                continue
            out[j, i] = a + b * max(0.0, stamp[j, i])
    return True


@compiled
def gradient(stamp: NDArray[np.float64], j: int, i: int) -> tuple[float, float]:
    """Return what a pixel gains when the star moves by one in x and in y: minus the stamp's slope."""
    size = stamp.shape[0]
    gx = 0.5 * (stamp[j, i - 1] - stamp[j, i + 1]) if 0 < i < size - 1 else 0.0
    gy = 0.5 * (stamp[j - 1, i] - stamp[j + 1, i]) if 0 < j < size - 1 else 0.0
    return gx, gy


@compiled
def add_star(image: NDArray[np.float64], stamp: NDArray[np.float64], x0: int, y0: int, flux: float) -> None:
    """Add a star's light to an image, as far as it falls on it."""
    height, width = image.shape
    size = stamp.shape[0]
    for j in range(max(0, -y0), min(size, height - y0)):
        for i in range(max(0, -x0), min(size, width - x0)):
            image[y0 + j, x0 + i] += flux * stamp[j, i]


@compiled
def fit_stars(  # noqa: PLR0915
    residual: NDArray[np.float64],
    noise: Float32Image,
    masked: NDArray[np.bool_],
    coefficients: NDArray[np.float64],
    frame: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    order: NDArray[np.int64],
    n_position: int,
    n_total: int,
    flags: NDArray[np.int32],
) -> None:
    """Fit the stars in turn, each with all others subtracted, until the rounds are used up.

    One star at a time, over and over, is the Gauss-Seidel solution of the simultaneous fit: where stars
    overlap it converges to the same least squares. ``residual`` starts as the image and ends with all stars
    subtracted; positions move in the first ``n_position`` of ``n_total`` rounds; ``x``, ``y``, ``flux`` are
    changed in place.
    """
    size = coefficients.shape[1]
    kernel, work, stamp = np.empty((size, size)), np.empty((size, size)), np.empty((size, size))
    var = np.empty((size, size))
    start_x, start_y = x.copy(), y.copy()
    height, width = residual.shape
    normal, right = np.zeros((3, 3)), np.zeros(3)
    moved = np.ones(x.size)
    flux[:] = 0.0
    for round_ in range(n_total):
        for n in order:
            if flags[n] & FAILED or (round_ > 2 and moved[n] < 1e-5):
                continue
            x0, y0 = stamp_into(coefficients, frame, x[n], y[n], kernel, work, stamp)
            add_star(residual, stamp, x0, y0, flux[n])
            if not smooth_variance(noise, masked, stamp, x0, y0, var):
                flags[n] |= FAILED
                flux[n] = 0.0
                continue
            normal[:, :] = 0.0
            right[:] = 0.0
            for j in range(size):
                for i in range(size):
                    if var[j, i] <= 0.0:
                        continue
                    w = 1.0 / var[j, i]
                    d = residual[y0 + j, x0 + i]
                    gx, gy = gradient(stamp, j, i)
                    p = stamp[j, i]
                    normal[0, 0] += w * p * p
                    normal[0, 1] += w * p * gx
                    normal[0, 2] += w * p * gy
                    normal[1, 1] += w * gx * gx
                    normal[1, 2] += w * gx * gy
                    normal[2, 2] += w * gy * gy
                    right[0] += w * p * d
                    right[1] += w * gx * d
                    right[2] += w * gy * d
            if normal[0, 0] <= 0.0:
                flags[n] |= FAILED
                flux[n] = 0.0
                continue
            new = right[0] / normal[0, 0]
            moved[n] = abs(new - flux[n]) * math.sqrt(normal[0, 0])
            significant = abs(new) * math.sqrt(normal[0, 0]) > MIN_SNR_TO_CENTRE
            if round_ < n_position and significant:
                # The gradients' coefficients are flux times shift; the flux of the fit with the shift is
                # kept.
                a11, a12, a22 = normal[1, 1], normal[1, 2], normal[2, 2]
                a01, a02 = normal[0, 1], normal[0, 2]
                b11 = a11 - a01 * a01 / normal[0, 0]
                b12 = a12 - a01 * a02 / normal[0, 0]
                b22 = a22 - a02 * a02 / normal[0, 0]
                r1 = right[1] - a01 * new
                r2 = right[2] - a02 * new
                det = b11 * b22 - b12 * b12
                if det > 0:
                    mx = (b22 * r1 - b12 * r2) / det / new
                    my = (b11 * r2 - b12 * r1) / det / new
                    mx = min(MAX_STEP, max(-MAX_STEP, mx))
                    my = min(MAX_STEP, max(-MAX_STEP, my))
                    x[n] += mx
                    y[n] += my
                    moved[n] = max(moved[n], abs(mx), abs(my))
                    away = math.hypot(x[n] - start_x[n], y[n] - start_y[n]) > MAX_MOVE
                    if away or x[n] < -0.5 or y[n] < -0.5 or x[n] > width - 0.5 or y[n] > height - 0.5:
                        x[n], y[n] = start_x[n], start_y[n]
                        flags[n] |= NOT_CENTRED
                    x0, y0 = stamp_into(coefficients, frame, x[n], y[n], kernel, work, stamp)
            flux[n] = new
            add_star(residual, stamp, x0, y0, -flux[n])


@compiled
def measure_star(  # noqa: C901, PLR0915
    residual: NDArray[np.float64],
    noise: Float32Image,
    masked: NDArray[np.bool_],
    coefficients: NDArray[np.float64],
    frame: NDArray[np.float64],
    x: float,
    y: float,
    flux: float,
    out: NDArray[np.float64],
) -> int:
    """Measure what is left at a star, all stars subtracted but itself; return its flags.

    ``out`` receives x and y error (of this star alone), flux error, chi2 per degree of freedom, good
    fraction, extendedness and its error, FWHM relative to the PSF's.
    """
    size = coefficients.shape[1]
    kernel, work, stamp = np.empty((size, size)), np.empty((size, size)), np.empty((size, size))
    var, light, broad = np.zeros((size, size)), np.empty((size, size)), np.empty((size, size))
    good = np.zeros((size, size), dtype=np.bool_)
    height, width = residual.shape
    x0, y0 = stamp_into(coefficients, frame, x, y, kernel, work, stamp)
    flags = 0
    if x0 < 0 or y0 < 0 or x0 + size > width or y0 + size > height:
        flags |= EDGE
    smooth_variance(noise, masked, stamp, x0, y0, var)
    broaden(stamp, work, broad)
    n, on_good, chi2 = 0, 0.0, 0.0
    pp, pg, ppv, gpv, ggv = 0.0, 0.0, 0.0, 0.0, 0.0
    gd, pd = 0.0, 0.0
    xx, yy, xxv, yyv = 0.0, 0.0, 0.0, 0.0
    for j in range(size):
        for i in range(size):
            light[j, i] = 0.0
            if var[j, i] <= 0.0:
                continue
            good[j, i] = True
            w, v = 1.0 / var[j, i], noise[y0 + j, x0 + i]
            p, q = stamp[j, i], broad[j, i]
            left = residual[y0 + j, x0 + i]
            light[j, i] = left + flux * p
            gx, gy = gradient(stamp, j, i)
            n += 1
            on_good += p
            chi2 += left * left * w
            pp += w * p * p
            pg += w * p * q
            ppv += w * w * p * p * v
            gpv += w * w * p * q * v
            ggv += w * w * q * q * v
            pd += w * p * light[j, i]
            gd += w * q * light[j, i]
            xx += w * gx * gx
            yy += w * gy * gy
            xxv += w * w * gx * gx * v
            yyv += w * w * gy * gy * v
    out[:] = np.nan
    out[4] = on_good
    if on_good < FULL_LIGHT:
        flags |= MASKED
    if on_good < MIN_GOOD_LIGHT or pp <= 0.0 or n < MIN_PIXELS:
        return flags | FAILED
    if flux != 0.0 and xx > 0 and yy > 0:
        out[0] = math.sqrt(xxv) / xx / abs(flux)
        out[1] = math.sqrt(yyv) / yy / abs(flux)
    out[2] = math.sqrt(ppv) / pp
    out[3] = chi2 / max(1, n - 3)
    if pd > 0.0:
        ratio = pg / pp
        out[5] = gd / pd - ratio
        out[6] = math.sqrt(max(0.0, ggv - 2 * ratio * gpv + ratio * ratio * ppv)) / pd
        shape, reference = np.empty(5), np.empty(5)
        everywhere = np.ones((size, size), dtype=np.bool_)
        for j in range(size):
            for i in range(size):
                if not good[j, i]:
                    light[j, i] = flux * stamp[j, i]
        if adaptive_moments(light, everywhere, shape) and adaptive_moments(stamp, everywhere, reference):
            own = math.sqrt(shape[2] * shape[3] - shape[4] ** 2)
            point = math.sqrt(reference[2] * reference[3] - reference[4] ** 2)
            out[7] = math.sqrt(own / point)
    return flags


@compiled
def broaden(stamp: NDArray[np.float64], work: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Convolve a stamp with (1/4, 1/2, 1/4) in x and y: a Gaussian of about 0.7 pixel sigma."""
    size = stamp.shape[0]
    for j in range(size):
        for i in range(size):
            left = stamp[j, i - 1] if i > 0 else 0.0
            right = stamp[j, i + 1] if i < size - 1 else 0.0
            work[j, i] = 0.5 * stamp[j, i] + 0.25 * (left + right)
    for j in range(size):
        for i in range(size):
            down = work[j - 1, i] if j > 0 else 0.0
            up = work[j + 1, i] if j < size - 1 else 0.0
            out[j, i] = 0.5 * work[j, i] + 0.25 * (down + up)


@compiled
def blend_covariance(  # noqa: C901
    noise: Float32Image,
    masked: NDArray[np.bool_],
    coefficients: NDArray[np.float64],
    frame: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    n_free: int,
    errors: NDArray[np.float64],
) -> None:
    """Write flux, x and y error of star 0, with its neighbours (the other stars) fitted along.

    The square roots of the diagonal of the inverse Fisher matrix; n_free is 1 (fluxes) or 3 (fluxes and
    positions).
    """
    height, width = noise.shape
    size, n_stars = coefficients.shape[1], x.size
    stamps, corners = np.empty((n_stars, size, size)), np.empty((n_stars, 2), dtype=np.int64)
    kernel, work = np.empty((size, size)), np.empty((size, size))
    for k in range(n_stars):
        x0, y0 = stamp_into(coefficients, frame, x[k], y[k], kernel, work, stamps[k])
        corners[k, 0], corners[k, 1] = x0, y0
    fisher = np.zeros((n_free * n_stars, n_free * n_stars))
    design, which = np.zeros(n_free * n_stars), np.zeros(n_free * n_stars, dtype=np.int64)
    left, low = int(corners[:, 0].min()), int(corners[:, 1].min())
    right, high = int(corners[:, 0].max()) + size, int(corners[:, 1].max()) + size
    for yy in range(max(0, low), min(height, high)):
        for xx in range(max(0, left), min(width, right)):
            if masked[yy, xx]:
                continue
            number = 0
            for k in range(n_stars):
                i, j = xx - corners[k, 0], yy - corners[k, 1]
                if i < 0 or j < 0 or i >= size or j >= size:
                    continue
                design[number], which[number] = stamps[k, j, i], n_free * k
                number += 1
                if n_free == 3:
                    gx, gy = gradient(stamps[k], j, i)
                    design[number], which[number] = flux[k] * gx, n_free * k + 1
                    design[number + 1], which[number + 1] = flux[k] * gy, n_free * k + 2
                    number += 2
            for a in range(number):
                for b in range(number):
                    fisher[which[a], which[b]] += design[a] * design[b] / noise[yy, xx]
    scale = np.sqrt(np.diag(fisher)) + 1e-300
    for a in range(scale.size):
        for b in range(scale.size):
            fisher[a, b] /= scale[a] * scale[b]
        fisher[a, a] += 1e-9
    inverse = np.linalg.inv(fisher)
    for a in range(n_free):
        errors[a] = math.sqrt(max(0.0, inverse[a, a])) / scale[a]
