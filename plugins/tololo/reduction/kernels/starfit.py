"""The fit of stars, one at a time with all others subtracted, on plain arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled, compiled_fast
from tololo.reduction.kernels.planes import Float32Image
from tololo.reduction.kernels.stamps import Stamps, add_light, corner_of, stamp_at, weigh_into

EDGE, MASKED, FAILED, NOT_CENTRED, BLENDED = 1, 2, 4, 8, 16
"""Bits of ``flags``: the stamp reaches over the image's edge; less than 0.9 of the star's light is on good
pixels; no flux could be fitted; the position ran away and was put back; a neighbour within the stamp was
fitted along."""
MAX_STEP, MAX_MOVE = 0.5, 1.5
MIN_SNR_TO_CENTRE = 2.0
SETTLED = 5e-3
"""Standard errors; a star that moves less, or whose flux changes less, stands still."""
SMALL_STEP, SMALL_CHANGE = 5e-4, 2e-5
"""Pixels, and part of the flux; less than that is standing still, too, be a star ever so bright."""
PATIENCE = 3
"""A star that has run away so often stays where it was found."""
STEPS = 3
"""Of a star before the next one's turn, while its pixels are at hand."""


@compiled
def prepare(
    residual: Float32Image,
    noise: Float32Image,
    masked: NDArray[np.bool_],
    coefficients: Stamps,
    frame: NDArray[np.float64],
    place: NDArray[np.float64],
    corner: NDArray[np.int64],
    flux: NDArray[np.float64],
    stamps: Stamps,
    weights: Stamps,
    flags: NDArray[np.int32],
) -> None:
    """Fill corner, stamp and weights of new stars, and subtract them; those without good pixels fail."""
    size = stamps.shape[1]
    work = np.empty((2, size, size), np.float32)
    for n in range(flux.size):
        x0, y0 = corner_of(place[n, 0], place[n, 1], size)
        corner[n, 0], corner[n, 1] = x0, y0
        stamp_at(coefficients, frame, place[n, 0], place[n, 1], x0, y0, work, stamps[n])
        if weigh_into(noise, masked, stamps[n], x0, y0, weights[n])[0] == 0.0:
            flags[n] |= FAILED
            flux[n] = 0.0
        if flux[n] != 0.0:
            add_light(residual, stamps[n], x0, y0, -flux[n])


@compiled_fast
def sums_into(
    residual: Float32Image,
    stamp: NDArray[np.float32],
    weight: NDArray[np.float32],
    x0: int,
    y0: int,
    flux: float,
    sums: NDArray[np.float64],
) -> None:
    """Fill weighted sums PP, PX, PY, XX, XY, YY, PD, XD, YD of stamp, its gradients and the star's light."""
    size = stamp.shape[0]
    own, zero, half = np.float32(flux), np.float32(0.0), np.float32(0.5)
    low, high = max(1, -x0), min(size - 1, residual.shape[1] - x0)
    sums[:] = 0.0
    if high <= low:
        return
    for j in range(max(1, -y0), min(size - 1, residual.shape[0] - y0)):
        here, left, right = stamp[j, low:high], stamp[j, low - 1 : high - 1], stamp[j, low + 1 : high + 1]
        down, up = stamp[j - 1, low:high], stamp[j + 1, low:high]
        line, data = weight[j, low:high], residual[y0 + j, x0 + low : x0 + high]
        pp, px, py, xx, xy, yy, pd, xd, yd = zero, zero, zero, zero, zero, zero, zero, zero, zero
        for i in range(high - low):
            p = here[i]
            gx, gy = half * (left[i] - right[i]), half * (down[i] - up[i])
            d = data[i] + own * p
            wp, wx, wy = line[i] * p, line[i] * gx, line[i] * gy
            pp += wp * p
            px += wp * gx
            py += wp * gy
            xx += wx * gx
            xy += wx * gy
            yy += wy * gy
            pd += wp * d
            xd += wx * d
            yd += wy * d
        sums[0] += pp
        sums[1] += px
        sums[2] += py
        sums[3] += xx
        sums[4] += xy
        sums[5] += yy
        sums[6] += pd
        sums[7] += xd
        sums[8] += yd


@compiled
def moved_by(change: float, error: float, small: float) -> float:
    """Return a change in standard errors, or less where it is small anyway."""
    return min(abs(change) / error, SETTLED * abs(change) / small) if small > 0.0 else abs(change) / error


