"""Sources in a difference image: detection, measurement, and what tells transients from residuals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.detection import correlate_separable, find_peaks, matched_filter, separate, trim
from tololo.reduction.kernels.diashape import is_sharp, opposite_lobe, shapes, sizes
from tololo.reduction.kernels.photometry import aperture_photometry, forced_psf_photometry, psf_photometry
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.subtraction import Subtraction

FLAGS = ("bad", "saturated", "edge", "cr", "interpolated")
"""Planes that become the columns pixelFlags_*."""

KERNEL_ERROR = 0.005
"""Least part of a star's flux that the matching kernel is trusted to get wrong."""

KERNEL_ERROR_FEW = 0.03
"""The same where fewer than 10 stars say how good the kernel is."""

WING_ERROR = 0.15
"""Part of the light in the wings of very bright stars that counts as error: a kernel ends at its radius."""

WING_SNR = 1000.0
"""Template sources above this have such wings, out to 12 FWHM."""

INEXACT_ERROR = 0.15
"""Part of a star's flux that is left where the template's PSF is another than that of its surroundings."""

STAR_SNR = 50.0
"""Template sources above this tell the kernel's error."""

FLANK = 0.1
"""A detection within three FWHM of one this much brighter belongs to it."""

REASONS = (
    "masked",  # less than 0.7 of its light is on good pixels, or none of the flux could be fitted
    "flank",  # belongs to a much brighter detection beside it
    "too faint",  # below the limit at which noise alone makes few false ones
    "kernel error",  # not significant once the kernel's error on the template's light is counted as noise
    "dipole",  # two lobes of opposite sign: a star that moved or is registered badly
    "sharper than the PSF",  # cosmic ray or hot pixel
    "not a point source",  # neither the PSF nor a broader smooth shape
    "moved away",  # the fit of the position ran off or ended far from the detection
)
"""Why a detection is not taken for a transient; the first that applies is given."""


