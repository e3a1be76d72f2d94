"""Image subtraction: match the PSFs, subtract, keep the books.

After Alard & Lupton (1998, ApJ 503, 325) here, after Zackay, Ofek & Gal-Yam (2016) in `zogy`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels import subtraction_pixels as pixels
from tololo.reduction.kernels.convolution import MARGIN, convolve_blocks, pad, trim
from tololo.reduction.kernels.decorrelation import Noise, whiten
from tololo.reduction.kernels.difference_background import remove_background, score_scatter
from tololo.reduction.kernels.difference_psf import difference_psfs
from tololo.reduction.kernels.kernel_fit import fit_kernel
from tololo.reduction.kernels.matching import SIGMA_OF_FWHM, SpatialKernel, choose_basis, constant_kernel
from tololo.reduction.kernels.planes import check_planes
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.subtraction_input import Image, typical_variance
from tololo.reduction.kernels.zogy import zogy

Side = Literal["template", "science"]
Method = Literal["alard_lupton", "zogy"]

BLOCK = 128
"""Side in pixels of the blocks over which the kernel is constant."""

COARSE = 2
"""Blocks along a side over which the kernel that whitens the noise is constant: it varies little."""

VARIANCE_RING = 1e-3
"""Rings of the squared kernel with a smaller part of its sum go into the others of the variance's kernel."""


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
    """Which of the two images was convolved: the sharper. "template" where both were (``zogy``)."""

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

    method: Method = "alard_lupton"
    """How it was made."""

    @cached_property
    def score_scatter(self) -> float:
        """Robust scatter of the matched filter's signal to noise: 1 if the noise is white and as stated."""
        return score_scatter(self.difference, self.variance, self.bad, self.psf)


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
    template_psf: PixelPsf | None = None,
    order: int = 2,
    decorrelate: bool = True,
    convolve: Side | None = None,
    method: Method = "alard_lupton",
    template_covariance: NDArray[np.float64] | None = None,
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
    science_psf, template_psf : `PixelPsf`, optional
        PSFs of the images; by default Moffat profiles of their FWHM. Alard & Lupton's method takes from that
        of the science image the PSF of the difference; ``zogy`` needs good ones of both.
    order : `int`
        Highest order of the kernel's variation over the image; falls back with few or badly spread stars.
    decorrelate : `bool`
        Whiten the noise of the difference (``zogy`` always does).
    convolve : {"template", "science"}, optional
        Convolve this image, whatever the FWHMs say.
    method : {"alard_lupton", "zogy"}
        How to subtract.
    template_covariance : `numpy.ndarray`, (2m + 1, 2m + 1), optional
        Covariance of the template's noise with that of the pixel so far away, in units of
        ``template_variance``: what resampling leaves, see `covariance.resampled_covariance`. By default the
        pixels are independent.

    Returns
    -------
    subtraction : `Subtraction`

    Raises
    ------
    BadInputError
        If planes differ in shape, an FWHM or variance is not positive, or the fitted flux ratio is not
        positive.
    NothingToDoError
        If the images have no good pixels in common, not enough light to fit a kernel on, or the template's
        FWHM is NaN: not known.

    Notes
    -----
    A bad pixel of the convolved image is bridged by its neighbours; output pixels are bad where what it may
    hide, spread by the kernel, exceeds half the noise: a hot pixel in the sky costs a few pixels, a saturated
    star a disk. A smooth background (128-pixel mesh, smaller in small images) is taken off at the end.
    """
    planes = (science, science_variance, science_bad, template, template_variance, template_bad)
    _check(planes, science_fwhm, template_fwhm, template_covariance)
    science, science_variance, science_bad = check_planes(science, science_variance, science_bad)
    template, template_variance, template_bad = check_planes(template, template_variance, template_bad)
    good = ~(science_bad | template_bad)
    if np.count_nonzero(good) < BLOCK:
        raise NothingToDoError(
            f"Science image and template have {np.count_nonzero(good)} good pixels in common",
            "subtraction",
            "check that they overlap and which mask planes count as bad",
        )
    correlation = None
    if template_covariance is not None:
        own = float(template_covariance[template_covariance.shape[0] // 2, template_covariance.shape[1] // 2])
        correlation = template_covariance / own
        template_variance = template_variance * np.float32(own)
    images: dict[Side, Image] = {
        "science": Image(
            science,
            science_variance,
            science_bad,
            Noise(typical_variance(science_variance, good)),
            science_fwhm,
            science_psf or moffat_psf(science_fwhm),
        ),
        "template": Image(
            template,
            template_variance,
            template_bad,
            Noise(typical_variance(template_variance, good), correlation),
            template_fwhm,
            template_psf or moffat_psf(template_fwhm),
        ),
    }
    stars = np.column_stack([np.asarray(stars_x, float), np.asarray(stars_y, float)]).reshape(-1, 2)
    stars = stars[np.isfinite(stars).all(axis=1)]
    if method == "zogy":
        result = _zogy(images["science"], images["template"], stars)
    else:
        side: Side = convolve or ("template" if template_fwhm <= science_fwhm else "science")
        result = _alard_lupton(images, side, stars, order, decorrelate)
    pixels.blank(result.difference, planes[0], planes[3])
    return result


def _alard_lupton(
    images: dict[Side, Image],
    side: Side,
    stars: NDArray[np.float64],
    order: int,
    decorrelate: bool,
) -> Subtraction:
    """Convolve one image with the kernel that matches it to the other, and subtract."""
    sharp, broad = images[side], images["science" if side == "template" else "template"]
    shape = sharp.pixels.shape
    low, high = sorted((sharp.fwhm, broad.fwhm))
    basis = choose_basis(low, high)
    blur = 1.0 / (1.0 + 4 * math.pi * (high**2 - low**2) * SIGMA_OF_FWHM**2)
    filled, filled_variance = pixels.bridge(sharp.pixels, sharp.bad), pixels.bridge(sharp.variance, sharp.bad)
    padded = pad(filled, basis.radius)
    weight = pixels.fit_weights(
        filled,
        sharp.variance,
        sharp.bad,
        broad.pixels,
        broad.variance,
        broad.bad,
        blur,
        math.ceil(basis.sigmas[1]) + 1,
    )
    fit, fitted_on, n_stars = fit_kernel(padded, broad.pixels, weight, stars, basis, high, order)
    kernel = fit.kernel
    if not kernel.sum > 0:
        raise BadInputError(
            f"The fitted flux ratio is {kernel.sum:.3g}",
            "subtraction",
            "the two images do not show the same stars: check the registration and the star list",
        )

    kernels = _on_blocks(kernel, shape, BLOCK)
    coarse = _on_blocks(kernel, shape, COARSE * BLOCK)
    whitening = whiten(coarse.reshape(-1, basis.size, basis.size), sharp.noise, broad.noise)
    correlated = np.kron(whitening.correlated.reshape(coarse.shape[:2]), np.ones((COARSE, COARSE)))
    correlated = correlated[: kernels.shape[0], : kernels.shape[1], None, None]
    whole = kernels**2 * correlated
    squares = trim(whole, VARIANCE_RING)
    squares = squares * (whole.sum(axis=(2, 3)) / squares.sum(axis=(2, 3)))[..., None, None]
    smooth = convolve_blocks(padded, kernels, BLOCK, shape)
    smooth_variance = convolve_blocks(pad(filled_variance, squares.shape[-1] // 2), squares, BLOCK, shape)
    difference, variance, matched, matched_variance = pixels.combine(
        smooth,
        smooth_variance,
        broad.pixels,
        broad.variance,
        side == "science",
        kernel.sum,
        _plane(kernel),
    )
    bad = sharp.bad | broad.bad
    scale = 1.0 if side == "template" else 1.0 / kernel.sum
    pixels.spread_bad(padded, sharp.bad, kernels, BLOCK, scale, variance, bad)

    if decorrelate:
        whiteners = whitening.kernels.reshape(*coarse.shape[:2], *whitening.kernels.shape[1:])
        open_sky = pixels.fill(difference, bad, 0.0, whiteners.shape[-1] // 2, MARGIN)
        difference = convolve_blocks(open_sky, whiteners, COARSE * BLOCK, shape)
        _scale_blocks(variance, whitening.gain.reshape(coarse.shape[:2]), COARSE * BLOCK)
    noise_ratio = remove_background(difference, variance, bad, _mesh(shape))
    noise = (sharp.noise, broad.noise) if decorrelate else None
    psf, template_psf = difference_psfs(images["science"].psf, kernel, side == "science", noise)
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


def _zogy(science: Image, template: Image, stars: NDArray[np.float64]) -> Subtraction:
    """Subtract with both PSFs and no matching kernel."""
    result = zogy(science, template, stars)
    bad, ratio = result.bad, result.flux_ratio
    noise_ratio = remove_background(result.difference, result.variance, bad, _mesh(bad.shape))
    return Subtraction(
        difference=result.difference,
        variance=result.variance,
        bad=bad,
        matched_template=template.pixels * np.float32(ratio),
        template_variance=template.variance * np.float32(ratio**2),
        convolved="template",
        kernel=constant_kernel(ratio, bad.shape),
        flux_ratio=ratio,
        psf=result.psf,
        template_psf=template.psf,
        fitted_on="stars",
        n_stars=result.n_stars,
        noise_ratio=noise_ratio,
        decorrelated=True,
        method="zogy",
    )


def _mesh(shape: tuple[int, ...]) -> int:
    """Return the width of the background's mesh in pixels."""
    return min(BLOCK, max(32, min(shape) // 3))


def _check(
    planes: tuple[NDArray[np.generic], ...],
    science_fwhm: float,
    template_fwhm: float,
    covariance: NDArray[np.float64] | None,
) -> None:
    """Refuse planes that do not fit together and widths that are none."""
    if any(p.shape != planes[0].shape for p in planes):
        raise BadInputError(
            f"Science image and template differ in shape: {planes[0].shape} and {planes[3].shape}",
            "subtraction",
            "warp the template onto the science image's grid first",
        )
    if math.isnan(template_fwhm):
        raise NothingToDoError(
            "The template has no PSF model on the detector",
            "subtraction",
            "rebuild it from visits whose PSF is known",
        )
    for name, fwhm in (("science", science_fwhm), ("template", template_fwhm)):
        if not (math.isfinite(fwhm) and 0.5 < fwhm < 40):
            raise BadInputError(
                f"The {name} FWHM is {fwhm} pixels",
                "subtraction",
                "measure it on stars; 0.5 to 40 is possible",
            )
    if covariance is None:
        return
    size = covariance.shape[0] if covariance.ndim == 2 else 0
    if covariance.shape != (size, size) or size % 2 == 0 or not covariance[size // 2, size // 2] > 0:
        raise BadInputError(
            f"The template's covariance has the shape {covariance.shape}",
            "subtraction",
            "give it for lags -m to m in y and x, the variance (above 0) in the middle",
        )


def _on_blocks(kernel: SpatialKernel, shape: tuple[int, ...], block: int) -> NDArray[np.float64]:
    """Return the kernel at the middle of each block; (blocks in y, blocks in x, size, size)."""
    firsts = [np.arange(0, n, block) for n in shape]
    middles = [(first + np.minimum(first + block, n) - 1) / 2 for first, n in zip(firsts, shape, strict=True)]
    y, x = np.meshgrid(*middles, indexing="ij")
    return kernel.at(x.ravel(), y.ravel()).reshape(*x.shape, kernel.basis.size, kernel.basis.size)


def _plane(kernel: SpatialKernel) -> tuple[float, float, float]:
    """Return the fitted background difference as value at (0, 0) and slopes per pixel."""
    c = np.zeros(3)
    c[: kernel.background.size] = kernel.background
    x, y = float(c[1]) / kernel.scale[0], float(c[2]) / kernel.scale[1]
    return float(c[0]) - x * kernel.center[0] - y * kernel.center[1], x, y


def _scale_blocks(plane: NDArray[np.float32], factors: NDArray[np.float64], block: int) -> None:
    """Multiply each block of an image, in place."""
    for (by, bx), factor in np.ndenumerate(factors):
        plane[by * block : (by + 1) * block, bx * block : (bx + 1) * block] *= np.float32(factor)


def moffat_psf(fwhm: float, beta: float = 3.0) -> PixelPsf:
    """Return a round Moffat profile as a PSF model, for images of which only the seeing is known."""
    half = math.ceil(3 * fwhm)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    core = fwhm / 2 / math.sqrt(2 ** (1 / beta) - 1)
    profile = (1 + (x * x + y * y) / core**2) ** -beta
    return PixelPsf((profile / profile.sum())[None])
