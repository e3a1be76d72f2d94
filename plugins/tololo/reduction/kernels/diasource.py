"""Sources in a difference image: detection, measurement, and what tells transients from residuals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.facility.difference_limits import DifferenceLimits
from tololo.reduction.kernels.detection import find_peaks
from tololo.reduction.kernels.diaflags import FAR, distance_to, good_pixels, log_noise, pixel_flags
from tololo.reduction.kernels.diascore import Score, score_of
from tololo.reduction.kernels.diashape import axes, opposite_lobe, shapes, sharpness, sizes
from tololo.reduction.kernels.dipole import fit_dipoles
from tololo.reduction.kernels.photometry import aperture_photometry, fit_stars, forced_psf_photometry
from tololo.reduction.kernels.planes import check_planes
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.rejection import rejection_of
from tololo.reduction.kernels.residuals import add_misfit, misfit_plane
from tololo.reduction.kernels.starfit import EDGE, FAILED
from tololo.reduction.kernels.subtraction import Subtraction
from tololo.reduction.kernels.trail import fit_trails

LOBE_SNR = 3.5
"""A lobe of the other sign below this may be noise."""

BETTER = 25.0
"""Chi^2 by which a dipole or a trail has to be better than a point to be taken for one: five sigma."""

TRAIL_SNR = 6.0
"""Fainter sources have no shape that could be measured."""

type Columns = dict[str, NDArray[Any]]


def measure_difference(
    subtraction: Subtraction,
    science: NDArray[np.float32],
    science_variance: NDArray[np.float32],
    science_bad: NDArray[np.bool_],
    science_psf: PixelPsf,
    *,
    bits: NDArray[np.int32] | None = None,
    planes: Mapping[str, int] | None = None,
    threshold: float = 5.0,
    limits: DifferenceLimits | None = None,
    pixel_scale: float = 0.263,
    aperture_radius: float | None = None,
) -> Columns:
    """Detect and measure sources of both signs.

    Parameters
    ----------
    subtraction : `Subtraction`
        Difference image with its planes and PSF.
    science, science_variance, science_bad : `numpy.ndarray`, (ny, nx)
        The science image, for forced photometry.
    science_psf : `PixelPsf`
        Its PSF.
    bits : `numpy.ndarray`, (ny, nx), int32, optional
        Mask of the difference.
    planes : mapping of `str` to `int`, optional
        Bits of each flag: the columns ``pixelFlags_<name>``. ``saturated``, ``saturatedTemplate``,
        ``nodata`` and ``inexactPsf`` also count for distances and noise.
    threshold : `float`
        Detection threshold on the score (`tololo.reduction.kernels.diascore`).
    limits : `DifferenceLimits`, optional
        What makes a rejection; the defaults unless given.
    pixel_scale : `float`
        Arcseconds per pixel.
    aperture_radius : `float`, optional
        Radius in pixels for ``apFlux``; by default twice the FWHM of the difference's PSF.

    Returns
    -------
    sources : `dict` [`str`, `numpy.ndarray`]
        Columns of the DiaSource table as far as pixels give them, fluxes in the science image's unit, lengths
        in arcsec, ``dipoleAngle`` and ``trailAngle`` in degrees from x towards y; ``psfLnL`` is the natural
        logarithm of the likelihood of the pixels given a point source; and beside these

        - ``x_y_Cov`` (covariance of x and y, pixels^2);
        - ``detectionScore`` (signed), ``snr`` (likewise, with the subtraction's error on stars as noise),
          ``nearBrightStar`` (that error over the noise);
        - ``chi2`` (per degree of freedom of the PSF fit), ``goodFraction`` (of its light on good pixels),
          ``offset`` (pixels from the detection to the fit), ``psfFwhm`` (pixels), ``sharpness``,
          ``lobeRatio`` (strongest score of the other sign within 1.5 FWHM over the source's own),
          ``neighbourShare`` (flux over that of the brightest detection within 3 FWHM), ``edgeDistance`` and
          ``saturatedDistance`` (pixels, at most 50), ``dipoleFlux`` (mean of the lobes' peaks), ``trailX``
          and ``trailY``;
        - ``rejection``: empty, or one of `tololo.facility.difference_limits.REASONS`.

        Rows without a rejection are what changed; the others belong into the unfiltered table only.

    Notes
    -----
    A bright star leaves residuals in proportion to its flux F. With the kernel's error e on it
    (`tololo.reduction.kernels.residuals`) ``snr`` is flux / sqrt(error^2 + (e F)^2), F being the largest
    template flux nearby, tapered with the distance.
    """
    limits = limits or DifferenceLimits()
    clean = check_planes(subtraction.difference, subtraction.variance, subtraction.bad)
    subtraction = replace(subtraction, difference=clean[0], variance=clean[1], bad=clean[2])
    ny, nx = subtraction.difference.shape
    bits = np.zeros((ny, nx), np.int32) if bits is None else bits
    flag_bits = dict(planes or {})
    kernel = subtraction.psf.kernel(nx / 2, ny / 2)
    fwhm = subtraction.psf.fwhm(nx / 2, ny / 2)
    filtered = score_of(subtraction)
    inexact = (bits & flag_bits["inexactPsf"]) != 0 if "inexactPsf" in flag_bits else None
    misfit, _ = misfit_plane(
        subtraction.matched_template, filtered.flux, filtered.flux_variance, kernel, fwhm, inexact
    )
    # So much of a pixel's value the kernel may have wrong; near a bright star it must not spoil a fit.
    noise = add_misfit(subtraction.variance, misfit, float(kernel.max()))

    x, y, peak = find_peaks(filtered.score, threshold, both_signs=True, edge=2)
    order = np.argsort(-np.abs(peak), kind="stable")
    x, y, peak = x[order], y[order], peak[order]
    i, j = np.rint(x).astype(int), np.rint(y).astype(int)
    sign = np.where(peak < 0, -1.0, 1.0)
    scatter = filtered.scatter_at(i, j)
    near_star = misfit[j, i] / (scatter * np.sqrt(filtered.flux_variance[j, i]))
    inflation = np.sqrt(1.0 + near_star**2)

    fit = fit_stars((clean[0], noise, clean[2]), subtraction.psf, x, y, centre=True, shapes=False)
    forced = fit["x"].copy(), fit["y"].copy()
    on_science = forced_psf_photometry(science, science_variance, science_bad, science_psf, *forced)
    on_template = forced_psf_photometry(
        subtraction.matched_template,
        subtraction.template_variance,
        subtraction.bad,
        subtraction.template_psf,
        *forced,
    )
    radius = aperture_radius or 2.0 * fwhm
    aperture = aperture_photometry(
        subtraction.difference, subtraction.variance, subtraction.bad, *forced, [radius]
    )
    half = subtraction.psf.size // 2
    reach = max(1, math.ceil(fwhm))
    whole = good_pixels(subtraction.bad, i, j, half)
    moved = np.hypot(fit["x"] - x, fit["y"] - y)
    chi2 = fit["chi2"] * np.maximum(whole - 3, 1)
    sources: Columns = {
        "x": fit["x"],
        "y": fit["y"],
        "xErr": fit["x_err"],
        "yErr": fit["y_err"],
        "x_y_Cov": fit["xy_cov"],
        "centroid_flag": ~np.isfinite(fit["x_err"]) | (moved > fwhm),
        "psfFlux": fit["flux"],
        "psfFluxErr": fit["flux_err"] * np.maximum(1.0, scatter),
        "psfChi2": chi2,
        "psfLnL": -0.5 * (chi2 + log_noise(noise, subtraction.bad, i, j, half)),
        "psfNdata": whole.astype(np.int32),
        "psfFlux_flag": ~np.isfinite(fit["flux"]),
        "psfFlux_flag_edge": (fit["flags"] & EDGE) != 0,
        "psfFlux_flag_noGoodPixels": (fit["flags"] & FAILED) != 0,
        "apFlux": aperture["flux"][:, 0],
        "apFluxErr": aperture["flux_err"][:, 0],
        "apFlux_flag": ~np.isfinite(aperture["flux"][:, 0]) | (aperture["masked_fraction"][:, 0] > 0.5),
        "apFlux_flag_apertureTruncated": _outside(*forced, radius, (ny, nx)),
        "scienceFlux": on_science["flux"],
        "scienceFluxErr": on_science["flux_err"],
        "forced_PsfFlux_flag": ~np.isfinite(on_science["flux"]),
        "forced_PsfFlux_flag_edge": (on_science["flags"] & EDGE) != 0,
        "forced_PsfFlux_flag_noGoodPixels": (on_science["flags"] & FAILED) != 0,
        "templateFlux": on_template["flux"],
        "templateFluxErr": on_template["flux_err"],
        "snr": (peak / inflation).astype(np.float32),
        "detectionScore": peak.astype(np.float32),
        "nearBrightStar": near_star.astype(np.float32),
        "isNegative": peak < 0,
        "chi2": fit["chi2"],
        "goodFraction": fit["good_fraction"].astype(np.float32),
        "offset": moved.astype(np.float32),
        "psfFwhm": np.full(x.size, fwhm, np.float32),
        "sharpness": sharpness(subtraction, fit["flux"], i, j, sign, kernel),
        "bboxSize": np.full(x.size, 2 * reach + 1, np.int32),
    }
    sources |= _extents(subtraction, kernel, noise, sources, sign, fwhm, pixel_scale)
    sources |= _dipoles(subtraction, filtered, noise, sources, (i, j), limits, fwhm, pixel_scale)
    sources["neighbourShare"] = _neighbour_share(sources, 3.0 * fwhm, fwhm, pixel_scale)
    sources |= pixel_flags(bits, flag_bits, i, j, reach)
    saturated = flag_bits.get("saturated", 0) | flag_bits.get("saturatedTemplate", 0)
    sources["edgeDistance"] = distance_to(bits, flag_bits.get("nodata", 0), x, y, True, FAR)
    sources["saturatedDistance"] = distance_to(bits, saturated, x, y, False, FAR)
    sources["rejection"] = rejection_of(sources, limits)
    return sources


def _extents(
    subtraction: Subtraction,
    kernel: NDArray[np.float64],
    noise: NDArray[np.float32],
    sources: Columns,
    sign: NDArray[np.float64],
    fwhm: float,
    pixel_scale: float,
) -> Columns:
    """Return moments, extendedness and trails; of a point the trail's length is 0."""
    n, x, y = sign.size, sources["x"], sources["y"]
    shape, point = shapes(subtraction, kernel, x, y, sign)
    major, minor, angle = axes(shape, point)
    area = math.sqrt(max(float(point[0] * point[1] - point[2] ** 2), 1e-6))
    extent, guess = sizes(major, minor, area, np.abs(sources["detectionScore"]))
    # What stars leave in their wings is long as well.
    clear = (np.abs(sources["snr"]) > TRAIL_SNR) & (sources["nearBrightStar"] < 1.0)
    tried = np.flatnonzero(clear & (guess > 0) & np.isfinite(sources["psfFlux"]) & np.isfinite(angle))
    fits = fit_trails(
        subtraction, noise, x[tried], y[tried], sources["psfFlux"][tried], guess[tried], angle[tried], fwhm
    )
    found = np.isfinite(fits["chi2"]) & (fits["single_chi2"] - fits["chi2"] > BETTER) & (fits["length"] > 1.0)
    names = ("trailFlux", "trailFluxErr", "trailLength", "trailLengthErr", "trailAngle", "trailAngleErr")
    columns: Columns = {name: np.full(n, np.nan) for name in (*names, "trailX", "trailY", "trailChi2")}
    columns["trailLength"][:] = 0.0
    columns["trailNdata"] = np.zeros(n, np.int32)
    rows, fits = tried[found], fits[found]
    for name, column in (
        ("trailFlux", fits["flux"]),
        ("trailFluxErr", fits["flux_err"]),
        ("trailLength", fits["length"] * pixel_scale),
        ("trailLengthErr", fits["length_err"] * pixel_scale),
        ("trailAngle", np.degrees(fits["angle"])),
        ("trailAngleErr", np.degrees(fits["angle_err"])),
        ("trailX", fits["x"]),
        ("trailY", fits["y"]),
        ("trailChi2", fits["chi2"]),
        ("trailNdata", fits["n_data"]),
    ):
        columns[name][rows] = column
    columns["trailLength"] = columns["trailLength"].astype(np.float32)
    columns["trail_flag"] = np.zeros(n, bool)
    columns["trail_flag"][tried[~found]] = True
    reach = 0.5 * np.nan_to_num(columns["trailLength"]) / pixel_scale
    columns["trail_flag_edge"] = (reach > 0) & _outside(x, y, reach, subtraction.difference.shape)
    square = pixel_scale**2
    for k, name in enumerate(("ixx", "iyy", "ixy")):
        columns[name] = (shape[:, k] * square).astype(np.float32)
        columns[f"{name}PSF"] = np.full(n, point[k] * square, np.float32)
    columns["shape_flag"] = ~np.isfinite(shape).all(axis=1) | ~(shape[:, 0] > 0)
    columns["extendedness"] = extent
    return columns


def _dipoles(
    subtraction: Subtraction,
    filtered: Score,
    noise: NDArray[np.float32],
    sources: Columns,
    pixel: tuple[NDArray[np.int64], NDArray[np.int64]],
    limits: DifferenceLimits,
    fwhm: float,
    pixel_scale: float,
) -> Columns:
    """Return the dipole fits, of sources with a lobe of the other sign beside them."""
    (i, j), peak = pixel, sources["detectionScore"]
    n, sign = i.size, np.where(peak < 0, -1.0, 1.0)
    lobe = opposite_lobe(filtered.score, i, j, sign, 1.5 * fwhm)
    a, b = lobe[:, 1].astype(int), lobe[:, 2].astype(int)
    partner_flux = filtered.flux[b, a].astype(float)
    partner = ((a != i) | (b != j)) & (lobe[:, 0] > LOBE_SNR) & np.isfinite(sources["psfFlux"])
    ratio = lobe[:, 0] / np.maximum(np.abs(peak), 1e-9)
    rows = np.flatnonzero(partner & (ratio > 0.5 * limits.dipole_balance))
    flux = np.where(np.sign(sources["psfFlux"]) == sign, sources["psfFlux"], filtered.flux[j, i])[rows]
    own, other = ("scienceFlux", "templateFlux")
    expected, error = (
        np.where(
            (sign[rows] > 0)[:, None],
            np.column_stack([sources[own + end][rows], sources[other + end][rows]]),
            np.column_stack([sources[other + end][rows], sources[own + end][rows]]),
        )
        for end in ("", "Err")
    )
    fits = fit_dipoles(
        subtraction, noise, i[rows].astype(float), j[rows].astype(float), lobe[rows, 1], lobe[rows, 2], flux,
        partner_flux[rows], expected, error, fwhm,
    )  # fmt: skip
    fitted = np.isfinite(fits["chi2"])
    is_dipole = np.zeros(n, bool)
    better = ~fitted | (fits["single_chi2"] - fits["chi2"] > BETTER)
    is_dipole[rows] = better & (ratio[rows] > limits.dipole_balance)
    names = ("dipoleMeanFlux", "dipoleMeanFluxErr", "dipoleFluxDiff", "dipoleFluxDiffErr", "dipoleLength")
    columns: Columns = {name: np.full(n, np.nan) for name in (*names, "dipoleAngle", "dipoleChi2")}
    columns["dipoleNdata"] = np.zeros(n, np.int32)
    rows_fitted, fits = rows[fitted], fits[fitted]
    one, two = np.abs(fits["flux_1"]), np.abs(fits["flux_2"])
    squares, cross = fits["flux_1_err"] ** 2 + fits["flux_2_err"] ** 2, 2.0 * fits["flux_cov"]
    # From the negative lobe to the positive one.
    s = sign[rows_fitted]
    dx, dy = s * (fits["x_1"] - fits["x_2"]), s * (fits["y_1"] - fits["y_2"])
    for name, column in (
        ("dipoleMeanFlux", 0.5 * (one + two)),
        # Fluxes of opposite sign: the covariance changes its sign with one of them.
        ("dipoleMeanFluxErr", 0.5 * np.sqrt(np.maximum(squares - cross, 0.0))),
        ("dipoleFluxDiff", s * (one - two)),
        ("dipoleFluxDiffErr", np.sqrt(np.maximum(squares + cross, 0.0))),
        ("dipoleLength", np.hypot(dx, dy) * pixel_scale),
        ("dipoleAngle", np.degrees(np.arctan2(dy, dx))),
        ("dipoleChi2", fits["chi2"]),
        ("dipoleNdata", fits["n_data"]),
    ):
        columns[name][rows_fitted] = column
    columns["dipoleFitAttempted"] = np.zeros(n, bool)
    columns["dipoleFitAttempted"][rows] = True
    columns["isDipole"] = is_dipole
    lobes = 0.5 * (np.abs(sources["psfFlux"]) + np.abs(partner_flux))
    columns["dipoleFlux"] = np.where(is_dipole, lobes, np.nan)
    columns["lobeRatio"] = ratio.astype(np.float32)
    return columns


def _neighbour_share(sources: Columns, radius: float, fwhm: float, pixel_scale: float) -> NDArray[np.float32]:
    """Return each flux over that of the brightest detection around it; what lies on a trail belongs to it."""
    x, y = sources["x"], sources["y"]
    known = np.isfinite(x) & np.isfinite(y) & np.isfinite(sources["psfFlux"])
    flux = np.where(known, np.abs(sources["psfFlux"]), 0.0)
    brightest = flux.copy()
    rows = np.flatnonzero(known)
    if rows.size:
        pairs = rows[cKDTree(np.column_stack([x, y])[rows]).query_pairs(radius, output_type="ndarray")]
        for one, two in ((0, 1), (1, 0)):
            np.maximum.at(brightest, pairs[:, one], flux[pairs[:, two]])
    share = flux / np.maximum(brightest, 1e-30)
    for row in np.flatnonzero(sources["trailLength"] > 0):
        angle = math.radians(sources["trailAngle"][row])
        dx, dy = x - sources["trailX"][row], y - sources["trailY"][row]
        along, across = (
            dx * math.cos(angle) + dy * math.sin(angle),
            dy * math.cos(angle) - dx * math.sin(angle),
        )
        reach = 0.5 * sources["trailLength"][row] / pixel_scale
        on_trail = (np.abs(across) < fwhm) & (np.abs(along) < reach + fwhm)
        on_trail &= flux < flux[row]
        share[on_trail] = 0.0
    return np.where(known, share, 1.0).astype(np.float32)


def _outside(
    x: NDArray[np.float64], y: NDArray[np.float64], radius: Any, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Say which circles reach beyond the image."""
    ny, nx = shape
    inside = (x - radius > -0.5) & (y - radius > -0.5) & (x + radius < nx - 0.5) & (y + radius < ny - 0.5)
    return ~np.asarray(inside)
