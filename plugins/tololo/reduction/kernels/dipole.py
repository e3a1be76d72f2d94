"""Fit of a dipole: a star that is in another place in the template, two PSFs of opposite sign."""

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

DIPOLE_DTYPE = np.dtype(
    [(name, "f8") for name in ("flux_1", "flux_2", "flux_1_err", "flux_2_err", "flux_cov", "x_1", "y_1")]
    + [(name, "f8") for name in ("x_2", "y_2", "chi2", "single_chi2", "n_data")]
)
"""The lobe of the source's own sign is 1; fluxes are signed; chi2 is NaN where there is no fit."""

PRIOR = 0.2
"""Part of a star's flux by which the lobes' fluxes may differ from it, a priori."""

ROUNDS = 12


def fit_dipoles(
    subtraction: Subtraction,
    noise: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    partner_x: NDArray[np.float64],
    partner_y: NDArray[np.float64],
    flux: NDArray[np.float64],
    partner_flux: NDArray[np.float64],
    expected: NDArray[np.float64],
    expected_error: NDArray[np.float64],
    fwhm: float,
) -> NDArray[np.void]:
    """Fit two PSFs to sources and their lobes of the other sign.

    The separation of lobes that are closer than a FWHM and their flux can hardly be told from each other on
    the difference alone: its product, the dipole moment, is what is seen. The flux of the star in the two
    images decides, as a prior.

    Parameters
    ----------
    subtraction : `Subtraction`
    noise : `numpy.ndarray`, (ny, nx)
        Variance.
    x, y, partner_x, partner_y : `numpy.ndarray`, (n,)
        Where to start from, pixels.
    flux, partner_flux : `numpy.ndarray`, (n,)
        Likewise, signed.
    expected, expected_error : `numpy.ndarray`, (n, 2)
        Flux of the star in the image that has the source's lobe, and in the other; NaN where not known.
    fwhm : `float`
        Pixels.

    Returns
    -------
    fits : structured `numpy.ndarray`, (n,)
        `DIPOLE_DTYPE`.
    """
    table = np.full((x.size, len(DIPOLE_DTYPE.names or ())), np.nan)
    psf: PixelPsf = subtraction.psf
    if x.size:
        start = np.column_stack([x, y, partner_x, partner_y, flux, partner_flux]).astype(np.float64)
        _fit(
            subtraction.difference, noise, subtraction.bad, psf.coefficients, psf.frame, start,
            np.asarray(expected, float), np.asarray(expected_error, float), float(fwhm), table,
        )  # fmt: skip
    return np.asarray(unstructured_to_structured(table, DIPOLE_DTYPE))


@compiled
def _fit(
    image: NDArray[np.float32],
    noise: NDArray[np.float32],
    bad: NDArray[np.bool_],
    coefficients: NDArray[np.float64],
    frame: NDArray[np.float64],
    start: NDArray[np.float64],
    expected: NDArray[np.float64],
    expected_error: NDArray[np.float64],
    fwhm: float,
    out: NDArray[np.float64],
) -> None:
    """Fit one source after the other; parameters x1, y1, x2, y2, f1, f2."""
    size = coefficients.shape[1]
    kernel, narrow = np.empty((size, size)), np.empty((size, size), np.float32)
    work = np.empty((2, size, size), np.float32)
    half = math.ceil(1.8 * fwhm) + 2
    side = 2 * half + 1
    data, weight, single = np.empty((side, side)), np.empty((side, side)), np.empty((side, side))
    mean, tight = np.empty(2), np.empty(2)
    normal = np.empty((6, 6))
    for s in range(start.shape[0]):
        p = start[s].copy()
        cx, cy = round(0.5 * (p[0] + p[2])), round(0.5 * (p[1] + p[3]))
        x0, y0 = cx - half, cy - half
        number = cut_into(image, noise, bad, x0, y0, data, weight)
        if number < LEAST_PIXELS:
            continue
        kernel_into(coefficients, frame, float(cx), float(cy), kernel)
        narrow[:] = kernel.astype(np.float32)
        single[:] = 0.0
        place_into(narrow, p[0] - x0, p[1] - y0, 1.0, work, single)
        for k in range(2):
            p[2 * k] -= x0
            p[2 * k + 1] -= y0
        _begin(p, expected[s], expected_error[s], mean, tight)
        chi2 = _improve(narrow, data, weight, p, 1.5 * fwhm, mean, tight, work, normal)
        # A lobe that changed its sign is none: the source is no dipole.
        if not chi2 < np.inf or p[4] * start[s, 4] <= 0.0 or p[5] * start[s, 5] <= 0.0:
            continue
        for k in range(2):
            chi2 -= tight[k] * (p[4 + k] - mean[k]) ** 2
        damp(normal, 1e-9)
        covariance = np.linalg.inv(normal)
        out[s, 0], out[s, 1] = p[4], p[5]
        out[s, 2], out[s, 3] = math.sqrt(max(0.0, covariance[4, 4])), math.sqrt(max(0.0, covariance[5, 5]))
        out[s, 4] = covariance[4, 5]
        out[s, 5], out[s, 6], out[s, 7], out[s, 8] = p[0] + x0, p[1] + y0, p[2] + x0, p[3] + y0
        out[s, 9], out[s, 10], out[s, 11] = chi2, single_chi2(data, weight, single), number


