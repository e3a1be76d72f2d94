"""What is left at each star once all stars are subtracted: errors, chi2, and how far it is from a point."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled, compiled_fast
from tololo.reduction.kernels.planes import Float32Image
from tololo.reduction.kernels.psf import matched_moments
from tololo.reduction.kernels.stamps import MIN_PIXELS, Stamps, corner_of, stamp_at, weigh_into
from tololo.reduction.kernels.starfit import EDGE, FAILED, MASKED

MIN_GOOD_LIGHT, FULL_LIGHT = 0.3, 0.9


@compiled
def measure_stars(
    residual: Float32Image,
    noise: Float32Image,
    masked: NDArray[np.bool_],
    coefficients: Stamps,
    frame: NDArray[np.float64],
    places: NDArray[np.float64],
    point: NDArray[np.float64],
    flags: NDArray[np.int32],
    table: NDArray[np.float64],
) -> None:
    """Measure each star, all others subtracted.

    ``places`` is (n, 3): x, y, flux; ``point`` the PSF's size there (from adaptive moments, pixels). A row
    of ``table`` receives x and y error (of this star alone), flux error, chi2 per degree of freedom, good
    fraction, extendedness and its error, size relative to the PSF's, correlation of the errors in x and y.
    """
    height, width = residual.shape
    size = coefficients.shape[1]
    work = np.empty((2, size, size), np.float32)
    stamp, weight = np.empty((size, size), np.float32), np.empty((size, size), np.float32)
    broad, light = work[0], work[1]
    sums, shape = np.empty(14), np.empty(5)
    for n in range(places.shape[0]):
        x, y, flux = places[n]
        x0, y0 = corner_of(x, y, size)
        if x0 < 0 or y0 < 0 or x0 + size > width or y0 + size > height:
            flags[n] |= EDGE
        stamp_at(coefficients, frame, x, y, x0, y0, work, stamp)
        number, on_good = weigh_into(noise, masked, stamp, x0, y0, weight)
        broaden(stamp, light, broad)
        measure_into(residual, noise, stamp, broad, weight, x0, y0, flux, light, sums)
        pp, pg, ppv, gpv, ggv, pd, gd = sums[:7]
        out = table[n]
        if not errors_into(sums, flux, on_good, number, n, flags, out):
            continue
        if pd > 0.0:
            ratio = pg / pp
            out[5] = gd / pd - ratio
            out[6] = math.sqrt(max(0.0, ggv - 2 * ratio * gpv + ratio * ratio * ppv)) / pd
            if matched_moments(light, shape):
                out[7] = (shape[2] * shape[3] - shape[4] ** 2) ** 0.25 / point[n]


@compiled
def errors_into(
    sums: NDArray[np.float64],
    flux: float,
    on_good: float,
    number: float,
    n: int,
    flags: NDArray[np.int32],
    out: NDArray[np.float64],
) -> bool:
    """Fill the errors of a star, its chi2 and good fraction; say whether it could be measured."""
    pp, ppv = sums[0], sums[2]
    xx, yy, xxv, yyv, chi2, used, xy = sums[7:]
    out[:] = np.nan
    out[4] = on_good
    if on_good < FULL_LIGHT:
        flags[n] |= MASKED
    if on_good < MIN_GOOD_LIGHT or pp <= 0.0 or number < MIN_PIXELS:
        flags[n] |= FAILED
        return False
    if flux != 0.0 and xx > 0 and yy > 0:
        out[0] = math.sqrt(xxv) / xx / abs(flux)
        out[1] = math.sqrt(yyv) / yy / abs(flux)
        # The inverse of the normal equations has the sign changed off its diagonal.
        out[8] = -xy / math.sqrt(xx * yy)
    out[2] = math.sqrt(ppv) / pp
    out[3] = chi2 / max(1.0, used - 3)
    return True


@compiled
def measure_points(
    residual: Float32Image,
    noise: Float32Image,
    stamps: Stamps,
    weights: Stamps,
    corner: NDArray[np.int64],
    flux: NDArray[np.float64],
    flags: NDArray[np.int32],
    table: NDArray[np.float64],
) -> None:
    """Measure stars as `measure_stars` does, with the stamps and weights of their fit, and without shapes."""
    height, width = residual.shape
    size = stamps.shape[1]
    light, sums = np.empty((size, size), np.float32), np.empty(14)
    for n in range(flux.size):
        x0, y0 = corner[n]
        if x0 < 0 or y0 < 0 or x0 + size > width or y0 + size > height:
            flags[n] |= EDGE
        number, on_good = good_light(stamps[n], weights[n])
        measure_into(residual, noise, stamps[n], stamps[n], weights[n], x0, y0, flux[n], light, sums)
        errors_into(sums, flux[n], on_good, number, n, flags, table[n])


@compiled_fast
def good_light(stamp: NDArray[np.float32], weight: NDArray[np.float32]) -> tuple[float, float]:
    """Return the number of pixels with weight, and the part of the star's light on them."""
    number, light = np.float32(0.0), np.float32(0.0)
    shape, share = stamp.reshape(-1), weight.reshape(-1)
    for i in range(shape.size):
        good = share[i] > np.float32(0.0)
        number += np.float32(1.0) if good else np.float32(0.0)
        light += shape[i] if good else np.float32(0.0)
    return float(number), float(light)


