"""What a subtraction leaves of bright stars: how much of their light, and where it can pass for a source."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.detection import correlate_separable, find_peaks, separate, trim

KERNEL_ERROR = 0.005
"""Least part of a star's flux that the matching kernel is trusted to get wrong."""

KERNEL_ERROR_FEW = 0.03
"""The same where fewer than 10 stars say how good the kernel is."""

WING_ERROR = 0.15
"""Part of the light in the wings of very bright stars that counts as error: a kernel ends at its radius."""

WING_SNR = 1000.0
"""Template sources above this have such wings, out to 12 FWHM."""

SPIKE = 2.0
"""Light in a wing over its median all around that may still be the star's."""

INEXACT_ERROR = 0.15
"""Part of a star's flux that is left where the template's PSF is another than that of its surroundings."""

STAR_SNR = 50.0
"""Template sources above this tell the kernel's error."""

NOISE_PEAK = 2.0
"""Sigma that the largest value of noise alone reaches in the box around a star, in every second one."""


def misfit_plane(
    template: NDArray[np.float32],
    flux: NDArray[np.float32],
    flux_variance: NDArray[np.float32],
    kernel: NDArray[np.float64],
    fwhm: float,
    inexact: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Return how much flux the subtraction may have left at every pixel.

    Parameters
    ----------
    template : `numpy.ndarray`, (ny, nx)
        The matched template.
    flux, flux_variance : `numpy.ndarray`, (ny, nx)
        Of the matched filter on the difference.
    kernel : `numpy.ndarray`, (size, size)
        PSF of the difference.
    fwhm : `float`
        In pixels.
    inexact : `numpy.ndarray` of `bool`, (ny, nx), optional
        Where the template's PSF is another than that of its surroundings.

    Returns
    -------
    misfit : `numpy.ndarray`, (ny, nx), float32
        In the unit of the flux: the kernel's error times the largest template flux nearby, tapered with the
        distance; more in the wings of very bright stars and where the PSF is inexact.
    error : `float`
        The kernel's error, a part of a star's flux.
    """
    light = template_light(template, kernel)
    error = kernel_error(flux, flux_variance, light, fwhm)
    misfit = np.zeros_like(light)
    everywhere = np.empty((0, 0), np.bool_)
    _spread_light(light, flux_variance, error, fwhm, everywhere, misfit)
    _add_wings(light, *_bright_peaks(light, flux_variance), WING_ERROR, fwhm, misfit)
    if inexact is not None and inexact.any():
        _spread_light(light, flux_variance, INEXACT_ERROR, fwhm, inexact, misfit)
    return misfit, error


def add_misfit(
    variance: NDArray[np.float32], misfit: NDArray[np.float32], peak: float
) -> NDArray[np.float32]:
    """Return the variance with the square of what the kernel may have wrong of a pixel's value added."""
    noise = np.empty_like(variance)
    _add_square(variance, misfit, np.float32(peak), noise)
    return noise


@compiled
def _add_square(
    variance: NDArray[np.float32],
    misfit: NDArray[np.float32],
    peak: np.float32,
    noise: NDArray[np.float32],
) -> None:
    for y in range(variance.shape[0]):
        for x in range(variance.shape[1]):
            own = misfit[y, x] * peak
            noise[y, x] = variance[y, x] + own * own


def template_light(template: NDArray[np.float32], kernel: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the flux of the template as if each pixel were the centre of a star, (ny, nx)."""
    narrow = trim(kernel)
    light = np.zeros_like(template)
    correlate_separable(np.nan_to_num(template, nan=0.0), *separate(narrow / (narrow**2).sum()), light)
    return light


def kernel_error(
    flux: NDArray[np.float32], flux_variance: NDArray[np.float32], light: NDArray[np.float32], fwhm: float
) -> float:
    """Estimate which part of a star's flux the subtraction leaves, from the bright sources of the template.

    Parameters
    ----------
    flux, flux_variance : `numpy.ndarray`, (ny, nx)
        Of the matched filter on the difference.
    light : `numpy.ndarray`, (ny, nx)
        The same filter on the matched template.
    fwhm : `float`
        In pixels.

    Returns
    -------
    error : `float`
        That e with which half of the residuals are smaller than sqrt(noise^2 + (e F)^2) of a star of flux F:
        faint stars, of which the noise hides what the kernel leaves, say little, and those that have changed
        are outvoted.
    """
    bright = np.empty_like(light)
    _divide_by_noise(light, flux_variance, bright)
    x, y, _ = find_peaks(bright, STAR_SNR, edge=2)
    reach = math.ceil(fwhm)
    left = np.full(x.size, np.nan)
    noise, star = np.ones(x.size), np.ones(x.size)
    for k, (i, j) in enumerate(zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True)):
        box = np.s_[max(0, j - reach) : j + reach + 1, max(0, i - reach) : i + reach + 1]
        usable = np.isfinite(flux_variance[box])
        if np.count_nonzero(usable) < 0.8 * usable.size:
            continue
        left[k], star[k] = float(np.max(np.abs(flux[box][usable]))), float(light[j, i])
        noise[k] = NOISE_PEAK * math.sqrt(float(flux_variance[box][usable].mean()))
    known = np.isfinite(left)
    least = KERNEL_ERROR if np.count_nonzero(known) >= 10 else KERNEL_ERROR_FEW
    if not known.any():
        return least
    left, noise, star = left[known], noise[known], star[known]
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = 0.5 * (low + high)
        beyond = np.median(left / np.hypot(noise, middle * star)) > 1.0
        low, high = (middle, high) if beyond else (low, middle)
    return max(least, high)


@compiled
def _divide_by_noise(
    light: NDArray[np.float32], flux_variance: NDArray[np.float32], ratio: NDArray[np.float32]
) -> None:
    """Fill the signal to noise; 0 where there is no data."""
    for y in range(light.shape[0]):
        for x in range(light.shape[1]):
            value = light[y, x] / np.sqrt(flux_variance[y, x])
            ratio[y, x] = value if abs(value) < np.inf else 0.0


@compiled
def _is_near(places: NDArray[np.bool_], x: int, y: int, distance: int) -> bool:
    """Tell whether one of some places lies in the square around a pixel; of no places, yes."""
    if places.size == 0:
        return True
    ny, nx = places.shape
    for j in range(max(0, y - distance), min(ny, y + distance + 1)):
        for i in range(max(0, x - distance), min(nx, x + distance + 1)):
            if places[j, i]:
                return True
    return False


@compiled
def _spread_light(
    light: NDArray[np.float32],
    flux_variance: NDArray[np.float32],
    error: float,
    fwhm: float,
    near: NDArray[np.bool_],
    misfit: NDArray[np.float32],
) -> None:
    """Raise ``misfit`` to ``error`` times the largest nearby template flux, tapered, where that matters.

    Only of light within a FWHM of the places ``near``, if there are such.

    The lobes that a wrong kernel leaves lie within a FWHM of the star: the taper is a Gaussian of sigma 0.6
    FWHM.
    """
    ny, nx = light.shape
    share = np.float32(16.0 * error * error)
    reach = math.ceil(1.5 * fwhm)
    taper = np.empty((2 * reach + 1, 2 * reach + 1), np.float32)
    for j in range(-reach, reach + 1):
        for i in range(-reach, reach + 1):
            taper[j + reach, i + reach] = error * math.exp(-0.5 * (i * i + j * j) / (0.6 * fwhm) ** 2)
    for y in range(ny):
        for x in range(nx):
            value = light[y, x]
            if value <= 0.0 or share * value * value < flux_variance[y, x] < np.inf:
                continue
            if not _is_near(near, x, y, math.ceil(fwhm)):
                continue
            for j in range(max(0, y - reach), min(ny, y + reach + 1)):
                low, high = max(0, x - reach), min(nx, x + reach + 1)
                line, shape = misfit[j, low:high], taper[j - y + reach, low - x + reach : high - x + reach]
                for i in range(line.size):
                    line[i] = max(line[i], value * shape[i])


@compiled
def _add_wings(
    light: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    error: float,
    fwhm: float,
    misfit: NDArray[np.float32],
) -> None:
    """Raise ``misfit`` to ``error`` times the light in the wings of stars, from 1.5 to 12 FWHM.

    The wing at a distance is the median of the light all around; where there is more, up to `SPIKE` times
    that is the star's own (a spike), and what exceeds it another star's.
    """
    ny, nx = light.shape
    inner, reach = math.floor(1.5 * fwhm), math.ceil(12.0 * fwhm)
    ring, wing = np.empty(64, np.float32), np.empty(reach + 2)
    for s in range(x.size):
        ci, cj = round(x[s]), round(y[s])
        lowest = np.inf
        for r in range(inner, reach + 2):
            number = 0
            for k in range(ring.size):
                angle = 2.0 * math.pi * k / ring.size
                i, j = ci + round(r * math.cos(angle)), cj + round(r * math.sin(angle))
                if 0 <= i < nx and 0 <= j < ny:
                    ring[number] = light[j, i]
                    number += 1
            if number:
                lowest = min(lowest, max(0.0, float(np.median(ring[:number]))))
            wing[r] = SPIKE * lowest
        for j in range(max(0, cj - reach), min(ny, cj + reach + 1)):
            for i in range(max(0, ci - reach), min(nx, ci + reach + 1)):
                square = (i - ci) ** 2 + (j - cj) ** 2
                if 2.25 * fwhm * fwhm < square <= reach * reach:
                    own = min(float(light[j, i]), wing[math.floor(math.sqrt(square))])
                    misfit[j, i] = max(misfit[j, i], error * own)


def _bright_peaks(
    light: NDArray[np.float32], flux_variance: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions of the template's sources above `WING_SNR`, saturated ones included."""
    usual = flux_variance[:: max(1, light.shape[0] // 200), :: max(1, light.shape[1] // 200)]
    noise = math.sqrt(float(np.median(usual[np.isfinite(usual)]))) if np.isfinite(usual).any() else 1.0
    x, y, _ = find_peaks(light, WING_SNR * noise, edge=1)
    return x, y
