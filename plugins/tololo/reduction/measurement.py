"""Background, PSF and stars of one detector, in whatever counts its pixels are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.formats.images import Planes
from tololo.reduction.kernels.background import estimate_level
from tololo.reduction.kernels.detection import detect_sources
from tololo.reduction.kernels.field_fit import fit_field
from tololo.reduction.kernels.photometry import psf_photometry
from tololo.reduction.kernels.planes import check_planes
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.psffit import fit_psf
from tololo.reduction.kernels.psfstars import SHAPE_HALF_WIDTH, measure_shapes, stellar_size

FIRST_FWHM = 4.0
"""Pixels; the PSF with which sources are found before the real one is known."""

SMALLEST_FWHM, LARGEST_FWHM = 2.0, 12.0
"""Pixels; a first guess beyond these is not believed."""

MIDDLE, ENOUGH = 1024, 10
"""Pixels; side of the piece in which the seeing is looked for first, and the stars that it must show."""

ROUND = 0.3
"""Largest ellipticity of what may be a star: tracks of cosmic rays are longer."""

MOFFAT_WIDTH = 0.885
"""Half-maximum width of a Moffat profile (beta = 3) relative to the Gaussian of its adaptive moments."""


@dataclass(frozen=True)
class FirstLook:
    """A detector less its sky, and the sources that a rough PSF finds on it.

    Attributes
    ----------
    planes : `Planes`
        The pixels, counts with the sky in them.
    bad : `numpy.ndarray`, (ny, nx), bool
        Pixels that are not to be measured.
    data : `numpy.ndarray`, (ny, nx), float32
        The image less its sky.
    found : structured `numpy.ndarray`
        As `detect_sources` returns them.
    """

    planes: Planes
    bad: NDArray[np.bool_]
    data: NDArray[np.float32]
    found: NDArray[np.void]


@dataclass(frozen=True)
class Measured:
    """What has been measured on the pixels of a detector.

    Attributes
    ----------
    planes : `Planes`
        The pixels, counts with the sky in them.
    bad : `numpy.ndarray`, (ny, nx), bool
        Pixels that are not to be measured.
    data : `numpy.ndarray`, (ny, nx), float32
        The image less its sky.
    psf : `PixelPsf`
    psf_stars, stars : structured `numpy.ndarray`
        As `fit_psf` and `psf_photometry` return them; of the latter only stars with a flux.
    residual : `numpy.ndarray`, (ny, nx), float32, optional
        The image less its sky and its stars.
    """

    planes: Planes
    bad: NDArray[np.bool_]
    data: NDArray[np.float32]
    psf: PixelPsf
    psf_stars: NDArray[np.void]
    stars: NDArray[np.void]
    residual: NDArray[np.float32] | None = None

    @property
    def sample(self) -> tuple[slice, slice]:
        """Pixels that stand for all of them: every second of each row and column of a whole CCD."""
        step = max(1, min(self.data.shape) // 1024)
        return np.s_[::step, ::step]

    @property
    def sky(self) -> float:
        """Median of the background, counts."""
        return float(np.median(self.planes.image[self.sample] - self.data[self.sample]))

    @property
    def noise(self) -> float:
        """Standard deviation of a pixel of the sky, counts."""
        good = ~self.bad[self.sample]
        return float(np.sqrt(np.median(self.planes.variance[self.sample][good])))


def first_psf(fwhm: float = FIRST_FWHM) -> PixelPsf:
    """Return a round Moffat (beta = 3) PSF."""
    half = math.ceil(3 * fwhm)
    axis = np.arange(-half, half + 1)
    alpha = fwhm / 2 / math.sqrt(2 ** (1 / 3) - 1)
    profile = (1 + (axis[:, None] ** 2 + axis**2) / alpha**2) ** -3.0
    return PixelPsf((profile / profile.sum())[None])


def first_look(planes: Planes, fwhm: float | None = None, *, deblend: bool = True) -> FirstLook:
    """Subtract the background and find sources.

    Parameters
    ----------
    planes : `Planes`
        Counts, sky included.
    fwhm : `float`, optional
        Rough seeing in pixels; found from the image where it is not given.
    deblend : `bool`
        Also look for close neighbours.

    Raises
    ------
    BadInputError
        There are not enough good pixels.
    """
    bad = planes.bad
    data = np.subtract(planes.image, estimate_level(planes.image, bad), dtype=np.float32)
    guess = first_psf(fwhm or seeing(data, planes.variance, bad))
    return FirstLook(planes, bad, data, detect_sources(data, planes.variance, bad, guess, deblend=deblend))


def measure(look: FirstLook, known: NDArray[np.bool_] | None) -> Measured:
    """Fit the PSF, and with it find and fit the stars.

    Parameters
    ----------
    look : `FirstLook`
    known : `numpy.ndarray`, (n,), bool, optional
        Which of its sources are stars for certain.

    Raises
    ------
    NothingToDoError
        No source can serve as a PSF star.
    """
    data, variance, bad, found = look.data, look.planes.variance, look.bad, look.found
    psf, psf_stars = fit_psf(data, variance, bad, found["x"], found["y"], found["flux"], point_like=known)
    found = detect_sources(data, variance, bad, psf)
    stars = psf_photometry(data, variance, bad, psf, found["x"], found["y"])
    return Measured(look.planes, bad, data, psf, psf_stars, _with_flux(stars))


def measure_at_once(look: FirstLook, clear: NDArray[np.bool_], known: NDArray[np.bool_]) -> Measured:
    """Fit the PSF, and fit with it the stars of a first look that has not deblended, and their neighbours.

    It finds and gives the same as `measure` in half the time.

    Parameters
    ----------
    look : `FirstLook`
    clear : `numpy.ndarray`, (n,), bool
        Which of its sources the PSF's stars are chosen of: without the faintest, that takes less time.
    known : `numpy.ndarray`, (m,), bool
        Which of these are stars for certain.

    Raises
    ------
    NothingToDoError
        No source can serve as a PSF star.
    """
    data, variance, bad, found = look.data, look.planes.variance, look.bad, look.found[clear]
    psf, psf_stars = fit_psf(data, variance, bad, found["x"], found["y"], found["flux"], point_like=known)
    stars, residual = fit_field(data, variance, bad, psf, look.found)
    return Measured(look.planes, bad, data, psf, psf_stars, _with_flux(stars), residual)


def _with_flux(stars: NDArray[np.void]) -> NDArray[np.void]:
    good = np.isfinite(stars["flux"]) & np.isfinite(stars["flux_err"]) & (stars["flux_err"] > 0)
    return stars[good]


def seeing(data: NDArray[np.float32], variance: NDArray[np.float32], bad: NDArray[np.bool_]) -> float:
    """Return a first FWHM (pixels): too sharp a PSF would see neighbours in the wings of every star."""
    found = detect_sources(data, variance, bad, first_psf(), threshold=20.0, deblend=False)[:200]
    stars = psf_photometry(data, variance, bad, first_psf(), found["x"], found["y"])
    widths = stars["fwhm"][np.isfinite(stars["fwhm"]) & (stars["good_fraction"] > 0.98)]
    # Galaxies are wider than stars, so the lower quartile is nearer to them than the median.
    return (
        float(np.clip(np.percentile(widths, 25), SMALLEST_FWHM, LARGEST_FWHM)) if widths.size else FIRST_FWHM
    )


def seeing_among_cosmic_rays(planes: Planes) -> float:
    """Return the FWHM (pixels) at which round sources pile up, in the middle of the image if that will do."""
    ny, nx = planes.image.shape
    middle = np.s_[max(0, (ny - MIDDLE) // 2) :, max(0, (nx - MIDDLE) // 2) :]
    widths = np.empty(0)
    for piece in (tuple(slice(s.start, s.start + MIDDLE) for s in middle), np.s_[:, :]):
        part = Planes(planes.image[piece], planes.variance[piece], planes.bits[piece])
        bad = part.bad
        data, noise, masked = check_planes(part.image - estimate_level(part.image, bad), part.variance, bad)
        found = detect_sources(data, noise, masked, first_psf(), threshold=20.0, deblend=False)[:500]
        shapes = np.full((len(found), 6), np.nan)
        measure_shapes(data, noise, masked, found["x"].copy(), found["y"].copy(), SHAPE_HALF_WIDTH, shapes)
        round_ = np.hypot(shapes[:, 3], shapes[:, 4]) < ROUND
        widths = shapes[round_ & (shapes[:, 2] > SMALLEST_FWHM) & (shapes[:, 5] > 20), 2]
        if len(widths) >= ENOUGH:
            break
    # That of a Gaussian with the stars' moments is wider than their half maximum.
    width = MOFFAT_WIDTH * stellar_size(widths) if len(widths) else FIRST_FWHM
    return float(np.clip(width, SMALLEST_FWHM, LARGEST_FWHM))
