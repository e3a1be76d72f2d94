"""Matching of sources with objects on the sky, one to one."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import KDTree

from tololo.reduction.dia_objects import Columns, Floats, Integers

POSITION_FLOOR = 0.05
"""Arcsec; what astrometry from one exposure to the next cannot do better than (DECam, short exposures)."""

ARCSEC = math.pi / 180.0 / 3600.0


def match_sources(sources: Columns, objects: Columns, radius: float) -> Integers:
    """Match sources with objects one to one, the most significant pairs first.

    Pairs are ranked by the log of their Bayes factor against chance, ``ln(2/s2) - d2/(2 s2)`` with ``s2`` the
    sum of both position variances (Budavari & Szalay 2008, ApJ 679, 301), then by signal-to-noise ratio, then
    by ids: the outcome does not depend on the order of the rows.

    Parameters
    ----------
    sources, objects : mapping of arrays
        ``ra``, ``dec``, ``raErr``, ``decErr`` (degrees, the errors true angles) and ``diaSourceId`` or
        ``diaObjectId``; sources may have ``snr``. Shapes ``(n,)`` and ``(m,)``.
    radius : `float`
        Arcsec.

    Returns
    -------
    match : `numpy.ndarray`
        Index of the object of each source, -1 for none; shape ``(n,)``.
    """
    match = np.full(len(sources["ra"]), -1, dtype=np.int64)
    if not len(match) or not len(objects["ra"]):
        return match
    chord = 2 * math.sin(radius * ARCSEC / 2)
    pairs = KDTree(_unit(sources)).sparse_distance_matrix(
        KDTree(_unit(objects)), chord, output_type="ndarray"
    )
    i, j, separation = pairs["i"], pairs["j"], pairs["v"] / ARCSEC
    variance = _variance(sources)[i] + _variance(objects)[j] + POSITION_FLOOR**2
    evidence = np.log(2 / variance) - separation**2 / (2 * variance)
    snr = np.nan_to_num(np.abs(sources["snr"][i].astype(float))) if "snr" in sources else np.zeros(len(i))
    ranked = np.lexsort((objects["diaObjectId"][j], sources["diaSourceId"][i], -snr, -evidence))
    taken = np.zeros(len(objects["ra"]), dtype=bool)
    for k in ranked:
        if match[i[k]] < 0 and not taken[j[k]]:
            match[i[k]] = j[k]
            taken[j[k]] = True
    return match


def _unit(table: Columns) -> Floats:
    ra, dec = np.radians(table["ra"]), np.radians(table["dec"])
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def _variance(table: Columns) -> Floats:
    """Mean position variance of the two axes, arcsec^2; 0 where it is not known."""
    variance = (table["raErr"].astype(float) ** 2 + table["decErr"].astype(float) ** 2) / 2 * 3600.0**2
    known: Floats = np.nan_to_num(variance, nan=0.0, posinf=0.0)
    return known