def measure_difference(
    subtraction: Subtraction,
    science: NDArray[np.float32],
    science_variance: NDArray[np.float32],
    science_bad: NDArray[np.bool_],
    science_psf: PixelPsf,
    *,
    planes: Mapping[str, NDArray[np.bool_]] | None = None,
    inexact: NDArray[np.bool_] | None = None,
    threshold: float = 5.0,
    limit: float = 5.5,
    pixel_scale: float = 0.263,
    aperture_radius: float | None = None,
) -> dict[str, NDArray[Any]]:
    """Detect and measure sources of both signs.

    Parameters
    ----------
    subtraction : `Subtraction`
        Difference image with its planes and PSF.
    science, science_variance, science_bad : `numpy.ndarray`, (ny, nx)
        The science image, for forced photometry.
    science_psf : `PixelPsf`
        Its PSF.
    planes : mapping of `str` to `numpy.ndarray` of `bool`, optional
        Mask planes by the names of `FLAGS`; missing ones are taken as empty.
    inexact : `numpy.ndarray` of `bool`, (ny, nx), optional
        Where the template's PSF is another than that of its surroundings.
    threshold : `float`
        Detection threshold in units of the noise of the PSF-matched filter.
    limit : `float`
        Detections below this score are rejected as too faint. Noise alone makes about 0.35 peaks beyond 5
        sigma in 1000 x 1000 pixels at 4.6 pixels FWHM, both signs counted, and 0.03 beyond 5.5.
    pixel_scale : `float`
        Arcseconds per pixel, for ``trailLength``.
    aperture_radius : `float`, optional
        Radius in pixels for ``apFlux``; by default twice the FWHM of the difference's PSF.

    Returns
    -------
    sources : `dict` [`str`, `numpy.ndarray`]
        Columns of the dia_source table as far as pixels give them, in the science image's unit: x, y, xErr,
        yErr, psfFlux, psfFluxErr, apFlux, apFluxErr, scienceFlux, scienceFluxErr, templateFlux,
        templateFluxErr, snr, isNegative, isDipole, dipoleFlux, trailLength (arcsec), extendedness,
        reliability, pixelFlags and pixelFlags_*; also chi2 (per degree of freedom of the PSF fit),
        ``detectionScore`` (signed, without the kernel's error) and ``rejection``: empty, or one of `REASONS`.
        Rows without a rejection are the transients; the others belong into the unfiltered table only.

    Notes
    -----
    The score is the PSF fit's flux over its error, divided by its own robust scatter over the image (1 if the
    variance is right). A bright star leaves residuals in proportion to its flux F: with the kernel error e,
    the 75th percentile of |residual| / F over the template's sources above S/N 50, the decisive score is flux
    / sqrt(error^2 + (e F)^2), F being the largest template flux nearby, tapered with the distance. ``snr`` is
    that score.

    ``reliability`` is a logistic function of plain features (see `reliability_of`), a ranking and not a
    calibrated probability.
    """
    ny, nx = subtraction.difference.shape
    kernel = subtraction.psf.kernel(nx / 2, ny / 2)
    fwhm = subtraction.psf.fwhm(nx / 2, ny / 2)
    score, flux, flux_variance = matched_filter(
        subtraction.difference, subtraction.variance, subtraction.bad, kernel
    )
    scatter = _scatter(score)
    light = _template_light(subtraction.matched_template, kernel)
    error = kernel_error(flux, flux_variance, light, fwhm)
    floor = np.zeros_like(light)
    _spread_light(light, flux_variance, error, fwhm, floor)
    _add_wings(light, *_bright_peaks(light, flux_variance), WING_ERROR / error, fwhm, floor)
    if inexact is not None and inexact.any():
        around = ndimage.maximum_filter(inexact, (2 * math.ceil(fwhm) + 1,) * 2)
        local = np.zeros_like(light)
        _spread_light(np.where(around, light, np.float32(0)), flux_variance, INEXACT_ERROR, fwhm, local)
        np.maximum(floor, local * np.float32(INEXACT_ERROR / error), out=floor)
    # So much of a pixel's value the kernel may have wrong; near a bright star it must not spoil a fit.
    misfit = floor * np.float32(error * kernel.max())
    noise = subtraction.variance + misfit * misfit

    x, y, peak = find_peaks(score, threshold * scatter, both_signs=True, edge=2)
    order = np.argsort(-np.abs(peak), kind="stable")
    x, y, peak = x[order], y[order], peak[order] / scatter
    i, j = np.rint(x).astype(int), np.rint(y).astype(int)
    sign = np.where(peak < 0, -1.0, 1.0)
    inflation = np.sqrt(1.0 + (error * floor[j, i] / (scatter * np.sqrt(flux_variance[j, i]))) ** 2)

    fit = psf_photometry(subtraction.difference, noise, subtraction.bad, subtraction.psf, x, y)
    lobe = opposite_lobe(score / np.float32(scatter), i, j, sign, 1.5 * fwhm)
    partner = np.hypot(lobe[:, 1] - x, lobe[:, 2] - y) > 0
    is_dipole = partner & (lobe[:, 0] > 3.5) & (lobe[:, 0] > 0.3 * np.abs(peak))
    shape = shapes(subtraction, kernel, fit["x"], fit["y"], sign)
    forced = fit["x"].copy(), fit["y"].copy()
    on_science = forced_psf_photometry(science, science_variance, science_bad, science_psf, *forced)
    on_template = forced_psf_photometry(
        subtraction.matched_template,
        subtraction.template_variance,
        subtraction.bad,
        subtraction.template_psf,
        *forced,
    )
    aperture = aperture_photometry(
        subtraction.difference,
        subtraction.variance,
        subtraction.bad,
        *forced,
        [aperture_radius or 2.0 * fwhm],
    )
    extent, trail = sizes(shape, np.abs(peak), pixel_scale)
    partner_flux = flux[lobe[:, 2].astype(int), lobe[:, 1].astype(int)]
    sources: dict[str, NDArray[Any]] = {
        "x": fit["x"],
        "y": fit["y"],
        "xErr": fit["x_err"],
        "yErr": fit["y_err"],
        "psfFlux": fit["flux"],
        "psfFluxErr": fit["flux_err"] * max(1.0, scatter),
        "apFlux": aperture["flux"][:, 0],
        "apFluxErr": aperture["flux_err"][:, 0],
        "scienceFlux": on_science["flux"],
        "scienceFluxErr": on_science["flux_err"],
        "templateFlux": on_template["flux"],
        "templateFluxErr": on_template["flux_err"],
        "snr": (peak / inflation).astype(np.float32),
        "isNegative": peak < 0,
        "isDipole": is_dipole,
        "dipoleFlux": np.where(is_dipole, 0.5 * (np.abs(fit["flux"]) + np.abs(partner_flux)), np.nan),
        "trailLength": trail,
        "extendedness": extent,
        "chi2": fit["chi2"],
        "detectionScore": peak.astype(np.float32),
    }
    for name in FLAGS:
        sources[f"pixelFlags_{name}"] = _near(None if planes is None else planes.get(name), i, j)
    sources["pixelFlags"] = np.any([sources[f"pixelFlags_{name}"] for name in FLAGS], axis=0)
    good = fit["good_fraction"]
    sources["reliability"] = reliability_of(
        np.abs(sources["snr"]), fit["chi2"], lobe[:, 0] / np.maximum(np.abs(peak), 1e-9), good, inflation
    )
    moved = np.hypot(fit["x"] - x, fit["y"] - y)
    worst = chi2_limit(np.abs(peak), kernel.size) * inflation**2
    faults = {
        "masked": ~np.isfinite(fit["flux"]) | (good < 0.7) | ~np.isfinite(fit["chi2"]),
        "flank": _flanks(x, y, flux[j, i], 3.0 * fwhm),
        "too faint": np.abs(peak) < limit,
        "kernel error": np.abs(peak) < limit * inflation,
        "dipole": is_dipole,
        "sharper than the PSF": is_sharp(subtraction, fit["flux"], i, j, sign, kernel),
        "not a point source": (fit["chi2"] > worst) & (extent < 0.1) & (trail == 0),
        "moved away": moved > max(1.0, 0.5 * fwhm),
    }
    rejection = np.full(x.size, "", dtype="<U24")
    for reason in reversed(REASONS):
        rejection[faults[reason]] = reason
    sources["rejection"] = rejection
    return sources


