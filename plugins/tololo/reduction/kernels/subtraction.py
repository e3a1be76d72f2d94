"""Image subtraction after Alard & Lupton (1998, ApJ 503, 325): match the PSFs, subtract, keep the books."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels import subtraction_pixels as pixels
from tololo.reduction.kernels.convolution import GROUP, convolve_blocks, pad
from tololo.reduction.kernels.decorrelation import whitening_kernel
from tololo.reduction.kernels.matching import (
    SIGMA_OF_FWHM,
    Basis,
    Fit,
    SpatialKernel,
    Stamps,
    choose_basis,
    cut_stamps,
    fit_on_image,
    fit_on_stars,
    polynomial,
)
from tololo.reduction.kernels.planes import check_planes
from tololo.reduction.kernels.psf import PixelPsf

Side = Literal["template", "science"]

BLOCK = 128
"""Side in pixels of the blocks over which the kernel is constant."""

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


@dataclass(frozen=True)
class Subtraction:
    """A difference image, in the photometric scale of the science image, and how it came about."""

    difference: NDArray[np.float32]
    """Science minus template, (ny, nx); NaN where either has no data."""

    variance: NDArray[np.float32]
    """Variance of the difference, (ny, nx)."""

    bad: NDArray[np.bool_]
    """Pixels not to be trusted, of either image or reached by the kernel from one, (ny, nx)."""

    matched_template: NDArray[np.float32]
    """The template in the science image's scale and, if it was the one convolved, PSF; (ny, nx)."""

    template_variance: NDArray[np.float32]
    """Variance of ``matched_template``, (ny, nx)."""

    convolved: Side
    """Which of the two images was convolved: the sharper."""

    kernel: SpatialKernel
    """The matching kernel."""

    flux_ratio: float
    """Flux of a star in the science image over that in the template."""

    psf: PixelPsf
    """PSF of a point source in the difference."""

    template_psf: PixelPsf
    """PSF of a star in ``matched_template``."""

    fitted_on: Literal["stars", "image"]
    """Whether star stamps or all significant pixels made the kernel."""

    n_stars: int
    """Number of the given stars that were used; with ``fitted_on`` "image", that lie on good pixels."""

    noise_ratio: float
    """Robust scatter of difference / sqrt(variance) on good pixels: 1 if the variance is right."""

    decorrelated: bool


