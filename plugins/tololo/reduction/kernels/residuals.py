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

CHUNK = 64
"""Pixels of a row that are looked at together: most hold nothing bright."""


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
    """Return the flux of the template as if each pixel were the centre of a star, (ny, nx).

    The filter is the product of a column and a row that is next to the kernel: of light that only says how
    much a subtraction may have left, two digits are enough.
    """
    narrow = trim(kernel)
    column, row = (part[:1] for part in separate(narrow))
    own = float(column[0] @ narrow @ row[0])
    light = np.empty_like(template)
    correlate_separable(template, column / np.float32(own), row, light)
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
    left, noise, star = _left_at(flux, flux_variance, light, x, y, math.ceil(fwhm)).T
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
def _left_at(
    flux: NDArray[np.float32],
    flux_variance: NDArray[np.float32],
    light: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    reach: int,
) -> NDArray[np.float64]:
    """Return the largest flux left around stars, the size of such a one by noise, and their own flux; (n, 3).

    NaN where fewer than eight tenths of the pixels around a star have data.
    """
    ny, nx = flux.shape
    out = np.full((x.size, 3), np.nan)
    for s in range(x.size):
        i, j = round(x[s]), round(y[s])
        largest, total, number, seen = 0.0, 0.0, 0, 0
        for b in range(max(0, j - reach), min(ny, j + reach + 1)):
            for a in range(max(0, i - reach), min(nx, i + reach + 1)):
                seen += 1
                if flux_variance[b, a] < np.inf:
                    number += 1
                    total += flux_variance[b, a]
                    largest = max(largest, abs(float(flux[b, a])))
        if number >= 0.8 * seen:
            out[s, 0], out[s, 1], out[s, 2] = largest, NOISE_PEAK * math.sqrt(total / number), light[j, i]
    return out


@compiled
def _any_near(places: NDArray[np.bool_], first: int, last: int, y: int, distance: int) -> bool:
    """Tell whether some places hold one around the pixels ``first`` to ``last`` of a row; of none, yes."""
    if places.size == 0:
        return True
    low, high = max(0, first - distance), min(places.shape[1], last + distance)
    found = False
    for j in range(max(0, y - distance), min(places.shape[0], y + distance + 1)):
        line = places[j, low:high]
        for i in range(line.size):
            found |= line[i]
    return found


@compiled
def _matters(light: NDArray[np.float32], noise: NDArray[np.float32], share: np.float32) -> bool:
    """Tell whether a part of a row has a pixel of which what may be left exceeds a quarter of the noise."""
    found = False
    for i in range(light.size):
        value = max(light[i], np.float32(0.0))
        # Where there is no data the noise is infinite, and any light matters.
        level = noise[i] if noise[i] < np.inf else np.float32(0.0)
        found |= share * value * value > level
    return found


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
    FWHM. Being a product of one in x and one in y it goes along the row first, and then to the rows around.
    """
    ny, nx = light.shape
    share = np.float32(16.0 * error * error)
    reach, close = math.ceil(1.5 * fwhm), math.ceil(fwhm)
    taper = np.empty(2 * reach + 1, np.float32)
    for k in range(-reach, reach + 1):
        taper[k + reach] = math.exp(-0.5 * k * k / (0.6 * fwhm) ** 2)
    row = np.zeros(nx + 2 * reach, np.float32)
    for y in range(ny):
        low, high = nx, 0
        for first in range(0, nx, CHUNK):
            last = min(nx, first + CHUNK)
            if not _matters(light[y, first:last], flux_variance[y, first:last], share):
                continue
            if not _any_near(near, first, last, y, close):
                continue
            for x in range(first, last):
                value = light[y, x]
                level = flux_variance[y, x] if flux_variance[y, x] < np.inf else np.float32(0.0)
                if not (
                    value > 0.0 and share * value * value > level and _any_near(near, x, x + 1, y, close)
                ):
                    continue
                if x - reach > high:
                    _raise_rows(row, low, high, y, taper, misfit)
                    low = x - reach
                low, high = min(low, max(0, x - reach)), min(nx, x + reach + 1)
                own = np.float32(error) * value
                for k in range(taper.size):
                    row[x + k] = max(row[x + k], own * taper[k])
        _raise_rows(row, low, high, y, taper, misfit)


@compiled
def _raise_rows(
    row: NDArray[np.float32],
    low: int,
    high: int,
    y: int,
    taper: NDArray[np.float32],
    misfit: NDArray[np.float32],
) -> None:
    """Raise a piece of the rows around ``y`` to what a row has there, tapered, and blank it in the row."""
    reach = taper.size // 2
    if high <= low:
        return
    source = row[low + reach : high + reach]
    for j in range(max(0, y - reach), min(misfit.shape[0], y + reach + 1)):
        target, weight = misfit[j, low:high], taper[j - y + reach]
        for i in range(target.size):
            target[i] = max(target[i], weight * source[i])
    source[:] = np.float32(0.0)


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
    angle = 2.0 * math.pi * np.arange(ring.size) / ring.size
    cosine, sine = np.cos(angle), np.sin(angle)
    for s in range(x.size):
        ci, cj = round(x[s]), round(y[s])
        lowest = np.inf
        for r in range(inner, reach + 2):
            number = 0
            for k in range(ring.size):
                i, j = ci + round(r * cosine[k]), cj + round(r * sine[k])
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
