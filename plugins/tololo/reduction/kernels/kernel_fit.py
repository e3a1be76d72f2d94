"""Where the matching kernel is fitted: on well-chosen stars, or on all light of a small image."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tololo.reduction.kernels import subtraction_pixels as pixels
from tololo.reduction.kernels.matching import (
    Basis,
    Fit,
    Stamps,
    cut_stamps,
    fit_on_image,
    fit_on_stars,
)

SMALL = 512
"""Images with a side below this are fitted as a whole."""

TILE = 64
MIN_STARS = 5
MAX_STARS = 160
CELL = 256
STARS_PER_CELL = 4
MIN_STAR_SNR = 20.0
SIGNIFICANT = 6.0
MAX_TILES = 400


def fit_kernel(
    padded: NDArray[np.float32],
    broad: NDArray[np.float32],
    weight: NDArray[np.float32],
    stars: NDArray[np.float64],
    basis: Basis,
    fwhm: float,
    order: int,
) -> tuple[Fit, Literal["stars", "image"], int]:
    """Fit the kernel on stars if there are enough in a large image, else on everything that shines.

    Parameters
    ----------
    padded : `numpy.ndarray`, (ny + 2r + 3, nx + 2r + 3)
        The image to convolve, as `convolution.pad` makes it.
    broad, weight : `numpy.ndarray`, (ny, nx)
        The image to be matched, and the weight of its pixels.
    stars : `numpy.ndarray`, (n, 2)
        Positions x, y of candidates.
    basis : `Basis`
        Of the kernel.
    fwhm : `float`
        Wider seeing of the two, pixels.
    order : `int`
        Highest order of the variation.

    Returns
    -------
    fit : `Fit`
    fitted_on : {"stars", "image"}
    n_stars : `int`
        Stars that were used; of an image fitted as a whole, those that lie on good pixels.

    Raises
    ------
    NothingToDoError
        Too few pixels have both light and weight.
    """
    ny, nx = broad.shape
    r = basis.radius
    sharp = padded[r : r + ny, r : r + nx]
    snr, whole = pixels.star_quality(stars, broad, weight, fwhm)
    sharp_snr, _ = pixels.star_quality(stars, sharp, weight, fwhm)
    if min(ny, nx) >= SMALL:
        half = min(20, max(10, math.ceil(3 * fwhm)))
        snr = np.minimum(snr, sharp_snr)
        chosen = choose_stars(stars, snr, whole & (snr > MIN_STAR_SNR), half, (ny, nx))
        if chosen.size >= MIN_STARS:
            corner = np.rint(stars[chosen]).astype(np.int64) - half
            stamps = cut_stamps(padded, broad, weight, corner[:, 0], corner[:, 1], 2 * half + 1, basis)
            fit = fit_on_stars(stamps, basis, (ny, nx), order)
            if np.count_nonzero(fit.used) >= MIN_STARS:
                return fit, "stars", int(np.count_nonzero(fit.used))
    lit = _light_map(sharp, broad, weight, math.ceil(1.5 * fwhm))
    stamps = _tiles(padded, broad, np.where(lit, weight, np.float32(0)), basis)
    return fit_on_image(stamps, basis, (ny, nx)), "image", int(np.count_nonzero(whole & (snr > MIN_STAR_SNR)))


def choose_stars(
    stars: NDArray[np.float64],
    snr: NDArray[np.float64],
    usable: NDArray[np.bool_],
    half: int,
    shape: tuple[int, int],
) -> NDArray[np.int64]:
    """Return the indices of the best stars, spread over the image: a few per cell, none at the edge."""
    ny, nx = shape
    x, y = stars.T
    usable = usable & (x >= half) & (x <= nx - 1 - half) & (y >= half) & (y <= ny - 1 - half)
    order = np.flatnonzero(usable)[np.argsort(-snr[usable], kind="stable")]
    cell = (y[order] // CELL).astype(int) * (nx // CELL + 1) + (x[order] // CELL).astype(int)
    # The rank of each star within its cell: the brightest of every cell come first.
    rank = np.zeros(order.size, int)
    for c in np.unique(cell):
        rank[cell == c] = np.arange(np.count_nonzero(cell == c))
    first = np.argsort(rank, kind="stable")
    first = first[rank[first] < STARS_PER_CELL][:MAX_STARS]
    return np.asarray(order[first])


def _light_map(
    sharp: NDArray[np.float32], broad: NDArray[np.float32], weight: NDArray[np.float32], margin: int
) -> NDArray[np.bool_]:
    """Return the pixels in and around what rises above the noise in either image."""
    good = weight > 0
    lit = np.zeros(good.shape, np.bool_)
    if good.any():
        for image in (sharp, broad):
            level = np.median(image[good])
            spread = 1.4826 * np.median(np.abs(image[good] - level))
            # The mean of 3 x 3 pixels has a third of a pixel's noise, and no light of single hot pixels.
            smooth = ndimage.uniform_filter(np.where(good, image - level, np.float32(0)), 3)
            lit |= good & (smooth > SIGNIFICANT / 3 * spread)
    return np.asarray(ndimage.maximum_filter(lit, 2 * margin + 1) & good)


def _tiles(
    padded: NDArray[np.float32], broad: NDArray[np.float32], weight: NDArray[np.float32], basis: Basis
) -> Stamps:
    """Cut the image into tiles; of a large image only those with the most weighted light."""
    ny, nx = broad.shape
    y0, x0 = (grid.ravel() for grid in np.mgrid[0:ny:TILE, 0:nx:TILE])
    light = np.array(
        [np.count_nonzero(weight[y : y + TILE, x : x + TILE]) for y, x in zip(y0, x0, strict=True)]
    )
    best = np.argsort(-light, kind="stable")[:MAX_TILES]
    best = best[light[best] > 0]
    return cut_stamps(padded, broad, weight, x0[best], y0[best], TILE, basis)
