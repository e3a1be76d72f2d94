"""Fit of a trail: a source that moved during the exposure, the PSF drawn along a line."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.recfunctions import unstructured_to_structured
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.psf import PixelPsf, kernel_into
from tololo.reduction.kernels.subtraction import Subtraction
from tololo.reduction.kernels.windows import (
    ENOUGH,
    LEAST_PIXELS,
    cut_into,
    damp,
    normal_of,
    place_into,
    single_chi2,
    slopes_into,
)

TRAIL_DTYPE = np.dtype(
    [(name, "f8") for name in ("x", "y", "x_err", "y_err", "flux", "flux_err", "length", "length_err")]
    + [(name, "f8") for name in ("angle", "angle_err", "chi2", "single_chi2", "n_data")]
)
"""Pixels, and radians from x towards y; chi2 is NaN where there is no fit."""

LONGEST = 100.0
"""Pixels; what is longer is a satellite's."""

ROUNDS = 8

PIECE = 1.3
"""Distance in pixels of the PSFs that make a trail: less than the sigma of any PSF that is sampled well."""

STEP = 0.2
"""Pixels by which length and ends are changed to see what that does."""


def fit_trails(
    subtraction: Subtraction,
    noise: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    length: NDArray[np.float64],
    angle: NDArray[np.float64],
    fwhm: float,
) -> NDArray[np.void]:
    """Fit the PSF along a line to sources.

    Parameters
    ----------
    subtraction : `Subtraction`
    noise : `numpy.ndarray`, (ny, nx)
        Variance.
    x, y, flux, length, angle : `numpy.ndarray`, (n,)
        Where to start from: pixels, signed flux, radians from x towards y.
    fwhm : `float`
        Pixels.

    Returns
    -------
    fits : structured `numpy.ndarray`, (n,)
        `TRAIL_DTYPE`; chi2 is that of the trail, single_chi2 that of a point in the same pixels.
    """
    table = np.full((x.size, len(TRAIL_DTYPE.names or ())), np.nan)
    psf: PixelPsf = subtraction.psf
    if x.size:
        start = np.column_stack([x, y, flux, length, angle]).astype(np.float64)
        _fit(
            subtraction.difference, noise, subtraction.bad, psf.coefficients, psf.frame, start, float(fwhm),
            table,
        )  # fmt: skip
    return np.asarray(unstructured_to_structured(table, TRAIL_DTYPE))


@compiled
def draw_trail(
    kernel: NDArray[np.float32],
    x: float,
    y: float,
    length: float,
    angle: float,
    work: NDArray[np.float32],
    window: NDArray[np.float64],
) -> None:
    """Draw a trail of unit flux: PSFs at the middles of equal pieces of `PIECE` or less (two at least)."""
    window[:] = 0.0
    pieces = max(2, math.ceil(length / PIECE))
    for k in range(pieces):
        along = length * ((k + 0.5) / pieces - 0.5)
        place_into(
            kernel, x + along * math.cos(angle), y + along * math.sin(angle), 1.0 / pieces, work, window
        )


@compiled
def _fit(
    image: NDArray[np.float32],
    noise: NDArray[np.float32],
    bad: NDArray[np.bool_],
    coefficients: NDArray[np.float64],
    frame: NDArray[np.float64],
    start: NDArray[np.float64],
    fwhm: float,
    out: NDArray[np.float64],
) -> None:
    """Fit one source after the other; parameters x, y, flux, length, angle."""
    size = coefficients.shape[1]
    kernel, narrow = np.empty((size, size)), np.empty((size, size), np.float32)
    work = np.empty((2, size, size), np.float32)
    normal = np.empty((5, 5))
    for s in range(start.shape[0]):
        p = start[s].copy()
        p[3] = min(LONGEST, max(1.0, p[3]))
        half = math.ceil(0.75 * p[3] + 1.5 * fwhm) + 2
        side = 2 * half + 1
        data, weight, single = np.empty((side, side)), np.empty((side, side)), np.zeros((side, side))
        cx, cy = round(p[0]), round(p[1])
        number = cut_into(image, noise, bad, cx - half, cy - half, data, weight)
        if number < LEAST_PIXELS:
            continue
        kernel_into(coefficients, frame, float(cx), float(cy), kernel)
        narrow[:] = kernel.astype(np.float32)
        p[0] -= cx - half
        p[1] -= cy - half
        place_into(narrow, p[0], p[1], 1.0, work, single)
        chi2 = _improve(narrow, data, weight, p, 2.0 * (half - fwhm), work, normal)
        if not chi2 < np.inf or p[2] * start[s, 2] <= 0.0:
            continue
        damp(normal, 1e-9)
        error = np.sqrt(np.maximum(np.diag(np.linalg.inv(normal)), 0.0))
        out[s, 0], out[s, 1], out[s, 2], out[s, 3] = p[0] + cx - half, p[1] + cy - half, error[0], error[1]
        out[s, 4], out[s, 5], out[s, 6], out[s, 7] = p[2], error[2], p[3], error[3]
        out[s, 8], out[s, 9], out[s, 10], out[s, 12] = p[4], error[4], chi2, number
        out[s, 11] = single_chi2(data, weight, single)


@compiled
def _improve(
    kernel: NDArray[np.float32],
    data: NDArray[np.float64],
    weight: NDArray[np.float64],
    p: NDArray[np.float64],
    longest: float,
    work: NDArray[np.float32],
    normal: NDArray[np.float64],
) -> float:
    """Improve ``p`` by Levenberg and Marquardt's steps; fill the last normal equations; return chi^2."""
    side = data.shape[0]
    middle, reach = side // 2, 0.25 * side
    model, other, left = np.empty((side, side)), np.empty((side, side)), np.empty((side, side))
    design, fresh, right = np.empty((5, side, side)), np.empty((5, 5)), np.empty(5)
    best, damping = np.inf, 1e-3
    trial = p.copy()
    for _ in range(ROUNDS):
        draw_trail(kernel, trial[0], trial[1], trial[3], trial[4], work, model)
        left[:] = data - trial[2] * model
        chi2 = np.sum(weight * left * left)
        if chi2 <= best:
            gain, best = best - chi2, chi2
            p[:] = trial
            slopes_into(model, design[0], design[1])
            design[0] *= p[2]
            design[1] *= p[2]
            design[2] = model
            draw_trail(kernel, p[0], p[1], p[3] + STEP, p[4], work, other)
            design[3] = (other - model) * (p[2] / STEP)
            turn = STEP / max(1.0, p[3])
            draw_trail(kernel, p[0], p[1], p[3], p[4] + turn, work, other)
            design[4] = (other - model) * (p[2] / turn)
            normal_of(design, left, weight, normal, right)
            damping = max(1e-6, 0.2 * damping)
            if gain < ENOUGH:
                break
        else:
            damping *= 10.0
        fresh[:] = normal
        damp(fresh, damping)
        trial[:] = p + np.linalg.solve(fresh, right)
        for a in range(2):
            trial[a] = min(middle + reach, max(middle - reach, trial[a]))
        trial[3] = min(LONGEST, longest, max(0.0, trial[3]))
    return float(best)
