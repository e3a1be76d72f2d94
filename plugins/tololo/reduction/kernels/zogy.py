"""Proper image subtraction after Zackay, Ofek & Gal-Yam (2016, ApJ 830, 27), by tiles with the local PSFs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels import subtraction_pixels as pixels
from tololo.reduction.kernels.convolution import convolve_blocks, pad, trim
from tololo.reduction.kernels.decorrelation import GRID, mean_power
from tololo.reduction.kernels.matching import polynomial
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.subtraction_input import Image
from tololo.reduction.kernels.zogy_stars import Alignment, align, taper

TILE = 512
"""Side in pixels of the tiles within which the PSFs are constant."""

OVERLAP = 32
"""Pixels around a tile that its transform holds besides: further the kernels do not reach."""

TAPER = 16
"""Outer part of the overlap in pixels over which the light falls to zero: a step would ring."""

REACH = 12
"""Radius in pixels of the kernels that spread variance and bad pixels."""


class Zogy(NamedTuple):
    """A proper difference, in the science image's photometric scale."""

    difference: NDArray[np.float32]
    variance: NDArray[np.float32]
    bad: NDArray[np.bool_]
    psf: PixelPsf
    flux_ratio: float
    n_stars: int


def zogy(science: Image, template: Image, stars: NDArray[np.float64]) -> Zogy:
    """Subtract with the PSFs of both images, without a matching kernel.

    With the transforms N, R of science image and template, P, Q of their PSFs, S, T the power spectra of
    their noise and the flux ratio b, the difference is

        D = Z (Q N - b P R) / sqrt(S |Q|^2 + b^2 T |P|^2),    Z^2 = S(0) + b^2 T(0)

    (their equations 13 to 15, times the factor that gives a source its flux in the science image): its noise
    is white, and its PSF is Z P Q / sqrt(...). The flux ratio and the offset between the two images, which
    the formula takes for known, are fitted on stars; see `zogy_stars.align`.

    Parameters
    ----------
    science, template : `Image`
        On the same pixels.
    stars : `numpy.ndarray`, (n, 2)
        Positions x, y of stars.

    Raises
    ------
    NothingToDoError
        Too few stars for the flux ratio.
    BadInputError
        The flux ratio is not positive.
    """
    shape = science.pixels.shape
    filled = pixels.bridge(science.pixels, science.bad), pixels.bridge(template.pixels, template.bad)
    aligned = align(science, template, filled, stars)
    if aligned.n_stars == 0:
        raise NothingToDoError(
            "No star is whole and bright enough in both images to compare their fluxes",
            "subtraction",
            "check masks and star positions, or use the method alard_lupton",
        )
    if not aligned.flux_ratio > 0:
        raise BadInputError(
            f"The fitted flux ratio is {aligned.flux_ratio:.3g}",
            "subtraction",
            "the two images do not show the same stars: check the registration and the star list",
        )
    tiles = tuple(-(-n // TILE) for n in shape)
    wide = [
        np.pad(plane, ((OVERLAP, OVERLAP + TILE), (OVERLAP, OVERLAP + TILE)), mode="edge") for plane in filled
    ]
    difference = np.empty(shape, np.float32)
    kernels = np.empty((2, *tiles, 2 * REACH + 1, 2 * REACH + 1))
    for cy, cx in np.ndindex(tiles):
        y0, x0 = cy * TILE, cx * TILE
        y1, x1 = min(shape[0], y0 + TILE), min(shape[1], x0 + TILE)
        middle = (x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2
        piece = np.s_[y0 : y0 + TILE + 2 * OVERLAP, x0 : x0 + TILE + 2 * OVERLAP]
        difference[y0:y1, x0:x1] = _tile(
            science, template, (wide[0][piece], wide[1][piece]), middle, aligned
        )[OVERLAP : OVERLAP + y1 - y0, OVERLAP : OVERLAP + x1 - x0]
        kernels[:, cy, cx] = _kernels(science, template, middle, aligned.flux_ratio)
    variance = np.zeros(shape, np.float32)
    bad = science.bad | template.bad
    for image, own in zip((science, template), kernels, strict=True):
        squares = trim(own**2, 1e-4)
        plane = pad(pixels.bridge(image.variance, image.bad), squares.shape[-1] // 2)
        variance += convolve_blocks(plane, squares, TILE, shape)
    for image, plane, own in zip((science, template), filled, kernels, strict=True):
        pixels.spread_bad(pad(plane, REACH), image.bad, own, TILE, 1.0, variance, bad)
    psf = _difference_psf(science, template, aligned.flux_ratio)
    return Zogy(difference, variance, bad, psf, aligned.flux_ratio, aligned.n_stars)


def _transform(psf: PixelPsf, position: tuple[float, float], grid: int) -> NDArray[np.complex128]:
    """Return the transform of a PSF with its centre at pixel (0, 0)."""
    kernel = psf.kernel(*position)
    half = min(kernel.shape[0], grid - 1) // 2
    lag, cut = np.arange(-half, half + 1), slice(psf.size // 2 - half, psf.size // 2 + half + 1)
    wrapped = np.zeros((grid, grid))
    wrapped[np.ix_(lag, lag)] = kernel[cut, cut]
    return np.asarray(fft.rfft2(wrapped / wrapped.sum()))


def _filters(
    science: Image, template: Image, position: tuple[float, float], ratio: float, grid: int
) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.complex128]]:
    """Return the transforms that science image and template are multiplied with, and that of the PSF."""
    p, q = (_transform(image.psf, position, grid) for image in (science, template))
    s, t = science.noise.power(grid), ratio**2 * template.noise.power(grid)
    norm = np.sqrt((s[0, 0] + t[0, 0]) / (s * np.abs(q) ** 2 + t * np.abs(p) ** 2))
    return q * norm, ratio * p * norm, p * q * norm


def _tile(
    science: Image,
    template: Image,
    pieces: tuple[NDArray[np.float32], NDArray[np.float32]],
    middle: tuple[float, float],
    aligned: Alignment,
) -> NDArray[np.float32]:
    """Return the difference of one tile and what overlaps."""
    grid = pieces[0].shape[0]
    own, other, _ = _filters(science, template, middle, aligned.flux_ratio, grid)
    dx, dy = aligned.offset_at(*middle)
    turn = np.exp(-2j * math.pi * (dy * fft.fftfreq(grid)[:, None] + dx * fft.rfftfreq(grid)))
    edge = taper(grid, TAPER).astype(np.float32)
    both = [fft.rfft2(piece * edge * edge[:, None]) for piece in pieces]
    joined = own.astype(np.complex64) * both[0] - (other * turn).astype(np.complex64) * both[1]
    return np.asarray(fft.irfft2(joined, s=(grid, grid)))


def _kernels(
    science: Image, template: Image, middle: tuple[float, float], ratio: float
) -> NDArray[np.float64]:
    """Return the kernels of both images, (2, 2 REACH + 1, 2 REACH + 1), cut to what matters.

    Their squared sums are scaled to the noise that they make of each image's, correlated or not.
    """
    own, other, _ = _filters(science, template, middle, ratio, GRID)
    lag = np.arange(-REACH, REACH + 1)
    found = []
    for image, transform in ((science, own), (template, other)):
        cut = np.asarray(fft.irfft2(transform, s=(GRID, GRID)))[np.ix_(lag, lag)]
        noise = float(mean_power(image.noise.power() * np.abs(transform) ** 2)) / image.noise.variance
        found.append(cut * math.sqrt(noise / (cut**2).sum()))
    return np.array(found)


def _difference_psf(science: Image, template: Image, ratio: float) -> PixelPsf:
    """Return the PSF of the difference, of the size of the science image's."""
    ny, nx = science.pixels.shape
    order = max(science.psf.order, template.psf.order)
    center, scale = ((nx - 1) / 2, (ny - 1) / 2), (nx / 2, ny / 2)
    u, v = (grid.ravel() for grid in np.meshgrid(np.linspace(-0.9, 0.9, 4), np.linspace(-0.9, 0.9, 4)))
    if order == 0:
        u, v = np.zeros(1), np.zeros(1)
    half = min(science.psf.size, GRID - 1) // 2
    lag = np.arange(-half, half + 1)
    stamps = []
    for a, b in zip(center[0] + u * scale[0], center[1] + v * scale[1], strict=True):
        _, _, product = _filters(science, template, (a, b), ratio, GRID)
        stamp = np.asarray(fft.irfft2(product, s=(GRID, GRID)))[np.ix_(lag, lag)]
        stamps.append(stamp / stamp.sum())
    fitted = np.tensordot(np.linalg.pinv(polynomial(order, u, v)), np.array(stamps), 1)
    return PixelPsf(fitted, order, center, scale)