@compiled_fast
def measure_into(
    residual: Float32Image,
    noise: Float32Image,
    stamp: NDArray[np.float32],
    broad: NDArray[np.float32],
    weight: NDArray[np.float32],
    x0: int,
    y0: int,
    flux: float,
    light: NDArray[np.float32],
    sums: NDArray[np.float64],
) -> None:
    """Fill weighted sums of stamp, broadened stamp, gradients and pixels, and the star's own light.

    The sums are PP, PG, PPV, GPV, GGV, PD, GD, XX, YY, XXV, YYV, chi2, pixels, XY (V: times the weight and
    the noise of the pixel); ``light`` is that of the model on bad pixels.
    """
    size = stamp.shape[0]
    own, zero, half = np.float32(flux), np.float32(0.0), np.float32(0.5)
    sums[:] = 0.0
    for j in range(size):
        for i in range(size):
            light[j, i] = own * stamp[j, i]
    low, high = max(1, -x0), min(size - 1, residual.shape[1] - x0)
    if high <= low:
        return
    for j in range(max(1, -y0), min(size - 1, residual.shape[0] - y0)):
        here, left, right = stamp[j, low:high], stamp[j, low - 1 : high - 1], stamp[j, low + 1 : high + 1]
        down, up, wide = stamp[j - 1, low:high], stamp[j + 1, low:high], broad[j, low:high]
        data, spread = residual[y0 + j, x0 + low : x0 + high], noise[y0 + j, x0 + low : x0 + high]
        line, target = weight[j, low:high], light[j, low:high]
        pp, pg, ppv, gpv, ggv, pd, gd = zero, zero, zero, zero, zero, zero, zero
        xx, yy, xxv, yyv, chi2, used, xy = zero, zero, zero, zero, zero, zero, zero
        for i in range(high - low):
            p, q, w = here[i], wide[i], line[i]
            gx, gy = half * (left[i] - right[i]), half * (down[i] - up[i])
            rest = data[i] if w > zero else zero
            d = rest + own * p
            target[i] = d
            wv = w * w * spread[i]
            pp += w * p * p
            pg += w * p * q
            ppv += wv * p * p
            gpv += wv * p * q
            ggv += wv * q * q
            pd += w * p * d
            gd += w * q * d
            xx += w * gx * gx
            yy += w * gy * gy
            xy += w * gx * gy
            xxv += wv * gx * gx
            yyv += wv * gy * gy
            chi2 += w * rest * rest
            used += np.float32(1.0) if w > zero else zero
        sums[0] += pp
        sums[1] += pg
        sums[2] += ppv
        sums[3] += gpv
        sums[4] += ggv
        sums[5] += pd
        sums[6] += gd
        sums[7] += xx
        sums[8] += yy
        sums[9] += xxv
        sums[10] += yyv
        sums[11] += chi2
        sums[12] += used
        sums[13] += xy


@compiled_fast
def broaden(stamp: NDArray[np.float32], work: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Convolve a stamp with (1/4, 1/2, 1/4) in x and y: a Gaussian of about 0.7 pixel sigma."""
    size = stamp.shape[0]
    half, quarter = np.float32(0.5), np.float32(0.25)
    for j in range(size):
        source, target = stamp[j], work[j]
        target[0] = half * source[0] + quarter * source[1]
        target[size - 1] = half * source[size - 1] + quarter * source[size - 2]
        for i in range(1, size - 1):
            target[i] = half * source[i] + quarter * (source[i - 1] + source[i + 1])
    for j in range(size):
        down, here, up = work[max(0, j - 1)], work[j], work[min(size - 1, j + 1)]
        target = out[j]
        for i in range(size):
            target[i] = half * here[i] + quarter * (down[i] + up[i])