def reliability_of(
    snr: NDArray[np.floating],
    chi2: NDArray[np.floating],
    lobe: NDArray[np.floating],
    good: NDArray[np.floating],
    inflation: NDArray[np.floating],
) -> NDArray[np.float32]:
    """Rank detections between 0 (artefact) and 1 (transient).

    Parameters
    ----------
    snr : `numpy.ndarray`
        Score with the kernel's error.
    chi2 : `numpy.ndarray`
        Of the PSF fit, per degree of freedom.
    lobe : `numpy.ndarray`
        Strongest score of the other sign within 1.5 FWHM, relative to the source's own.
    good : `numpy.ndarray`
        Part of the PSF's light on good pixels.
    inflation : `numpy.ndarray`
        Noise with the kernel's error over noise without: large close to stars that are bright for their
        distance.

    Returns
    -------
    reliability : `numpy.ndarray`, float32
        1 / (1 + exp(-s)), s = 0.8 (min(snr, 12) - 5) + 1 - 2 max(0, ln chi2) - 6 max(0, lobe - 0.4)
        - 8 (1 - good) - ln(inflation); the weights are set by hand, not trained.
    """
    s = 0.8 * (np.minimum(snr, 12.0) - 5.0) + 1.0
    s = s - 2.0 * np.log(np.maximum(chi2, 1.0)) - 6.0 * np.maximum(lobe - 0.4, 0.0)
    s = s - 8.0 * (1.0 - good) - np.log(inflation)
    return np.asarray(np.nan_to_num(1.0 / (1.0 + np.exp(-s)), nan=0.0), np.float32)


def chi2_limit(score: NDArray[np.floating], pixels: int) -> NDArray[np.float64]:
    """Return the highest chi^2 per degree of freedom of a point source.

    Five sigma of its own scatter over so many pixels, an error of the PSF of a tenth of the source, and 0.1
    for the variance.
    """
    misfit = (0.1 * np.asarray(score, float)) ** 2 / pixels
    return np.asarray(1.1 + misfit + 5.0 * math.sqrt(2.0 / pixels))


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
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        bright = light / np.sqrt(flux_variance)
    x, y, _ = find_peaks(np.where(np.isfinite(bright), bright, 0), STAR_SNR, edge=2)
    reach = math.ceil(fwhm)
    shares = []
    for i, j in zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True):
        box = np.s_[max(0, j - reach) : j + reach + 1, max(0, i - reach) : i + reach + 1]
        usable = np.isfinite(flux_variance[box])
        if np.count_nonzero(usable) < 0.8 * usable.size:
            continue
        left = float(np.max(np.abs(flux[box][usable])))
        # The largest of so many pixels of noise alone is about 2.5 sigma.
        noise = 2.5 * math.sqrt(float(np.median(flux_variance[box][usable])))
        shares.append(math.sqrt(max(0.0, left**2 - noise**2)) / float(light[j, i]))
    least = KERNEL_ERROR if len(shares) >= 10 else KERNEL_ERROR_FEW
    return max(least, float(np.percentile(shares, 75))) if shares else least


