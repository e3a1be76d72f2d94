"""One raw detector without its instrument's signature: from electrons and a rough WCS to nJy on the sky."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.facility.errors import NothingToDoError
from tololo.reduction.astrometry import LARGEST_OFFSET, Solution, recognise, solve
from tololo.reduction.calibrate import (
    APERTURE_FWHM,
    CalibratedDetector,
    assemble,
    usable_pairs,
    zero_point_of,
)
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.isr import Corrected
from tololo.reduction.kernels.astrometry import PixelMap
from tololo.reduction.kernels.color_terms import ColorTerm, fit_color_term
from tololo.reduction.kernels.cosmic_rays import find_cosmic_rays
from tololo.reduction.kernels.kron import kron_photometry
from tololo.reduction.kernels.photometry import aperture_correction, aperture_photometry
from tololo.reduction.kernels.psf import SIGMA_TO_FWHM
from tololo.reduction.kernels.starfit import BLENDED
from tololo.reduction.measurement import Measured, first_look, measure_at_once, seeing_among_cosmic_rays
from tololo.reduction.references import ZERO_POINT, References, color_terms

MARGIN = LARGEST_OFFSET + 20.0
"""Pixels beyond the edge of the detector from which reference stars are wanted."""

CLEAR = 8.0
"""Signal to noise of the sources by which the field is recognised and the PSF's stars are chosen."""

KNOWN_RADIUS = 2.0
"""Pixels; a detection this close to a reference star is that star."""

TOTAL_FWHM = 4.0
"""Radius, in FWHM, of the circle that holds all of a star's light (99.8 % of a Moffat profile's)."""

TOTAL_SNR = 100.0
LEAST_TOTAL = 5
"""Stars that the correction to all of the light must rest on."""

NEIGHBOUR_FLUX = 0.01
"""Part of a star's flux that another in its circle may have."""

FEW_STARS = 20
POOR_ASTROMETRY = 0.15
"""Pixels per axis (40 mas), of bright stars where there are any."""

POOR_ZERO_POINT = 0.01
"""Standard error, mag."""


def calibrate_raw(
    corrected: Corrected, wcs: WCS, header: Mapping[str, Any], references: References, band: str, where: str
) -> CalibratedDetector:
    """Remove cosmic rays, measure PSF, stars, astrometry and zero point, and calibrate a detector.

    Parameters
    ----------
    corrected : `Corrected`
        Electrons, variance and mask; cosmic rays are marked and filled in place.
    wcs : `astropy.wcs.WCS`
        The header's, off by some arcseconds.
    header : mapping
        ``EXPTIME``, ``GAINA`` and ``GAINB``.
    references : `References`
        Stars on the detector and up to `MARGIN` beyond, their pixel positions by that WCS.
    band : `str`
        DECam band.
    where : `str`
        Exposure and detector, for messages.

    Returns
    -------
    calibrated : `CalibratedDetector`
        Its zero point is that of one electron and of all of a star's light; pixels are scaled so that *PSF
        fluxes* on them are right, so a circle around a star that holds all of its light gives
        ``aperture_correction`` times its flux.

    Raises
    ------
    BadInputError
        The reference stars are not recognised or too few, or none can give a zero point.
    NothingToDoError
        No source can serve as a PSF star.
    """
    planes = corrected.planes
    fwhm = seeing_among_cosmic_rays(planes)
    find_cosmic_rays(planes.image, planes.variance, planes.bits, fwhm)
    look = first_look(planes, fwhm, deblend=False)
    clear = look.found["score"] > CLEAR
    found = look.found[clear]
    start = recognise(found["x"], found["y"], found["flux"], references, planes.image.shape, where)
    measured = measure_at_once(look, clear, _known(found, references, start))
    solution = solve(wcs, planes.image.shape, measured.stars, references, start, where)
    pivot, term = _color_term(measured.stars, solution, band)
    zero = zero_point_of(measured.stars, solution, where, term.slope, pivot)
    scale = float(10 ** (0.4 * (ZERO_POINT - zero.value)))
    result = assemble(measured, solution, zero, scale, header)
    # Both amplifiers are in electrons by now: an ADU is what it is on their average.
    result.njy_per_adu = scale * (float(header["GAINA"]) + float(header["GAINB"])) / 2
    total = _correct_apertures(result, measured)
    gained = 2.5 * math.log10(total[0])
    result.summary |= {
        "zero_point": zero.value + gained,
        "zero_point_per_second": result.summary["zero_point_per_second"] + gained,
        "aperture_correction": total[0],
        "aperture_correction_error": total[1],
        "n_aperture_correction": total[2],
        "color_term": term.slope,
        "color_term_error": term.error,
        "photometric_catalogue": references.catalogue,
        **masked_fractions(planes),
    }
    for name, stats in corrected.overscan.items():
        result.summary[f"overscan_{name.lower()}"] = stats.level
        result.summary[f"overscan_slope_{name.lower()}"] = stats.slope
        result.summary[f"read_noise_{name.lower()}"] = stats.read_noise
    result.summary["flags"] = ",".join(_flags(result.summary, corrected))
    return result


def masked_fractions(planes: Planes) -> dict[str, float]:
    """Return which part of the pixels is masked, by reason."""
    names = {"saturated": "SATURATED", "cosmic": "COSMIC_RAY", "bad": "BAD"}
    return {
        f"masked_{word}": float(np.count_nonzero(planes.bits & BIT[plane])) / planes.bits.size
        for word, plane in names.items()
    }


