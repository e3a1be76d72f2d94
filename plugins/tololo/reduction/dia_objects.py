"""Summaries of diaObjects: where their sources are on average, and how bright they are in each band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

type Columns = Mapping[str, npt.NDArray[Any]]
type Floats = npt.NDArray[np.float64]
type Integers = npt.NDArray[np.int64]

HISTORY = (
    "diaObjectId",
    "midpointMjdTai",
    "band",
    "ra",
    "dec",
    "raErr",
    "decErr",
    "ra_dec_Cov",
    "psfFlux",
    "psfFluxErr",
    "scienceFlux",
    "scienceFluxErr",
)
"""What summaries need of the diaSources of an object."""

FORCED_HISTORY = ("diaObjectId", "band", "psfFlux", "psfFluxErr")
"""What summaries need of its forced sources."""


def mean_positions(ids: Integers, sources: Columns) -> dict[str, npt.NDArray[Any]]:
    """Average the positions of the sources of each object, weighted by their errors.

    Parameters
    ----------
    ids : `numpy.ndarray`
        Sorted object ids, shape ``(m,)``; each has at least one source.
    sources : mapping of arrays
        ``diaObjectId``, ``midpointMjdTai``, ``ra``, ``dec``, ``raErr``, ``decErr`` (degrees), ``ra_dec_Cov``
        (degrees^2), shape ``(n,)``. Sources without errors count only in objects where no source has one; one
        without covariance counts as if its errors were independent.

    Returns
    -------
    columns : `dict`
        ``diaObjectId``, ``ra``, ``dec``, ``raErr``, ``decErr``, ``ra_dec_Cov`` (NaN where no source has a
        covariance), ``nDiaSources``, ``firstDiaSourceMjdTai``, ``lastDiaSourceMjdTai``; shape ``(m,)``.
    """
    m = len(ids)
    group = np.searchsorted(ids, sources["diaObjectId"])
    origin = np.zeros(m, dtype=np.int64)
    origin[group[::-1]] = np.arange(len(group))[::-1]
    ra0, dec0 = sources["ra"][origin], sources["dec"][origin]
    shrink = np.maximum(np.cos(np.radians(dec0)), 1e-12)
    offsets = {
        "ra": ((sources["ra"] - ra0[group] + 180) % 360 - 180) * shrink[group],
        "dec": sources["dec"] - dec0[group],
    }
    columns: dict[str, npt.NDArray[Any]] = {"diaObjectId": ids}
    shares: dict[str, Floats] = {}
    for axis, offset in offsets.items():
        error = sources[f"{axis}Err"].astype(float)
        good = np.isfinite(error) & (error > 0)
        weight = np.where(good, 1 / np.where(good, error, 1.0) ** 2, 0.0)
        total = np.bincount(group, weight, m)
        weighted = total > 0
        weight = np.where(weighted[group], weight, 1.0)
        shares[axis] = weight / np.bincount(group, weight, m)[group]
        columns[axis] = np.bincount(group, shares[axis] * offset, m)
        columns[f"{axis}Err"] = np.where(weighted, 1 / np.sqrt(np.where(weighted, total, 1)), np.nan)
    columns["ra"] = (ra0 + columns["ra"] / shrink) % 360
    columns["dec"] = dec0 + columns["dec"]
    covariance = np.asarray(sources["ra_dec_Cov"], dtype=float)
    known = np.isfinite(covariance)
    mean = np.bincount(group, np.where(known, shares["ra"] * shares["dec"] * covariance, 0.0), m)
    columns["ra_dec_Cov"] = np.where(np.bincount(group, known, m) > 0, mean, np.nan)
    columns["nDiaSources"] = np.bincount(group, minlength=m)
    columns["firstDiaSourceMjdTai"] = _extreme(np.fmin, group, sources["midpointMjdTai"], m)
    columns["lastDiaSourceMjdTai"] = _extreme(np.fmax, group, sources["midpointMjdTai"], m)
    return columns


def summarise(
    ids: Integers, sources: Columns, forced: Columns, bands: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Summarise the fluxes of each object per band in the columns of the DiaObject table of the LSST APDB.

    Means are weighted by ``1/err^2`` with error ``1/sqrt(sum(1/err^2))``; Sigma is the sample standard
    deviation (n - 1); MaxSlope is the largest flux change per day between successive points. ``fpFlux`` comes
    from forced photometry on the differences, ``scienceFlux`` from the science images at the diaSources.

    Parameters
    ----------
    ids : `numpy.ndarray`
        Sorted object ids, shape ``(m,)``.
    sources : mapping of arrays
        ``diaObjectId``, ``midpointMjdTai`` (d), ``band``, ``psfFlux``, ``psfFluxErr``, ``scienceFlux``,
        ``scienceFluxErr`` (nJy).
    forced : mapping of arrays
        ``diaObjectId``, ``band``, ``psfFlux``, ``psfFluxErr`` (nJy); rows of other objects are ignored.
    bands : sequence of `str`
        Bands with summary columns; rows of other bands are not summarised.

    Returns
    -------
    columns : `dict`
        ``{band}_psfFluxMean`` and its kin, shape ``(m,)``, for every band.
    """
    m = len(ids)
    columns: dict[str, npt.NDArray[Any]] = {}
    forced = {name: column[np.isin(forced["diaObjectId"], ids)] for name, column in forced.items()}
    for band in bands:
        rows, group = _of_band(sources, band, ids)
        science = _mean(group, rows["scienceFlux"], rows["scienceFluxErr"], m)
        columns[f"{band}_scienceFluxMean"], columns[f"{band}_scienceFluxMeanErr"] = science
        points, point_group = _of_band(forced, band, ids)
        mean = _mean(point_group, points["psfFlux"], points["psfFluxErr"], m)
        columns[f"{band}_fpFluxMean"], columns[f"{band}_fpFluxMeanErr"] = mean

        good = np.isfinite(rows["psfFlux"]) & (rows["psfFluxErr"] > 0)
        group, flux, error = group[good], rows["psfFlux"][good].astype(float), rows["psfFluxErr"][good]
        mean = _mean(group, flux, error, m)
        columns[f"{band}_psfFluxMean"], columns[f"{band}_psfFluxMeanErr"] = mean
        n = np.bincount(group, minlength=m)
        centre = np.bincount(group, flux, m) / np.maximum(n, 1)
        squares = np.bincount(group, (flux - centre[group]) ** 2, m)
        columns[f"{band}_psfFluxNdata"] = n
        columns[f"{band}_psfFluxSigma"] = np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)
        columns[f"{band}_psfFluxMin"] = _extreme(np.fmin, group, flux, m)
        columns[f"{band}_psfFluxMax"] = _extreme(np.fmax, group, flux, m)
        error_mean = np.bincount(group, error, m) / np.maximum(n, 1)
        columns[f"{band}_psfFluxErrMean"] = np.where(n > 0, error_mean, np.nan)
        columns[f"{band}_psfFluxMaxSlope"] = _steepest(group, rows["midpointMjdTai"][good], flux, m)
    return columns