@compiled
def fit_star(
    residual: Float32Image,
    noise: Float32Image,
    masked: NDArray[np.bool_],
    coefficients: Stamps,
    frame: NDArray[np.float64],
    start: NDArray[np.float64],
    corner: NDArray[np.int64],
    stamp: NDArray[np.float32],
    weight: NDArray[np.float32],
    values: NDArray[np.float64],
    centre: bool,
    work: Stamps,
    sums: NDArray[np.float64],
) -> int:
    """Fit one star in a few steps, all others subtracted; return its flags.

    ``values`` is x, y, flux, and receives how far the last step, and all of them together, have moved it.
    """
    size = stamp.shape[0]
    height, width = residual.shape
    flags, values[4] = 0, 0.0
    for _ in range(STEPS):
        x, y, flux = values[0], values[1], values[2]
        sums_into(residual, stamp, weight, corner[0], corner[1], flux, sums)
        pp, px, py, xx, xy, yy, pd, xd, yd = sums
        if pp <= 0.0:
            add_light(residual, stamp, corner[0], corner[1], flux)
            values[2], values[3] = 0.0, 0.0
            return flags | FAILED
        new, error = pd / pp, 1.0 / math.sqrt(pp)
        values[3] = moved_by(new - flux, error, SMALL_CHANGE * abs(new))
        # What is left of the gradients once the flux has taken its share.
        xx, yy, xy = xx - px * px / pp, yy - py * py / pp, xy - px * py / pp
        det = xx * yy - xy * xy
        change = new - flux
        if centre and det > 0.0 and abs(new) > MIN_SNR_TO_CENTRE * error:
            rx, ry = xd - px * new, yd - py * new
            dx = min(MAX_STEP, max(-MAX_STEP, (yy * rx - xy * ry) / det / new))
            dy = min(MAX_STEP, max(-MAX_STEP, (xx * ry - xy * rx) / det / new))
            values[3] = max(values[3], moved_by(dx, 1.0 / (math.sqrt(xx) * abs(new)), SMALL_STEP))
            values[3] = max(values[3], moved_by(dy, 1.0 / (math.sqrt(yy) * abs(new)), SMALL_STEP))
            if values[3] > SETTLED:
                x, y = x + dx, y + dy
                away = math.hypot(x - start[0], y - start[1]) > MAX_MOVE
                if away or x < -0.5 or y < -0.5 or x > width - 0.5 or y > height - 0.5:
                    x, y = start[0], start[1]
                    flags |= NOT_CENTRED
                add_light(residual, stamp, corner[0], corner[1], flux)
                middle_x, middle_y = corner[0] + size // 2, corner[1] + size // 2
                far = abs(x - middle_x) > 0.75 or abs(y - middle_y) > 0.75
                if far:
                    corner[0], corner[1] = corner_of(x, y, size)
                stamp_at(coefficients, frame, x, y, corner[0], corner[1], work, stamp)
                if far:
                    weigh_into(noise, masked, stamp, corner[0], corner[1], weight)
                change = new
        add_light(residual, stamp, corner[0], corner[1], -change)
        values[0], values[1], values[2] = x, y, new
        values[4] += values[3]
        if values[3] <= SETTLED:
            break
    return flags


@compiled
def fit_sweeps(
    residual: Float32Image,
    noise: Float32Image,
    masked: NDArray[np.bool_],
    coefficients: Stamps,
    frame: NDArray[np.float64],
    start: NDArray[np.float64],
    corner: NDArray[np.int64],
    stamps: Stamps,
    weights: Stamps,
    places: NDArray[np.float64],
    flags: NDArray[np.int32],
    strayed: NDArray[np.int8],
    order: NDArray[np.int64],
    due: NDArray[np.bool_],
    first: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    overlap: NDArray[np.float64],
    sweeps: int,
    centre: bool,
) -> None:
    """Fit the stars that are due in turn, each with all others subtracted, until none is.

    One star at a time, over and over, is the Gauss-Seidel solution of the simultaneous fit: where stars
    overlap it converges to the same least squares. A star that moves makes those neighbours due that feel
    it: ``neighbours[first[n] : first[n + 1]]``, as far as ``overlap`` says. ``places`` is (n, 3): x, y, flux.
    """
    size = stamps.shape[1]
    work, sums, values = np.empty((2, size, size), np.float32), np.empty(9), np.empty(5)
    for _ in range(sweeps):
        fitted = 0
        for n in order:
            if not due[n]:
                continue
            due[n] = False
            if flags[n] & FAILED:
                continue
            fitted += 1
            values[:3] = places[n]
            found = fit_star(
                residual, noise, masked, coefficients, frame, start[n], corner[n], stamps[n], weights[n],
                values, centre and strayed[n] < PATIENCE, work, sums,
            )  # fmt: skip
            strayed[n] += np.int8(found & NOT_CENTRED != 0)
            flags[n] |= found
            places[n] = values[:3]
            due[n] = values[3] > SETTLED
            for k in range(first[n], first[n + 1]):
                if values[4] * overlap[k] > SETTLED:
                    due[neighbours[k]] = True
        if fitted == 0:
            break
