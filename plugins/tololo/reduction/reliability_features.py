"""What the reliability of a diaSource is judged by: plain numbers from the columns of its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEATURES = (
    "log_score",  # log10 of the detection's score
    "log_snr",  # the same with the subtraction's error on stars as noise
    "log_chi2",  # of the PSF fit, or of the trail where one fits
    "lobe",  # strongest score of the other sign nearby over its own
    "good_light",  # part of the PSF's light on good pixels
    "sharpness",  # central pixel over the PSF's
    "offset",  # of the fit from the detection, FWHM
    "template",  # log10 of 1 + the template's flux over its own
    "aperture",  # aperture flux over PSF flux
    "elongation",  # major over minor axis
    "size",  # log10 of its area over the PSF's
    "extendedness",
    "neighbour",  # flux over that of the brightest detection nearby
    "saturated",  # distance to saturated pixels, FWHM
    "edge",  # distance to the edge, FWHM
    "cosmic_ray",  # flags of its footprint
    "suspect",
    "interpolated",
)
"""The columns of `features`. The sign is not among them: what fades is as real as what rises."""

_NEEDED = (
    *("detectionScore", "snr", "chi2", "lobeRatio", "goodFraction", "sharpness", "offset", "psfFwhm"),
    *("templateFlux", "psfFlux", "apFlux", "ixx", "iyy", "ixy", "ixxPSF", "iyyPSF", "ixyPSF"),
    *("extendedness", "neighbourShare", "saturatedDistance", "edgeDistance", "trailLength"),
    *("trailChi2", "trailNdata"),
)


def missing_columns(names: Any) -> list[str]:
    """List the columns that `features` needs and a table has not."""
    there = set(names)
    return [name for name in _NEEDED if name not in there]


def features(columns: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the features of diaSources.

    Parameters
    ----------
    columns : mapping or `astropy.table.Table`
        With the columns of ``dia_source_unfiltered``. Flags that are missing are taken as not set.

    Returns
    -------
    features : `numpy.ndarray`, (n, len(FEATURES))
        NaN where a number is not known. A source that a trail fits is judged by what the trail leaves: its
        shape is not held against it.
    """

    def column(name: str) -> NDArray[np.float64]:
        return np.asarray(columns[name], dtype=float)

    n = len(column("psfFlux"))
    flux, fwhm = np.abs(column("psfFlux")), column("psfFwhm")
    trailed = column("trailLength") > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, half = (column("ixx") + column("iyy")) / 2, (column("ixx") - column("iyy")) / 2
        root = np.hypot(half, column("ixy"))
        determinant = column("ixx") * column("iyy") - column("ixy") ** 2
        own = column("ixxPSF") * column("iyyPSF") - column("ixyPSF") ** 2
        round_ = (mean - root) > 0
        elongation = np.where(round_, np.sqrt((mean + root) / np.where(round_, mean - root, 1.0)), np.nan)
        size = np.where(determinant > 0, 0.5 * np.log10(np.abs(determinant) / own), np.nan)
        chi2 = np.where(
            trailed, column("trailChi2") / np.maximum(column("trailNdata") - 5, 1), column("chi2")
        )
        values = {
            "log_score": np.log10(np.maximum(np.abs(column("detectionScore")), 1.0)),
            "log_snr": np.log10(np.maximum(np.abs(column("snr")), 0.1)),
            "log_chi2": np.log10(np.clip(chi2, 0.1, 1e4)),
            "lobe": np.clip(column("lobeRatio"), 0.0, 2.0),
            "good_light": column("goodFraction"),
            "sharpness": np.clip(column("sharpness"), 0.0, 5.0),
            "offset": np.clip(column("offset") / fwhm, 0.0, 3.0),
            "template": np.log10(1.0 + np.maximum(column("templateFlux"), 0.0) / flux),
            "aperture": np.where(trailed, 1.0, np.clip(column("apFlux") / column("psfFlux"), -3.0, 5.0)),
            "elongation": np.where(trailed, 1.0, np.clip(elongation, 1.0, 5.0)),
            "size": np.where(trailed, 0.0, np.clip(size, -1.0, 1.0)),
            "extendedness": np.where(trailed, 0.0, np.clip(column("extendedness"), -1.0, 3.0)),
            "neighbour": column("neighbourShare"),
            "saturated": np.minimum(column("saturatedDistance") / fwhm, 5.0),
            "edge": np.minimum(column("edgeDistance") / fwhm, 5.0),
        }
    there = set(getattr(columns, "colnames", None) or columns.keys())
    for name, flag in (("cosmic_ray", "cr"), ("suspect", "suspect"), ("interpolated", "interpolated")):
        key = f"pixelFlags_{flag}"
        values[name] = column(key) if key in there else np.zeros(n)
    table = np.column_stack([values[name] for name in FEATURES]).reshape(n, len(FEATURES))
    return np.where(np.isfinite(table), table, np.nan)
