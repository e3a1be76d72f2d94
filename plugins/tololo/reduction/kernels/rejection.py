"""Why a detection on a difference image is not taken for something that changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tololo.facility.difference_limits import REASONS, DifferenceLimits

WIDEST_REASON = max(map(len, REASONS))


def rejection_of(columns: Mapping[str, NDArray[Any]], limits: DifferenceLimits) -> NDArray[np.str_]:
    """Return the reason against each detection, the first of `REASONS` that applies; empty if none does.

    Parameters
    ----------
    columns : mapping
        As `tololo.reduction.kernels.diasource.measure_difference` returns them, or a table with these
        columns: other limits can be tried without the pixels.
    limits : `DifferenceLimits`

    Returns
    -------
    rejection : `numpy.ndarray` of `str`, (n,)
    """
    score = np.abs(np.asarray(columns["detectionScore"], dtype=float))
    snr = np.abs(np.asarray(columns["snr"], dtype=float))
    inflation = score / np.maximum(snr, 1e-9)
    chi2 = np.asarray(columns["chi2"], dtype=float)
    worst = chi2_limit(score, np.asarray(columns["psfNdata"]), limits) * inflation**2
    trail = np.asarray(columns["trailLength"], dtype=float)
    other_shape = (np.asarray(columns["extendedness"]) >= 0.1) | (trail > 0)
    offset, fwhm = np.asarray(columns["offset"]), np.asarray(columns["psfFwhm"])
    faults = {
        "edge": np.asarray(columns["edgeDistance"]) < limits.edge,
        "saturated": np.asarray(columns["saturatedDistance"]) < limits.saturated,
        "masked": ~(np.asarray(columns["goodFraction"]) >= limits.good_light)
        | ~np.isfinite(np.asarray(columns["psfFlux"]))
        | ~np.isfinite(chi2),
        "flank": np.asarray(columns["neighbourShare"]) < limits.flank,
        "too faint": score < limits.score,
        "kernel error": snr < limits.significance,
        "dipole": np.asarray(columns["isDipole"], dtype=bool),
        "sharper than the PSF": np.asarray(columns["sharpness"]) > limits.sharpness,
        "not a point source": ((chi2 > worst) & ~other_shape) | (trail > limits.trail),
        "moved away": ~(offset <= np.maximum(1.0, limits.moved * fwhm)),
    }
    rejection = np.full(score.size, "", dtype=f"<U{WIDEST_REASON}")
    for reason in reversed(REASONS):
        rejection[faults[reason]] = reason
    return rejection


def chi2_limit(
    score: NDArray[np.floating], pixels: NDArray[np.integer], limits: DifferenceLimits
) -> NDArray[np.float64]:
    """Return the highest chi^2 per degree of freedom of a point source.

    So many sigma of its own scatter over so many pixels, the PSF's error as a part of the source, and 0.1 for
    the variance.
    """
    number = np.maximum(np.asarray(pixels, dtype=float), 1.0)
    misfit = (limits.model_error * np.asarray(score, dtype=float)) ** 2 / number
    return np.asarray(1.1 + misfit + limits.chi2 * np.sqrt(2.0 / number))