@compiled
def _begin(
    p: NDArray[np.float64],
    expected: NDArray[np.float64],
    error: NDArray[np.float64],
    mean: NDArray[np.float64],
    tight: NDArray[np.float64],
) -> None:
    """Fill the prior of both fluxes (mean, inverse variance; 0 for none), and begin from it.

    With the star's flux the lobes are closer than their peaks are: the moment stays.
    """
    seen = 0.5 * (abs(p[4]) + abs(p[5]))
    for k in range(2):
        tight[k], mean[k] = 0.0, 0.0
        if not (math.isfinite(expected[k]) and math.isfinite(error[k]) and expected[k] > 0.0):
            continue
        tight[k] = 1.0 / (PRIOR * expected[k] + 3.0 * error[k]) ** 2
        mean[k] = math.copysign(expected[k], p[4 + k])
        p[4 + k] = mean[k]
    if tight[0] == 0.0 or tight[1] == 0.0:
        return
    shrink = min(1.0, max(0.02, seen / (0.5 * (abs(p[4]) + abs(p[5])))))
    for axis in range(2):
        middle, apart = 0.5 * (p[axis] + p[2 + axis]), 0.5 * shrink * (p[axis] - p[2 + axis])
        p[axis], p[2 + axis] = middle + apart, middle - apart


@compiled
def _improve(
    kernel: NDArray[np.float32],
    data: NDArray[np.float64],
    weight: NDArray[np.float64],
    p: NDArray[np.float64],
    away: float,
    mean: NDArray[np.float64],
    tight: NDArray[np.float64],
    work: NDArray[np.float32],
    normal: NDArray[np.float64],
) -> float:
    """Improve ``p`` by Levenberg and Marquardt's steps; fill the normal equations at the end; return chi^2.

    Lobes stay within ``away`` of the window's middle.
    """
    side = data.shape[0]
    middle = side // 2
    lobes, left, design = np.empty((2, side, side)), np.empty((side, side)), np.empty((6, side, side))
    fresh, right = np.empty((6, 6)), np.empty(6)
    best, damping = np.inf, 1e-3
    trial = p.copy()
    for _ in range(ROUNDS):
        chi2 = _residual(kernel, data, weight, trial, mean, tight, work, lobes, left)
        if chi2 <= best:
            gain, best = best - chi2, chi2
            p[:] = trial
            for k in range(2):
                slopes_into(lobes[k], design[2 * k], design[2 * k + 1])
                design[2 * k] *= p[4 + k]
                design[2 * k + 1] *= p[4 + k]
                design[4 + k] = lobes[k]
            normal_of(design, left, weight, normal, right)
            for k in range(2):
                normal[4 + k, 4 + k] += tight[k]
                right[4 + k] += tight[k] * (mean[k] - p[4 + k])
            damping = max(1e-6, 0.2 * damping)
            if gain < ENOUGH:
                break
        else:
            damping *= 10.0
        fresh[:] = normal
        damp(fresh, damping)
        trial[:] = p + np.linalg.solve(fresh, right)
        for a in range(4):
            trial[a] = min(middle + away, max(middle - away, trial[a]))
    return best


@compiled
def _residual(
    kernel: NDArray[np.float32],
    data: NDArray[np.float64],
    weight: NDArray[np.float64],
    p: NDArray[np.float64],
    mean: NDArray[np.float64],
    tight: NDArray[np.float64],
    work: NDArray[np.float32],
    lobes: NDArray[np.float64],
    left: NDArray[np.float64],
) -> float:
    """Draw both lobes of unit flux, fill what the model leaves, and return chi^2 with the prior's part."""
    chi2 = 0.0
    for k in range(2):
        lobes[k] = 0.0
        place_into(kernel, p[2 * k], p[2 * k + 1], 1.0, work, lobes[k])
        chi2 += tight[k] * (p[4 + k] - mean[k]) ** 2
    for j in range(data.shape[0]):
        for i in range(data.shape[1]):
            left[j, i] = data[j, i] - p[4] * lobes[0, j, i] - p[5] * lobes[1, j, i]
            chi2 += weight[j, i] * left[j, i] * left[j, i]
    return chi2