def _scatter(score: NDArray[np.float32]) -> float:
    """Robust scatter of the score image: 1 if the variance is right."""
    sample = score.ravel()[:: max(1, score.size // 300_000)]
    sample = sample[sample != 0]
    if sample.size < 100:
        return 1.0
    return max(0.8, float(1.4826 * np.median(np.abs(sample - np.median(sample)))))


def _template_light(template: NDArray[np.float32], kernel: NDArray[np.float64]) -> NDArray[np.float32]:
    """Flux of the template as if each pixel were the centre of a star."""
    narrow = trim(kernel)
    light = np.zeros_like(template)
    correlate_separable(np.nan_to_num(template, nan=0.0), *separate(narrow / (narrow**2).sum()), light)
    return light


@compiled
def _spread_light(
    light: NDArray[np.float32],
    flux_variance: NDArray[np.float32],
    error: float,
    fwhm: float,
    floor: NDArray[np.float32],
) -> None:
    """Fill ``floor`` with the largest nearby template flux, tapered, where its kernel error matters.

    The lobes that a wrong kernel leaves lie within a FWHM of the star: the taper is a Gaussian of sigma 0.6
    FWHM.
    """
    ny, nx = light.shape
    share = np.float32(16.0 * error * error)
    reach = math.ceil(1.5 * fwhm)
    taper = np.empty((2 * reach + 1, 2 * reach + 1), np.float32)
    for j in range(-reach, reach + 1):
        for i in range(-reach, reach + 1):
            taper[j + reach, i + reach] = math.exp(-0.5 * (i * i + j * j) / (0.6 * fwhm) ** 2)
    for y in range(ny):
        for x in range(nx):
            value = light[y, x]
            if value <= 0.0 or share * value * value < flux_variance[y, x] < np.inf:
                continue
            for j in range(max(0, y - reach), min(ny, y + reach + 1)):
                for i in range(max(0, x - reach), min(nx, x + reach + 1)):
                    floor[j, i] = max(floor[j, i], value * taper[j - y + reach, i - x + reach])


@compiled
def _add_wings(
    light: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    factor: float,
    fwhm: float,
    floor: NDArray[np.float32],
) -> None:
    """Raise ``floor`` to ``factor`` times the light in the wings of stars, from 1.5 to 12 FWHM."""
    ny, nx = light.shape
    reach = math.ceil(12.0 * fwhm)
    for s in range(x.size):
        ci, cj = round(x[s]), round(y[s])
        for j in range(max(0, cj - reach), min(ny, cj + reach + 1)):
            for i in range(max(0, ci - reach), min(nx, ci + reach + 1)):
                if 2.25 * fwhm * fwhm < (i - ci) ** 2 + (j - cj) ** 2 <= reach * reach:
                    floor[j, i] = max(floor[j, i], factor * light[j, i])


def _bright_peaks(
    light: NDArray[np.float32], flux_variance: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions of the template's sources above `WING_SNR`, saturated ones included."""
    usual = flux_variance[:: max(1, light.shape[0] // 200), :: max(1, light.shape[1] // 200)]
    noise = math.sqrt(float(np.median(usual[np.isfinite(usual)]))) if np.isfinite(usual).any() else 1.0
    x, y, _ = find_peaks(light, WING_SNR * noise, edge=1)
    return x, y


def _flanks(
    x: NDArray[np.float64], y: NDArray[np.float64], flux: NDArray[np.float32], radius: float
) -> NDArray[np.bool_]:
    """Say which detections lie within ``radius`` of one that is ten times brighter."""
    out = np.zeros(x.size, np.bool_)
    for s in range(x.size):
        near = (np.abs(x - x[s]) < radius) & (np.abs(y - y[s]) < radius)
        near &= np.hypot(x - x[s], y - y[s]) < radius
        out[s] = bool(np.any(FLANK * np.abs(flux[near]) > abs(flux[s])))
    return out


def _near(plane: NDArray[np.bool_] | None, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say whether any of the 3 x 3 pixels around each position is set in a plane."""
    if plane is None:
        return np.zeros(i.size, np.bool_)
    ny, nx = plane.shape
    near = [
        plane[np.clip(j + b, 0, ny - 1), np.clip(i + a, 0, nx - 1)] for a in (-1, 0, 1) for b in (-1, 0, 1)
    ]
    return np.asarray(np.any(near, axis=0))
