"""One InstCal detector: from ADU on the archive's astrometry to nJy on that of the reference stars."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
from lsst.images import ObservationSummaryStats
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.formats.dqmask import DQ
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.instcal import InstcalPixels
from tololo.reduction.formats.masks import BIT
from tololo.reduction.kernels.background import estimate_background
from tololo.reduction.kernels.calibration import (
    ZeroPoint,
    fit_registration,
    limiting_magnitude,
    match_offsets,
    zero_point,
)
from tololo.reduction.kernels.detection import detect_sources
from tololo.reduction.kernels.photometry import aperture_photometry, psf_photometry
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.psffit import fit_psf
from tololo.reduction.references import ZERO_POINT, References

_log = logging.getLogger(__name__)

FIRST_FWHM = 4.0
"""Pixels; the PSF with which sources are found before the real one is known."""

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

    ``zero_point`` is the AB magnitude of 1 ADU in the whole exposure; ``summary`` one row of `visit_summary`.
    """

    planes: Planes
    psf: PixelPsf
    wcs: WCS
    stars: Table
    zero_point: ZeroPoint
    stats: ObservationSummaryStats
    summary: dict[str, Any]

    @property
    def njy_per_adu(self) -> float:
        """Calibration of the pixels."""
        return float(10 ** (0.4 * (ZERO_POINT - self.zero_point.value)))


