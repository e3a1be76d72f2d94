"""One InstCal detector: from ADU on the archive's astrometry to nJy on that of the reference stars.

What follows once the stars are measured and placed, raw detectors share (`zero_point_of`, `assemble`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
from lsst.images import ObservationSummaryStats
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.astrometry import Solution
from tololo.reduction.formats.dqmask import DQ
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.instcal import InstcalPixels
from tololo.reduction.formats.masks import BIT
from tololo.reduction.kernels.calibration import (
    ZeroPoint,
    fit_registration,
    limiting_magnitude,
    match_offsets,
    zero_point,
)
from tololo.reduction.kernels.photometry import aperture_photometry
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.measurement import Measured, first_look, measure
from tololo.reduction.references import ZERO_POINT, References

_log = logging.getLogger(__name__)

MATCH_RADIUS = 6.0
"""Pixels; how far the archive's astrometry may be off and still be recognised."""

LARGEST_SHIFT = 3.0
"""Pixels; a detector whose astrometry is further off is refused."""

NOTABLE_SHIFT = 0.3
"""Pixels; a shift beyond this is warned of."""

APERTURE_FWHM = 1.5
"""Radius of the aperture in units of the FWHM."""

_DQ_BITS = {
    DQ.BAD: "BAD",
    DQ.SAT: "SATURATED",
    DQ.BLEED: "SATURATED",
    DQ.CR: "COSMIC_RAY",
    DQ.NO_DATA: "NO_DATA",
    DQ.SUSPECT: "SUSPECT",
    DQ.STREAK: "STREAK",
}


@dataclass
class CalibratedDetector:
    """A detector on the reference stars' astrometry, in nJy.

    ``zero_point`` is the AB magnitude of one count (ADU of InstCal, electron of raw detectors) in the whole
    exposure; ``njy_per_adu`` the calibration of the pixels; ``summary`` one row of `visit_summary`.
    """

    planes: Planes
    psf: PixelPsf
    wcs: WCS
    stars: Table
    zero_point: ZeroPoint
    njy_per_adu: float
    stats: ObservationSummaryStats
    summary: dict[str, Any]