def _known(found: NDArray[np.void], references: References, start: PixelMap) -> NDArray[np.bool_]:
    """Tell which detections are reference stars."""
    places = np.column_stack(start(references.x, references.y))
    distance, _ = cKDTree(places).query(np.column_stack([found["x"], found["y"]]))
    return np.asarray(distance < KNOWN_RADIUS)


def _color_term(stars: NDArray[np.void], solution: Solution, band: str) -> tuple[float, ColorTerm]:
    """Return the colour that the zero point is for, and how it depends on the colour."""
    own, ref = usable_pairs(stars, solution)
    references = solution.references
    terms = color_terms()[references.catalogue]
    flux, error = stars["flux"][own], stars["flux_err"][own]
    term = fit_color_term(
        references.magnitude[ref] + 2.5 * np.log10(flux),
        np.hypot(references.error[ref], 2.5 / math.log(10) * error / flux),
        references.color[ref],
        references.color_error[ref],
        nominal=float((terms["slope"] or {}).get(band, 0.0)),
        accuracy=float(terms["accuracy"]),
    )
    return float(terms["pivot"]), term


def _correct_apertures(result: CalibratedDetector, measured: Measured) -> tuple[float, float, int]:
    """Bring aperture and Kron fluxes onto the scale of the PSF fluxes; return all light over PSF flux.

    Returns
    -------
    factor, error : `float`
        1 and NaN where too few stars can tell.
    n_used : `int`
    """
    stars, table, planes = measured.stars, result.stars, measured.planes
    fwhm = result.summary["fwhm_pixels"]
    images = measured.data, planes.variance, measured.bad
    size = np.where(np.isfinite(stars["fwhm"]), stars["fwhm"], fwhm)
    sigma = np.clip(size, 0.8 * fwhm, 5 * fwhm) / SIGMA_TO_FWHM
    kron = kron_photometry(*images, stars["x"], stars["y"], sigma, smallest=APERTURE_FWHM * fwhm)
    scale = table["psfFlux"] / stars["flux"]
    lonely = np.flatnonzero(
        (stars["flux"] > TOTAL_SNR * stars["flux_err"])
        & (stars["good_fraction"] > 0.98)
        & np.asarray(table["isPsfStar"])
        & ~_crowded(stars, (TOTAL_FWHM + 1) * fwhm)
    )
    radius = TOTAL_FWHM * fwhm
    total, total_error = _all_light(measured, lonely, radius)
    fluxes = {
        "total": (total, total_error),
        "ap": (np.asarray(table["apFlux"] / scale)[lonely], np.asarray(table["apFluxErr"] / scale)[lonely]),
        "kron": (kron["flux"][lonely], kron["flux_err"][lonely]),
    }
    corrections = {
        name: _correction(stars["flux"][lonely], flux, error) for name, (flux, error) in fluxes.items()
    }
    for name in ("apFlux", "apFluxErr"):
        table[name] = table[name] / corrections["ap"][0]
    table["kronFlux"] = kron["flux"] * scale / corrections["kron"][0]
    table["kronFluxErr"] = kron["flux_err"] * scale / corrections["kron"][0]
    table["kronRadius"] = (kron["radius"] * result.summary["pixel_scale"]).astype(np.float32)
    table["blended"] = (stars["flags"] & BLENDED) != 0
    return corrections["total"]


def _all_light(
    measured: Measured, rows: NDArray[np.int64], radius: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return all the light of stars and its error: what was fitted, and what the fits have left around it.

    A circle of that size on the image itself would hold faint neighbours; on what is left they are gone.
    """
    stars, planes = measured.stars[rows], measured.planes
    left = measured.data if measured.residual is None else measured.residual
    sums = aperture_photometry(left, planes.variance, measured.bad, stars["x"], stars["y"], [radius])[:, 0]
    fitted = 0.0 if measured.residual is None else stars["flux"]
    return np.where(sums["masked_fraction"] < 1e-3, fitted + sums["flux"], np.nan), sums["flux_err"]


def _correction(
    psf_flux: NDArray[np.float64], flux: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[float, float, int]:
    try:
        factor, spread, number = aperture_correction(psf_flux, flux, error)
    except NothingToDoError:
        return 1.0, math.nan, 0
    return (factor, spread, number) if number >= LEAST_TOTAL else (1.0, math.nan, number)


def _crowded(stars: NDArray[np.void], radius: float) -> NDArray[np.bool_]:
    """Say which stars have another within a radius that is not much fainter."""
    crowded = np.zeros(len(stars), bool)
    tree = cKDTree(np.column_stack([stars["x"], stars["y"]]))
    pairs = tree.query_pairs(radius, output_type="ndarray")
    for one, other in (pairs.T, pairs.T[::-1]):
        crowded[one] |= stars["flux"][other] > NEIGHBOUR_FLUX * stars["flux"][one]
    return crowded


def _flags(summary: Mapping[str, Any], corrected: Corrected) -> list[str]:
    """Return what is doubtful about a detector, in words."""
    bright = summary["astrometric_rms_bright"]
    doubts = {
        "few_astrometric_stars": summary["n_astrometric"] < FEW_STARS,
        "poor_astrometry": (bright if math.isfinite(bright) else summary["astrometric_rms"])
        > POOR_ASTROMETRY,
        "poor_zero_point": summary["zero_point_error"] > POOR_ZERO_POINT,
        "no_aperture_correction": not math.isfinite(summary["aperture_correction_error"]),
        "constant_psf": summary["psf_order"] == 0,
        "dead_amplifier": any(stats.problem for stats in corrected.overscan.values()),
    }
    return [word for word, true in doubts.items() if true]