def mask_bits(mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Turn the archive's data-quality planes into mask bits."""
    bits = np.zeros(mask.shape, np.int32)
    for flag, name in _DQ_BITS.items():
        bits[(mask & np.uint8(flag)) != 0] |= BIT[name]
    return bits


def first_psf(fwhm: float = FIRST_FWHM) -> PixelPsf:
    """Return a round Moffat (beta = 3) PSF."""
    half = math.ceil(3 * fwhm)
    axis = np.arange(-half, half + 1)
    alpha = fwhm / 2 / math.sqrt(2 ** (1 / 3) - 1)
    profile = (1 + (axis[:, None] ** 2 + axis**2) / alpha**2) ** -3.0
    return PixelPsf((profile / profile.sum())[None])


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
    bits = mask_bits(pixels.mask)
    raw = Planes(pixels.image, pixels.variance, bits)
    level, _ = estimate_background(pixels.image, raw.bad)
    data = (pixels.image - level).astype(np.float32)
    bad = raw.bad
    found = detect_sources(data, pixels.variance, bad, first_psf(_seeing(data, pixels.variance, bad)))
    point_like = _near_reference(found["x"], found["y"], references)
    psf, psf_stars = fit_psf(
        data, pixels.variance, bad, found["x"], found["y"], found["flux"], point_like=point_like
    )
    found = detect_sources(data, pixels.variance, bad, psf)
    stars = psf_photometry(data, pixels.variance, bad, psf, found["x"], found["y"])
    stars = stars[np.isfinite(stars["flux"]) & np.isfinite(stars["flux_err"]) & (stars["flux_err"] > 0)]
    wcs, shift, matches = _register(pixels.wcs, stars, references, where)
    zero = _zero_point(stars, references, matches, where)
    return _assemble(pixels, raw, data, psf, psf_stars, stars, references, wcs, shift, matches, zero)


def _seeing(data: NDArray[np.float32], variance: NDArray[np.float32], bad: NDArray[np.bool_]) -> float:
    """Return a first FWHM (pixels): too sharp a PSF would see neighbours in the wings of every star."""
    found = detect_sources(data, variance, bad, first_psf(), threshold=20.0, deblend=False)[:200]
    stars = psf_photometry(data, variance, bad, first_psf(), found["x"], found["y"])
    widths = stars["fwhm"][np.isfinite(stars["fwhm"]) & (stars["good_fraction"] > 0.98)]
    # Galaxies are wider than stars, so the lower quartile is nearer to them than the median.
    return float(np.clip(np.percentile(widths, 25), 2.0, 12.0)) if widths.size else FIRST_FWHM


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


def _register(
    wcs: WCS, stars: NDArray[np.void], references: References, where: str
) -> tuple[WCS, dict[str, float], tuple[NDArray[np.int64], NDArray[np.int64]]]:
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
    residual = np.hypot(stars["x"][own] - references.x[ref] - dx, stars["y"][own] - references.y[ref] - dy)
    near = residual < max(1.0, 5 * float(np.median(sigma)))
    report = {
        "shift_x": dx,
        "shift_y": dy,
        "shift_error": float(math.hypot(*fit.shift_error)),
        "astrometric_rms": float(fit.rms),
        "n_astrometric": float(fit.n_used),
    }
    return moved, report, (own[near], ref[near])


def _zero_point(
    stars: NDArray[np.void],
    references: References,
    matches: tuple[NDArray[np.int64], NDArray[np.int64]],
    where: str,
) -> ZeroPoint:
    own, ref = matches
    flux, error = stars["flux"][own], stars["flux_err"][own]
    usable = (flux > 20 * error) & (stars["good_fraction"][own] > 0.98)
    own, ref = own[usable], ref[usable]
    flux, error = stars["flux"][own], stars["flux_err"][own]
    try:
        return zero_point(
            -2.5 * np.log10(flux),
            2.5 / np.log(10) * error / flux,
            references.magnitude[ref],
            references.error[ref],
        )
    except NothingToDoError as fault:
        raise BadInputError(
            f"The zero point cannot be measured: {fault.what}",
            f"{where}: {len(references)} reference stars, {len(usable)} matched, {len(own)} bright and clean",
            "give a reference catalogue that covers this field and band",
        ) from fault


def _assemble(
    pixels: InstcalPixels,
    raw: Planes,
    data: NDArray[np.float32],
    psf: PixelPsf,
    psf_stars: NDArray[np.void],
    stars: NDArray[np.void],
    references: References,
    wcs: WCS,
    shift: dict[str, float],
    matches: tuple[NDArray[np.int64], NDArray[np.int64]],
    zero: ZeroPoint,
) -> CalibratedDetector:
    """Put calibrated pixels, the table of stars and the summary together."""
    ny, nx = data.shape
    scale = float(10 ** (0.4 * (ZERO_POINT - zero.value)))
    x, y = (nx - 1) / 2, (ny - 1) / 2
    fwhm = psf.gaussian_fwhm(x, y)
    pixel_scale = float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix)))) * 3600
    radius = APERTURE_FWHM * fwhm
    apertures = aperture_photometry(data, pixels.variance, raw.bad, stars["x"], stars["y"], [radius])
    ra, dec = wcs.all_pix2world(stars["x"], stars["y"], 0)
    own, ref = matches
    ref_id = np.zeros(len(stars), np.int64)
    ref_distance = np.full(len(stars), np.nan)
    ref_id[own] = references.ids[ref]
    ref_distance[own] = pixel_scale * np.hypot(
        stars["x"][own] - references.x[ref] - shift["shift_x"],
        stars["y"][own] - references.y[ref] - shift["shift_y"],
    )
    used = psf_stars[psf_stars["used"]]
    is_psf_star = np.zeros(len(stars), bool)
    for star in used:
        is_psf_star[np.argmin(np.hypot(stars["x"] - star["x"], stars["y"] - star["y"]))] = True
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
    limit = limiting_magnitude(pixels.variance, psf, zero.value)
    exposure = float(pixels.header["EXPTIME"])
    sky = float(np.median(pixels.image - data))
    noise = float(np.sqrt(np.median(pixels.variance[~raw.bad])))
    corner_x, corner_y = [0, nx - 1, nx - 1, 0], [0, 0, ny - 1, ny - 1]
    corners = wcs.all_pix2world(corner_x, corner_y, 0)
    center = wcs.all_pix2world([[x, y]], 0)[0]
    area = float(1.0 / (psf.kernel(x, y) ** 2).sum())
    stats = ObservationSummaryStats(
        psfSigma=float((xx * yy - xy * xy) ** 0.25),
        psfArea=area,
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
        astromOffsetStd=shift["astrometric_rms"] * pixel_scale,
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
        "magzero_header": float(pixels.header.get("MAGZERO") or math.nan),
        "sky": sky,
        "noise": noise,
        "limiting_magnitude": limit,
        "pixel_scale": pixel_scale,
        "n_stars": len(stars),
        **shift,
    }
    planes = Planes(
        (data * scale).astype(np.float32),
        (pixels.variance * np.float32(scale**2)).astype(np.float32),
        raw.bits,
    )
    return CalibratedDetector(planes, psf, wcs, table, zero, stats, summary)


def _four(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    a, b, c, d = (float(value) for value in values)
    return a, b, c, d