def _of_band(table: Columns, band: str, ids: Integers) -> tuple[Columns, Integers]:
    """Return the rows of a band and the place of their objects in ``ids``."""
    rows = np.flatnonzero(table["band"] == band)
    chosen = {name: column[rows] for name, column in table.items()}
    return chosen, np.searchsorted(ids, chosen["diaObjectId"])


def _mean(group: Integers, value: Floats, error: Floats, m: int) -> tuple[Floats, Floats]:
    good = np.isfinite(value) & (error > 0)
    weight = 1 / error[good].astype(float) ** 2
    total = np.bincount(group[good], weight, m)
    some = total > 0
    divisor = np.where(some, total, 1.0)
    mean = np.bincount(group[good], weight * value[good], m) / divisor
    return np.where(some, mean, np.nan), np.where(some, 1 / np.sqrt(divisor), np.nan)


def _extreme(which: np.ufunc, group: Integers, value: Floats, m: int) -> Floats:
    out = np.full(m, np.nan)
    which.at(out, group, value)
    return out


def _steepest(group: Integers, time: Floats, flux: Floats, m: int) -> Floats:
    order = np.lexsort((time, group))
    group, time, flux = group[order], time[order], flux[order]
    step = np.diff(time)
    same = (np.diff(group) == 0) & (step > 0)
    return _extreme(np.fmax, group[1:][same], np.diff(flux)[same] / step[same], m)