def subtract(
    science: NDArray[np.float32],
    science_variance: NDArray[np.float32],
    science_bad: NDArray[np.bool_],
    template: NDArray[np.float32],
    template_variance: NDArray[np.float32],
    template_bad: NDArray[np.bool_],
    stars_x: NDArray[np.float64],
    stars_y: NDArray[np.float64],
    *,
    science_fwhm: float,
    template_fwhm: float,
    science_psf: PixelPsf | None = None,
    order: int = 2,
    decorrelate: bool = True,
    convolve: Side | None = None,
) -> Subtraction:
    """Subtract a template from a science image on the same pixel grid.

    Parameters
    ----------
    science, template : `numpy.ndarray`, (ny, nx)
        Images in any unit, background-subtracted to within a smooth remainder; NaN counts as bad.
    science_variance, template_variance : `numpy.ndarray`, (ny, nx)
        Their variances.
    science_bad, template_bad : `numpy.ndarray` of `bool`, (ny, nx)
        Pixels not to be used (bad, saturated, cosmic ray, no data ...).
    stars_x, stars_y : `numpy.ndarray`, (n,)
        Positions in pixels of stars (or compact galaxies) to fit the kernel on. With fewer than 5 usable
        ones, and on images with a side below 512 pixels, all pixels with significant light are used instead.
    science_fwhm, template_fwhm : `float`
        Seeing in pixels: chooses what to convolve and the basis.
    science_psf : `PixelPsf`, optional
        PSF of the science image, for the PSF of the difference; by default a Moffat profile of its FWHM.
    order : `int`
        Highest order of the kernel's variation over the image; falls back with few or badly spread stars.
    decorrelate : `bool`
        Whiten the noise of the difference.
    convolve : {"template", "science"}, optional
        Convolve this image, whatever the FWHMs say.

    Returns
    -------
    subtraction : `Subtraction`

    Raises
    ------
    BadInputError
        If planes differ in shape, an FWHM or variance is not positive, or the fitted flux ratio is not
        positive.
    NothingToDoError
        If the images have no good pixels in common, or not enough light to fit a kernel on.

    Notes
    -----
    A bad pixel of the convolved image is bridged by its neighbours; output pixels are bad where what it may
    hide, spread by the kernel, exceeds half the noise: a hot pixel in the sky costs a few pixels, a saturated
    star a disk. A smooth background (128-pixel mesh, smaller in small images) is taken off at the end.
    """
    planes = (science, science_variance, science_bad, template, template_variance, template_bad)
    _check(planes, science_fwhm, template_fwhm)
    science, science_variance, science_bad = check_planes(science, science_variance, science_bad)
    template, template_variance, template_bad = check_planes(template, template_variance, template_bad)
    good = ~(science_bad | template_bad)
    if np.count_nonzero(good) < BLOCK:
        raise NothingToDoError(
            f"Science image and template have {np.count_nonzero(good)} good pixels in common",
            "subtraction",
            "check that they overlap and which mask planes count as bad",
        )
    side: Side = convolve or ("template" if template_fwhm <= science_fwhm else "science")
    if side == "template":
        sharp, sharp_variance, sharp_bad = template, template_variance, template_bad
        broad, broad_variance, broad_bad = science, science_variance, science_bad
    else:
        sharp, sharp_variance, sharp_bad = science, science_variance, science_bad
        broad, broad_variance, broad_bad = template, template_variance, template_bad
    low, high = sorted((science_fwhm, template_fwhm))
    basis = choose_basis(low, high)
    blur = 1.0 / (1.0 + 4 * math.pi * (high**2 - low**2) * SIGMA_OF_FWHM**2)
    levels = _typical(sharp_variance, good), _typical(broad_variance, good)

    filled, filled_variance = pixels.bridge(sharp, sharp_bad), pixels.bridge(sharp_variance, sharp_bad)
    padded = pad(filled, basis.radius)
    weight = pixels.fit_weights(
        filled,
        sharp_variance,
        sharp_bad,
        broad,
        broad_variance,
        broad_bad,
        blur,
        math.ceil(basis.sigmas[1]) + 1,
    )
    stars = np.column_stack([np.asarray(stars_x, float), np.asarray(stars_y, float)]).reshape(-1, 2)
    fit, fitted_on, n_stars = _fit(padded, broad, weight, stars, basis, high, order)
    kernel = fit.kernel
    if not kernel.sum > 0:
        raise BadInputError(
            f"The fitted flux ratio is {kernel.sum:.3g}",
            "subtraction",
            "the two images do not show the same stars: check the registration and the star list",
        )

    kernels = _on_blocks(kernel, science.shape)
    smooth = convolve_blocks(padded, kernels, BLOCK, science.shape)
    smooth_variance = convolve_blocks(pad(filled_variance, basis.radius), kernels**2, BLOCK, science.shape)
    difference, variance, matched, matched_variance = pixels.combine(
        smooth, smooth_variance, broad, broad_variance, side == "science", kernel.sum, _plane(kernel)
    )
    bad = science_bad | template_bad
    scale = 1.0 if side == "template" else 1.0 / kernel.sum
    pixels.spread_bad(padded, sharp_bad, kernels, BLOCK, scale, variance, bad)

    if decorrelate:
        flat = kernels.reshape(-1, basis.size, basis.size)
        whitening = np.array([whitening_kernel(k, *levels) for k in flat]).reshape(kernels.shape)
        open_sky = pixels.fill(difference, bad, 0.0, basis.radius, GROUP)
        difference = convolve_blocks(open_sky, whitening, BLOCK, science.shape)
        _scale_blocks(variance, _whitening_gain(kernels, *levels))
    noise_ratio = pixels.remove_background(
        difference, variance, bad, min(BLOCK, max(32, min(science.shape) // 3))
    )
    pixels.blank(difference, planes[0], planes[3])
    psf, template_psf = _psfs(science_psf, science_fwhm, kernel, side, levels if decorrelate else None)
    return Subtraction(
        difference=difference,
        variance=variance,
        bad=bad,
        matched_template=matched,
        template_variance=matched_variance,
        convolved=side,
        kernel=kernel,
        flux_ratio=kernel.sum if side == "template" else 1.0 / kernel.sum,
        psf=psf,
        template_psf=template_psf,
        fitted_on=fitted_on,
        n_stars=n_stars,
        noise_ratio=noise_ratio,
        decorrelated=decorrelate,
    )


def _check(planes: tuple[NDArray[np.generic], ...], science_fwhm: float, template_fwhm: float) -> None:
    """Refuse planes that do not fit together and widths that are none."""
    if any(p.shape != planes[0].shape for p in planes):
        raise BadInputError(
            f"Science image and template differ in shape: {planes[0].shape} and {planes[3].shape}",
            "subtraction",
            "warp the template onto the science image's grid first",
        )
    for name, fwhm in (("science", science_fwhm), ("template", template_fwhm)):
        if not (math.isfinite(fwhm) and 0.5 < fwhm < 40):
            raise BadInputError(
                f"The {name} FWHM is {fwhm} pixels",
                "subtraction",
                "measure it on stars; 0.5 to 40 is possible",
            )


def _typical(variance: NDArray[np.float32], good: NDArray[np.bool_]) -> float:
    """Return the median variance of good pixels, from a sample."""
    step = max(1, good.size // 100_000)
    sample = variance.ravel()[::step][good.ravel()[::step]]
    return float(np.median(sample if sample.size else variance[good]))


def _fit(
    padded: NDArray[np.float32],
    broad: NDArray[np.float32],
    weight: NDArray[np.float32],
    stars: NDArray[np.float64],
    basis: Basis,
    fwhm: float,
    order: int,
) -> tuple[Fit, Literal["stars", "image"], int]:
    """Fit the kernel on stars if there are enough in a large image, else on everything that shines."""
    ny, nx = broad.shape
    r = basis.radius
    sharp = padded[r : r + ny, r : r + nx]
    stars = stars[np.isfinite(stars).all(axis=1)]
    snr, whole = pixels.star_quality(stars, broad, weight, fwhm)
    sharp_snr, _ = pixels.star_quality(stars, sharp, weight, fwhm)
    if min(ny, nx) >= SMALL:
        half = min(20, max(10, math.ceil(3 * fwhm)))
        snr = np.minimum(snr, sharp_snr)
        chosen = _choose_stars(stars, snr, whole & (snr > MIN_STAR_SNR), half, (ny, nx))
        if chosen.size >= MIN_STARS:
            corner = np.rint(stars[chosen]).astype(np.int64) - half
            stamps = cut_stamps(padded, broad, weight, corner[:, 0], corner[:, 1], 2 * half + 1, basis)
            fit = fit_on_stars(stamps, basis, (ny, nx), order)
            if np.count_nonzero(fit.used) >= MIN_STARS:
                return fit, "stars", int(np.count_nonzero(fit.used))
    lit = _light_map(sharp, broad, weight, math.ceil(1.5 * fwhm))
    stamps = _tiles(padded, broad, np.where(lit, weight, np.float32(0)), basis)
    return fit_on_image(stamps, basis, (ny, nx)), "image", int(np.count_nonzero(whole & (snr > MIN_STAR_SNR)))


def _choose_stars(
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


def _on_blocks(kernel: SpatialKernel, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the kernel at the middle of each block; (blocks in y, blocks in x, size, size)."""
    centers = [
        (np.arange(0, n, BLOCK) + np.minimum(np.arange(0, n, BLOCK) + BLOCK, n) - 1) / 2 for n in shape
    ]
    y, x = np.meshgrid(*centers, indexing="ij")
    return kernel.at(x.ravel(), y.ravel()).reshape(*x.shape, kernel.basis.size, kernel.basis.size)


def _plane(kernel: SpatialKernel) -> tuple[float, float, float]:
    """Return the fitted background difference as value at (0, 0) and slopes per pixel."""
    c = np.zeros(3)
    c[: kernel.background.size] = kernel.background
    x, y = float(c[1]) / kernel.scale[0], float(c[2]) / kernel.scale[1]
    return float(c[0]) - x * kernel.center[0] - y * kernel.center[1], x, y


def _whitening_gain(
    kernels: NDArray[np.float64], noise_of_convolved: float, noise_of_other: float
) -> NDArray[np.float64]:
    """Return by how much whitening at constant flux changes the variance of each block."""
    total = kernels.sum(axis=(2, 3)) ** 2
    squares = (kernels**2).sum(axis=(2, 3))
    return np.asarray(
        (noise_of_other + noise_of_convolved * total) / (noise_of_other + noise_of_convolved * squares)
    )


def _scale_blocks(plane: NDArray[np.float32], factors: NDArray[np.float64]) -> None:
    """Multiply each block of an image, in place."""
    for (by, bx), factor in np.ndenumerate(factors):
        plane[by * BLOCK : (by + 1) * BLOCK, bx * BLOCK : (bx + 1) * BLOCK] *= np.float32(factor)


def moffat_psf(fwhm: float, beta: float = 3.0) -> PixelPsf:
    """Return a round Moffat profile as a PSF model, for images of which only the seeing is known."""
    half = math.ceil(3 * fwhm)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    core = fwhm / 2 / math.sqrt(2 ** (1 / beta) - 1)
    profile = (1 + (x * x + y * y) / core**2) ** -beta
    return PixelPsf((profile / profile.sum())[None])


def _psfs(
    science_psf: PixelPsf | None,
    fwhm: float,
    kernel: SpatialKernel,
    side: Side,
    levels: tuple[float, float] | None,
) -> tuple[PixelPsf, PixelPsf]:
    """Return the PSF of the difference and that of the matched template.

    The science image's PSF, convolved with the matching kernel if the science image was, and for the
    difference with the whitening kernel of the two noise ``levels``; sampled over the image and fitted with a
    polynomial of the higher of the two orders. They keep the size of the science image's PSF.
    """
    model = science_psf or moffat_psf(fwhm)
    order = max(model.order, kernel.order)
    u, v = (grid.ravel() for grid in np.meshgrid(np.linspace(-0.9, 0.9, 4), np.linspace(-0.9, 0.9, 4)))
    if order == 0:
        u, v = np.zeros(1), np.zeros(1)
    x, y = kernel.center[0] + u * kernel.scale[0], kernel.center[1] + v * kernel.scale[1]
    difference, template = [], []
    for xi, yi, shape in zip(x, y, kernel.at(x, y), strict=True):
        star = np.pad(model.kernel(xi, yi), kernel.basis.radius)
        if side == "science":
            star = ndimage.convolve(star, shape / shape.sum(), mode="constant")
        template.append(star)
        difference.append(
            star
            if levels is None
            else ndimage.convolve(star, whitening_kernel(shape, *levels), mode="constant")
        )
    terms = polynomial(order, u, v)

    def fitted(stars: list[NDArray[np.float64]]) -> PixelPsf:
        r = kernel.basis.radius
        flat = np.array([(s / s.sum())[r:-r, r:-r] for s in stars])
        found = np.linalg.pinv(terms) @ flat.reshape(len(stars), -1)
        return PixelPsf(found.reshape(-1, *flat[0].shape), order, kernel.center, kernel.scale)

    return fitted(difference), fitted(template)