def mask_bits(mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Turn the archive's data-quality planes into mask bits."""
    bits = np.zeros(mask.shape, np.int32)
    for flag, name in _DQ_BITS.items():
        bits[(mask & np.uint8(flag)) != 0] |= BIT[name]
    return bits


def calibrate(pixels: InstcalPixels, references: References, where: str) -> CalibratedDetector:
    """Measure PSF, astrometry and zero point of a detector and calibrate it.

    Parameters
    ----------
    pixels : `InstcalPixels`
        The detector as the archive gives it.
    references : `References`
        Stars on it, their pixel positions by the archive's WCS.
    where : `str`
        Exposure and detector, for messages.

    Raises
    ------
    BadInputError
        The astrometry is off by more than `LARGEST_SHIFT`, or there is no reference star to calibrate with.
    """
    planes = Planes(pixels.image, pixels.variance, mask_bits(pixels.mask))
    look = first_look(planes)
    measured = measure(look, _near_reference(look.found["x"], look.found["y"], references))
    solution = _register(pixels.wcs, measured.stars, references, where)
    zero = zero_point_of(measured.stars, solution, where)
    njy_per_adu = float(10 ** (0.4 * (ZERO_POINT - zero.value)))
    return assemble(measured, solution, zero, njy_per_adu, pixels.header)


def _near_reference(
    x: NDArray[np.float64], y: NDArray[np.float64], references: References
) -> NDArray[np.bool_] | None:
    """Tell which sources are reference stars, by the common offset of all."""
    known = np.zeros(len(x), bool)
    try:
        known[match_offsets(x, y, references.x, references.y, MATCH_RADIUS).index] = True
    except NothingToDoError:
        return None
    return known


def _register(wcs: WCS, stars: NDArray[np.void], references: References, where: str) -> Solution:
    """Shift the WCS onto the reference stars and match them."""
    good = np.flatnonzero((stars["flux"] / stars["flux_err"] > 10) & np.isfinite(stars["x_err"]))
    try:
        matches = match_offsets(stars["x"][good], stars["y"][good], references.x, references.y, MATCH_RADIUS)
    except NothingToDoError as error:
        raise BadInputError(
            f"The astrometry cannot be checked: {error.what}", where, "check WCS and reference stars"
        ) from error
    own, ref = good[matches.index], matches.reference
    sigma = np.hypot(np.hypot(stars["x_err"][own], stars["y_err"][own]) / math.sqrt(2), 0.03)
    fit = fit_registration(
        stars["x"][own], stars["y"][own], references.x[ref], references.y[ref], sigma, min_affine=1_000_000
    )
    dx, dy = (float(value) for value in fit.shift)
    size = math.hypot(dx, dy)
    if size > LARGEST_SHIFT:
        raise BadInputError(
            f"The astrometry is off by {size:.2f} pixels ({fit.n_used} stars)",
            where,
            f"more than {LARGEST_SHIFT:g} pixels is not mended: use a newer reduction of this exposure",
        )
    if size > NOTABLE_SHIFT:
        _log.warning(
            "%s: the archive's astrometry is off by %.2f pixels (%d stars); re-registered",
            where,
            size,
            fit.n_used,
        )
    moved = wcs.deepcopy()
    moved.wcs.crpix = wcs.wcs.crpix + np.array([dx, dy])
    placed = replace(references, x=references.x + dx, y=references.y + dy)
    residual = np.hypot(stars["x"][own] - placed.x[ref], stars["y"][own] - placed.y[ref])
    near = residual < max(1.0, 5 * float(np.median(sigma)))
    report = {
        "shift_x": dx,
        "shift_y": dy,
        "shift_error": float(math.hypot(*fit.shift_error)),
        "astrometric_rms": float(fit.rms),
        "n_astrometric": float(fit.n_used),
    }
    return Solution(moved, placed, own[near], ref[near], report)


def zero_point_of(
    stars: NDArray[np.void], solution: Solution, where: str, color_slope: float = 0.0, pivot: float = 0.0
) -> ZeroPoint:
    """Measure the zero point on the matched stars that are bright and clean.

    Parameters
    ----------
    stars : structured `numpy.ndarray`
        As `psf_photometry` returns them.
    solution : `Solution`
        Which of them are which reference stars.
    where : `str`
        Exposure and detector, for messages.
    color_slope, pivot : `float`
        Change of the zero point with the colour (mag per mag), and the colour that it shall hold for.

    Raises
    ------
    BadInputError
        There is none.
    """
    own, ref = usable_pairs(stars, solution)
    references = solution.references
    flux, error = stars["flux"][own], stars["flux_err"][own]
    tint = color_slope * (references.color[ref] - pivot) if color_slope else 0.0
    try:
        return zero_point(
            -2.5 * np.log10(flux) + tint,
            2.5 / np.log(10) * error / flux,
            references.magnitude[ref],
            references.error[ref],
        )
    except NothingToDoError as fault:
        number = (
            f"{len(references)} reference stars, {len(solution.own)} matched, {len(own)} bright and clean"
        )
        raise BadInputError(
            f"The zero point cannot be measured: {fault.what}",
            f"{where}: {number}",
            "give a reference catalogue that covers this field and band",
        ) from fault


def usable_pairs(stars: NDArray[np.void], solution: Solution) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of matched stars and reference stars, of those fit for photometry."""
    own = solution.own
    usable = (stars["flux"][own] > 20 * stars["flux_err"][own]) & (stars["good_fraction"][own] > 0.98)
    return own[usable], solution.reference[usable]


def assemble(
    measured: Measured, solution: Solution, zero: ZeroPoint, njy_per_count: float, header: Mapping[str, Any]
) -> CalibratedDetector:
    """Put calibrated pixels, the table of stars and the summary together.

    Parameters
    ----------
    measured : `Measured`
    solution : `Solution`
    zero : `ZeroPoint`
        Of PSF fluxes.
    njy_per_count : `float`
        What PSF fluxes and pixels are multiplied by.
    header : mapping
        ``EXPTIME`` and, if it has one, ``MAGZERO``.
    """
    stars, psf, data = measured.stars, measured.psf, measured.data
    planes, references, wcs, scale = measured.planes, solution.references, solution.wcs, njy_per_count
    ny, nx = data.shape
    x, y = (nx - 1) / 2, (ny - 1) / 2
    fwhm = psf.gaussian_fwhm(x, y)
    pixel_scale = float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix)))) * 3600
    apertures = aperture_photometry(
        data, planes.variance, measured.bad, stars["x"], stars["y"], [APERTURE_FWHM * fwhm]
    )
    ra, dec = wcs.all_pix2world(stars["x"], stars["y"], 0)
    own, ref = solution.own, solution.reference
    ref_id = np.zeros(len(stars), np.int64)
    ref_distance = np.full(len(stars), np.nan)
    ref_id[own] = references.ids[ref]
    ref_distance[own] = pixel_scale * np.hypot(
        stars["x"][own] - references.x[ref], stars["y"][own] - references.y[ref]
    )
    used = measured.psf_stars[measured.psf_stars["used"]]
    is_psf_star = np.zeros(len(stars), bool)
    _, nearest = cKDTree(np.column_stack([stars["x"], stars["y"]])).query(
        np.column_stack([used["x"], used["y"]])
    )
    is_psf_star[nearest] = True
    table = Table(
        {
            "x": stars["x"],
            "y": stars["y"],
            "xErr": stars["x_err"],
            "yErr": stars["y_err"],
            "ra": ra,
            "dec": dec,
            "psfFlux": stars["flux"] * scale,
            "psfFluxErr": stars["flux_err"] * scale,
            "apFlux": np.asarray(apertures["flux"]).reshape(len(stars)) * scale,
            "apFluxErr": np.asarray(apertures["flux_err"]).reshape(len(stars)) * scale,
            "snr": (stars["flux"] / stars["flux_err"]).astype(np.float32),
            "fwhm": (stars["fwhm"] * pixel_scale).astype(np.float32),
            "extendedness": stars["extendedness"].astype(np.float32),
            "chi2": stars["chi2"].astype(np.float32),
            "flags": stars["good_fraction"] < 0.9,
            "isPsfStar": is_psf_star,
            "refId": ref_id,
            "refMatchDistance": ref_distance,
        }
    )
    xx, yy, xy = psf.moments(x, y)
    limit = limiting_magnitude(planes.variance[measured.sample], psf, zero.value)
    exposure, sky, noise = float(header["EXPTIME"]), measured.sky, measured.noise
    corners = wcs.all_pix2world([0, nx - 1, nx - 1, 0], [0, 0, ny - 1, ny - 1], 0)
    center = wcs.all_pix2world([[x, y]], 0)[0]
    stats = ObservationSummaryStats(
        psfSigma=float((xx * yy - xy * xy) ** 0.25),
        psfArea=float(1.0 / (psf.kernel(x, y) ** 2).sum()),
        psfIxx=xx,
        psfIyy=yy,
        psfIxy=xy,
        ra=float(center[0]),
        dec=float(center[1]),
        pixelScale=pixel_scale,
        expTime=exposure,
        zeroPoint=zero.value,
        skyBg=sky,
        skyNoise=noise,
        meanVar=noise**2,
        raCorners=_four(corners[0]),
        decCorners=_four(corners[1]),
        astromOffsetMean=float(np.nanmean(ref_distance)) if len(own) else math.nan,
        astromOffsetStd=solution.report["astrometric_rms"] * pixel_scale,
        nPsfStar=len(used),
        magLim=limit,
    )
    summary = {
        "fwhm": fwhm * pixel_scale,
        "fwhm_pixels": fwhm,
        "fwhm_half_maximum": psf.fwhm(x, y) * pixel_scale,
        "ellipticity": psf.ellipticity(x, y),
        "n_psf_stars": len(used),
        "psf_order": psf.order,
        "zero_point": zero.value,
        "zero_point_error": zero.error,
        "zero_point_scatter": zero.scatter,
        "zero_point_per_second": zero.value - 2.5 * math.log10(exposure),
        "n_zero_point": zero.n_used,
        "magzero_header": float(header.get("MAGZERO") or math.nan),
        "sky": sky,
        "noise": noise,
        "limiting_magnitude": limit,
        "pixel_scale": pixel_scale,
        "n_stars": len(stars),
        **solution.report,
    }
    calibrated = Planes(
        data * np.float32(scale),
        planes.variance * np.float32(scale**2),
        planes.bits,
    )
    return CalibratedDetector(calibrated, psf, wcs, table, zero, scale, stats, summary)


def _four(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    a, b, c, d = (float(value) for value in values)
    return a, b, c, d
