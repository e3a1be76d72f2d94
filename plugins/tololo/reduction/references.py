"""Reference stars as a detector sees them: at the epoch of the exposure, in its pixels, in its band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table, vstack
from astropy.wcs import WCS
from numpy.typing import NDArray

from tololo.reduction.kernels.calibration import gaia_to_decam

ZERO_POINT = 31.4
"""Magnitude of 1 nJy (AB); the catalogue's own magnitudes come back with it."""

COLOR_TERM_ERROR = 0.015
"""Scatter of stars about the relation between Gaia and DECam magnitudes, mag (a floor for their errors)."""

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class References:
    """Stars that fall on a detector or near it.

    ``ra``, ``dec`` (ICRS degrees, at the exposure's epoch), ``x``, ``y`` (pixels by the given WCS),
    ``magnitude`` and ``error`` (AB in the band; NaN where the catalogue cannot tell), ``ids``.
    """

    ids: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    magnitude: NDArray[np.float64]
    error: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)


def references_on(
    shards: Sequence[Table], wcs: WCS, shape: tuple[int, int], band: str, mjd: float, margin: float = 20.0
) -> References:
    """Choose the stars on a detector.

    Parameters
    ----------
    shards : sequence of `astropy.table.Table`
        Reference catalogue in Tololo's form (positions in radians, fluxes in nJy, epoch as MJD).
    wcs : `astropy.wcs.WCS`
        The exposure's own WCS.
    shape : `tuple` [`int`, `int`]
        (ny, nx).
    band : `str`
        DECam band.
    mjd : `float`
        Epoch of the exposure.
    margin : `float`
        Pixels beyond the edge that are still of interest.

    Raises
    ------
    BadInputError
        There is no relation between the catalogue's magnitudes and the band.
    """
    ny, nx = shape
    table = vstack(list(shards), metadata_conflicts="silent") if shards else Table()
    if not len(table):
        empty = np.empty(0)
        return References(np.empty(0, np.int64), empty, empty, empty, empty, empty, empty)
    center = wcs.all_pix2world([[nx / 2, ny / 2]], 0)[0]
    reach = np.hypot(nx, ny) / 2 + margin
    scale = float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
    ra, dec = np.degrees(np.asarray(table["coord_ra"])), np.degrees(np.asarray(table["coord_dec"]))
    east = ((ra - center[0] + 180) % 360 - 180) * np.cos(np.radians(center[1]))
    near = np.hypot(east, dec - center[1]) < 1.2 * reach * scale
    table, ra, dec = table[near], ra[near], dec[near]
    years = (mjd - _column(table, "epoch", mjd)) / DAYS_PER_YEAR
    dec = dec + np.degrees(_column(table, "pm_dec", 0.0)) * years
    ra = ra + np.degrees(_column(table, "pm_ra", 0.0)) * years / np.cos(np.radians(dec))
    x, y = wcs.all_world2pix(ra, dec, 0) if len(table) else (ra, dec)
    inside = (x > -margin) & (x < nx - 1 + margin) & (y > -margin) & (y < ny - 1 + margin)
    (g, g_error), (bp, bp_error), (rp, rp_error) = (_magnitude(table, name) for name in ("g", "bp", "rp"))
    magnitude = gaia_to_decam(g, bp, rp, band)
    color_error = np.hypot(bp_error, rp_error)
    error = np.sqrt(g_error**2 + COLOR_TERM_ERROR**2 + (0.5 * color_error) ** 2)
    return References(
        np.asarray(table["id"], dtype=np.int64)[inside],
        ra[inside],
        dec[inside],
        x[inside],
        y[inside],
        magnitude[inside],
        error[inside],
    )


def _column(table: Table, name: str, default: float) -> NDArray[np.float64]:
    if name not in table.colnames:
        return np.full(len(table), default)
    values = np.asarray(table[name], dtype=float)
    return np.where(np.isfinite(values), values, default)


def _magnitude(table: Table, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    flux = np.asarray(table[f"phot_{name}_mean_flux"], dtype=float)
    column = f"phot_{name}_mean_fluxErr"
    error = np.asarray(table[column], dtype=float) if column in table.colnames else 0.01 * flux
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = np.where(flux > 0, ZERO_POINT - 2.5 * np.log10(flux), np.nan)
        return magnitude, 2.5 / np.log(10) * error / flux
