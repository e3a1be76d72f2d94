"""Simulated star fields with known truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.psf import PixelPsf


def moffat(
    shape: tuple[int, int],
    stars: NDArray[np.float64],
    fwhm: float,
    *,
    beta: float = 3.0,
    ellipticity: float = 0.05,
    slope: float = 0.0,
    oversampling: int = 5,
) -> NDArray[np.float64]:
    """Draw stars (x, y, flux) as elliptical Moffat profiles averaged over sub-pixels.

    With a slope, the FWHM grows by this part from the left edge to the right one, and as a parabola in y.
    """
    height, width = shape
    image = np.zeros(shape)
    sub = (np.arange(oversampling) - (oversampling - 1) / 2) / oversampling
    cos, sin = math.cos(0.5), math.sin(0.5)
    for x, y, flux in stars:
        local = fwhm * local_scale(x / width, y / height, slope)
        alpha = local / 2 / math.sqrt(2 ** (1 / beta) - 1)
        reach = int(7 * local)
        x0, x1 = max(0, int(x) - reach), min(width, int(x) + reach + 1)
        y0, y1 = max(0, int(y) - reach), min(height, int(y) + reach + 1)
        dx = (np.arange(x0, x1)[:, None] + sub).ravel() - x
        dy = ((np.arange(y0, y1)[:, None] + sub).ravel() - y)[:, None]
        u = (cos * dx + sin * dy) * math.sqrt(1 - ellipticity)
        v = (cos * dy - sin * dx) / math.sqrt(1 - ellipticity)
        light = (1 + (u * u + v * v) / alpha**2) ** -beta * (beta - 1) / (math.pi * alpha**2)
        image[y0:y1, x0:x1] += flux * light.reshape(y1 - y0, oversampling, x1 - x0, oversampling).mean((1, 3))
    return image


def local_scale(u: float, v: float, slope: float) -> float:
    return 1 + slope * ((u - 0.5) + (v - 0.5) ** 2)


def moffat_psf(size: int, fwhm: float, **keys: float) -> PixelPsf:
    """Return the true PSF of `moffat` as a pixel model, drawn with finer sub-pixels than the stars."""
    middle = np.array([[size // 2, size // 2, 1.0]])
    kernel = moffat((size, size), middle, fwhm, oversampling=11, **keys)
    return PixelPsf(kernel[None] / kernel.sum())


@dataclass
class Field:
    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    bad: NDArray[np.bool_]
    stars: NDArray[np.float64]


def observe(
    light: NDArray[np.float64], stars: NDArray[np.float64], seed: int, *, sky: float = 1000.0
) -> Field:
    """Add noise over a sky that is already subtracted; saturate at 40000; mask a bad column."""
    rng = np.random.default_rng(seed)
    image = (light + rng.normal(size=light.shape) * np.sqrt(light + sky)).astype(np.float32)
    bad = image > 40000
    bad[:, light.shape[1] // 3] = True
    image[bad] = 1e5
    return Field(image, np.maximum(image + sky, 1).astype(np.float32), bad, stars)


def random_stars(
    seed: int, number: int, shape: tuple[int, int], faint: float, bright: float, border: float = 0.0
) -> NDArray[np.float64]:
    """Return x, y, flux with fluxes between powers of ten, evenly in the logarithm."""
    rng = np.random.default_rng(seed)
    low, high = border, np.array([shape[1], shape[0]]) - border
    position = rng.uniform(low, high, (number, 2))
    return np.column_stack([position, 10 ** rng.uniform(faint, bright, number)])


def grid_stars(
    seed: int, spacing: int, shape: tuple[int, int], faint: float, bright: float
) -> NDArray[np.float64]:
    """Return well separated stars near the points of a grid, each at its own sub-pixel position."""
    x, y = np.meshgrid(np.arange(40, shape[1] - 39, spacing), np.arange(40, shape[0] - 39, spacing))
    rng = np.random.default_rng(seed)
    points = np.column_stack([x.ravel(), y.ravel()]) + rng.uniform(-0.5, 0.5, (x.size, 2))
    return np.column_stack([points, 10 ** rng.uniform(faint, bright, x.size)])
