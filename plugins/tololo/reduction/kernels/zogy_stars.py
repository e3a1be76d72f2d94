"""What proper subtraction takes for known: the flux ratio of two images and their offset, fitted on stars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from tololo.reduction.kernels import subtraction_pixels as pixels
from tololo.reduction.kernels.difference_psf import convolve_stamps
from tololo.reduction.kernels.kernel_fit import MIN_STAR_SNR, choose_stars
from tololo.reduction.kernels.matching import polynomial
from tololo.reduction.kernels.subtraction_input import Image

FEW = 12
"""With fewer stars the offset is the same all over the image."""

ROUNDS = 2
"""Of the fit: the second one starts from the first one's offset, and needs no more than its slopes."""

MAX_SNR = 200.0
"""Brighter stars count no more than this: the PSFs' errors, not noise, say how well they compare."""

CLIP = 3.5
"""Stars are left out beyond this many robust standard deviations."""


@dataclass(frozen=True)
class Alignment:
    """How the template lies under the science image."""

    flux_ratio: float
    """Flux of a star in the science image over that in the template."""

    offsets: NDArray[np.float64]
    """Coefficients of what is to be added to the template's x and y, (n terms, 2)."""

    center: tuple[float, float]
    scale: tuple[float, float]
    n_stars: int

    def offset_at(self, x: float, y: float) -> tuple[float, float]:
        """Return the offset in x and y at a position, pixels."""
        u, v = (x - self.center[0]) / self.scale[0], (y - self.center[1]) / self.scale[1]
        terms = polynomial(0 if len(self.offsets) == 1 else 1, np.array([u]), np.array([v]))
        dx, dy = (terms @ self.offsets)[0]
        return float(dx), float(dy)


def align(
    science: Image,
    template: Image,
    filled: tuple[NDArray[np.float32], NDArray[np.float32]],
    stars: NDArray[np.float64],
) -> Alignment:
    """Compare stars in both images, each convolved with the other one's PSF.

    Then they have the same shape, and the science image's star is the template's, times the flux ratio and
    moved by the offset: a linear fit of the star, its slopes in x and y, and a level.

    Parameters
    ----------
    science, template : `Image`
        The two images.
    filled : `tuple` [`numpy.ndarray`, `numpy.ndarray`]
        Their pixels, the bad ones bridged.
    stars : `numpy.ndarray`, (n, 2)
        Positions x, y.
    """
    shape = science.pixels.shape
    center, scale = ((shape[1] - 1) / 2, (shape[0] - 1) / 2), (shape[1] / 2, shape[0] / 2)
    fwhm = max(science.fwhm, template.fwhm)
    inner = math.ceil(2 * fwhm)
    half = inner + max(science.psf.size, template.psf.size) // 2
    none = Alignment(1.0, np.zeros((1, 2)), center, scale, 0)
    snr, chosen = _bright(science, template, stars, fwhm, half)
    if not len(chosen):
        return none
    weight = np.minimum(snr[chosen], MAX_SNR) ** 2
    corners = np.rint(stars[chosen]).astype(int)
    stamps = np.array(
        [[plane[y - half : y + half + 1, x - half : x + half + 1] for x, y in corners] for plane in filled],
        dtype=float,
    )
    for image, other in ((0, template), (1, science)):
        stamps[image] = convolve_stamps(stamps[image], np.array([other.psf.kernel(x, y) for x, y in corners]))
    cut = slice(half - inner, half + inner + 1)
    aligned, moved = none, np.zeros((len(corners), 2))
    for _ in range(ROUNDS):
        theirs = _move(stamps[1], moved)[:, cut, cut]
        found = np.array([_compare(a, b) for a, b in zip(stamps[0][:, cut, cut], theirs, strict=True)])
        found[:, 1:] += moved
        aligned = _agreed(found, weight, corners, center, scale) or none
        moved = np.array([aligned.offset_at(x, y) for x, y in corners])
    return aligned


def _move(stamps: NDArray[np.float64], offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move stamps, (n, size, size), by offsets in x and y, (n, 2)."""
    size = stamps.shape[-1]
    edge = taper(size, size // 6)
    dx, dy = offsets.T[..., None, None]
    turn = np.exp(-2j * math.pi * (dy * fft.fftfreq(size)[:, None] + dx * fft.rfftfreq(size)))
    return np.asarray(fft.irfft2(fft.rfft2(stamps * edge * edge[:, None]) * turn, s=(size, size)))


def taper(size: int, width: int) -> NDArray[np.float64]:
    """Return weights along a row that rise from 0 to 1 over ``width`` pixels and fall again at its end."""
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
    return np.asarray(0.5 - 0.5 * np.cos(math.pi * np.minimum(distance / width, 1.0)))


def _bright(
    science: Image, template: Image, stars: NDArray[np.float64], fwhm: float, half: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the stars' signal to noise, and which are whole and bright in both images, off the edges."""
    least = np.full(len(stars), math.inf)
    usable = np.ones(len(stars), bool)
    for image in (science, template):
        weight = np.where(image.bad, np.float32(0), 1 / image.variance)
        snr, whole = pixels.star_quality(stars, image.pixels, weight, fwhm)
        least, usable = np.minimum(least, snr), usable & whole
    return least, choose_stars(stars, least, usable & (least > MIN_STAR_SNR), half, science.pixels.shape)


def _compare(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return flux ratio and offset in x and y of one star."""
    slope_y, slope_x = np.gradient(theirs)
    model = np.stack([theirs, -slope_x, -slope_y, np.ones_like(theirs)]).reshape(4, -1).T
    (ratio, x, y, _), *_ = np.linalg.lstsq(model, ours.ravel(), rcond=None)
    return float(ratio), float(x / ratio), float(y / ratio)


def _agreed(
    found: NDArray[np.float64],
    weight: NDArray[np.float64],
    positions: NDArray[np.int64],
    center: tuple[float, float],
    scale: tuple[float, float],
) -> Alignment | None:
    """Return what most stars agree on."""
    keep = np.isfinite(found).all(axis=1) & (np.abs(found[:, 1:]) < 2.0).all(axis=1)
    for _ in range(3):
        if not keep.any():
            return None
        middle = np.median(found[keep], axis=0)
        spread = 1.4826 * np.median(np.abs(found[keep] - middle), axis=0)
        limit = np.maximum(CLIP * spread, [0.02 * abs(middle[0]), 0.1, 0.1])
        keep &= (np.abs(found - middle) <= limit).all(axis=1)
    order = 1 if np.count_nonzero(keep) >= FEW else 0
    u, v = ((positions - np.array(center)) / np.array(scale)).T
    share = np.sqrt(weight[keep])[:, None]
    offsets, *_ = np.linalg.lstsq(
        polynomial(order, u[keep], v[keep]) * share, found[keep, 1:] * share, rcond=None
    )
    ratio = float(np.average(found[keep, 0], weights=weight[keep]))
    return Alignment(ratio, offsets, center, scale, int(np.count_nonzero(keep)))
