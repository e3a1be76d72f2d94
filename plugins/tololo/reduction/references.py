"""Reference stars as a detector sees them: at the epoch of the exposure, in its pixels, in its band.

Places are Gaia's. Magnitudes are those of Pan-STARRS1 where its shards are given and have the band, else
Gaia's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import yaml
from astropy.table import Table, vstack
from astropy.wcs import WCS
from numpy.typing import NDArray

from tololo.facility.configuration import INCLUDE
from tololo.reduction.kernels.astrometry import match
from tololo.reduction.kernels.calibration import GAIA_TO_DECAM, gaia_to_decam

ZERO_POINT = 31.4
"""Magnitude of 1 nJy (AB); the catalogue's own magnitudes come back with it."""

COLOR_TERM_ERROR = 0.015
"""Scatter of stars about the relation between Gaia and DECam magnitudes, mag (a floor for their errors)."""

DAYS_PER_YEAR = 365.25
ARCSEC_PER_RADIAN = 206264.806

SAME_STAR = 2.0
"""Pixels; a star of one catalogue this close to one of the other is the same."""

ENOUGH = 10
"""Stars; where Pan-STARRS1 has fewer (the edge of its survey), Gaia's magnitudes are taken."""


@dataclass(frozen=True)
class References:
    """Stars that fall on a detector or near it.

    ``ra``, ``dec`` (ICRS degrees, at the exposure's epoch), ``x``, ``y`` (pixels by the given WCS),
    ``magnitude`` and ``error`` (AB in the band; NaN where the catalogue cannot tell), ``ids``;
    ``brightness`` (Gaia's G), ``color`` and ``color_error`` (mag; NaN where unknown), ``place_error``
    (arcsec per axis, at the exposure's epoch), and ``catalogue``, the one that the magnitudes are from.
    """

    ids: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    magnitude: NDArray[np.float64]
    error: NDArray[np.float64]
    brightness: NDArray[np.float64]
    color: NDArray[np.float64]
    color_error: NDArray[np.float64]
    place_error: NDArray[np.float64]
    catalogue: str = "gaia_dr2"

    def __len__(self) -> int:
        return len(self.ids)


@cache
def color_terms() -> dict[str, Any]:
    """Return ``include/configs/color_terms.yaml``, by catalogue."""
    terms: dict[str, Any] = yaml.safe_load((INCLUDE / "configs" / "color_terms.yaml").read_text())
    return terms


def references_on(
    shards: Sequence[Table],
    wcs: WCS,
    shape: tuple[int, int],
    band: str,
    mjd: float,
    margin: float = 20.0,
    photometry: Sequence[Table] = (),
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
    photometry : sequence of `astropy.table.Table`
        Pan-STARRS1 in Tololo's form (``g_flux`` ... in nJy); where it has the band and stars enough,
        magnitudes and colours are from there.

    Raises
    ------
    BadInputError
        There is no relation between the catalogue's magnitudes and the band.
    """
    ny, nx = shape
    gaia = vstack(list(shards), metadata_conflicts="silent") if shards else Table()
    gaia = _near(gaia, wcs, shape, margin)
    pan_starrs = vstack(list(photometry), metadata_conflicts="silent") if photometry else Table()
    if not len(gaia):
        empty = np.empty(0)
        return References(
            np.empty(0, np.int64), empty, empty, empty, empty, empty, empty, empty, empty, empty, empty
        )
    years = (mjd - _column(gaia, "epoch", mjd)) / DAYS_PER_YEAR
    dec = np.degrees(np.asarray(gaia["coord_dec"]) + _column(gaia, "pm_dec", 0.0) * years)
    east = _column(gaia, "pm_ra", 0.0) * years / np.cos(np.radians(dec))
    ra = np.degrees(np.asarray(gaia["coord_ra"]) + east)
    x, y = wcs.all_world2pix(ra, dec, 0)
    inside = (x > -margin) & (x < nx - 1 + margin) & (y > -margin) & (y < ny - 1 + margin)
    gaia, ra, dec, x, y, years = gaia[inside], ra[inside], dec[inside], x[inside], y[inside], years[inside]
    (g, g_error), (bp, bp_error), (rp, rp_error) = (
        _magnitude(gaia, f"phot_{name}_mean_flux") for name in ("g", "bp", "rp")
    )
    color_error = np.hypot(bp_error, rp_error)
    pull = np.hypot(_column(gaia, "coord_raErr", 0.0), _column(gaia, "coord_decErr", 0.0))
    drift = np.hypot(_column(gaia, "pm_raErr", 0.0), _column(gaia, "pm_decErr", 0.0)) * years
    found = References(
        ids=np.asarray(gaia["id"], dtype=np.int64),
        ra=ra,
        dec=dec,
        x=x,
        y=y,
        magnitude=np.full(len(gaia), np.nan),
        error=np.full(len(gaia), np.nan),
        brightness=g,
        color=bp - rp,
        color_error=color_error,
        place_error=ARCSEC_PER_RADIAN * np.hypot(pull, drift) / np.sqrt(2),
    )
    if len(pan_starrs) and band in color_terms()["ps1"]["bands"]:
        better = _with_pan_starrs(found, _near(pan_starrs, wcs, shape, margin), wcs, band)
        if np.isfinite(better.magnitude).sum() >= ENOUGH or band not in GAIA_TO_DECAM:
            return better
    error = np.sqrt(g_error**2 + COLOR_TERM_ERROR**2 + (0.5 * color_error) ** 2)
    return replace(found, magnitude=gaia_to_decam(g, bp, rp, band), error=error)


def _near(table: Table, wcs: WCS, shape: tuple[int, int], margin: float) -> Table:
    """Return the rows within a circle around the detector; a WCS that is far off them would not converge."""
    if not len(table):
        return table
    ny, nx = shape
    center = wcs.all_pix2world([[nx / 2, ny / 2]], 0)[0]
    reach = np.hypot(nx, ny) / 2 + margin
    scale = float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
    ra, dec = np.degrees(np.asarray(table["coord_ra"])), np.degrees(np.asarray(table["coord_dec"]))
    east = ((ra - center[0] + 180) % 360 - 180) * np.cos(np.radians(center[1]))
    return table[np.hypot(east, dec - center[1]) < 1.2 * reach * scale]


def _with_pan_starrs(references: References, table: Table, wcs: WCS, band: str) -> References:
    """Give stars the magnitudes and colours of Pan-STARRS1, NaN where it does not have them."""
    terms = color_terms()["ps1"]
    magnitude, error, color, color_error = np.full((4, len(references)), np.nan)
    if len(table):
        ra, dec = np.degrees(np.asarray(table["coord_ra"])), np.degrees(np.asarray(table["coord_dec"]))
        here = np.column_stack(wcs.all_world2pix(ra, dec, 0))
        own, other = match(np.column_stack([references.x, references.y]), here, SAME_STAR)
        (blue, blue_error), (red, red_error) = (
            _magnitude(table[other], f"{name}_flux") for name in terms["color"]
        )
        relation = terms["bands"][band]
        value, value_error = _magnitude(table[other], f"{relation['from']}_flux")
        tint = blue - red
        low, high = terms["range"]
        good = (tint > low) & (tint < high) & (value > terms["bright"])
        own = own[good]
        magnitude[own] = (value + np.polynomial.polynomial.polyval(tint, relation["terms"]))[good]
        error[own] = np.hypot(value_error, terms["scatter"])[good]
        color[own], color_error[own] = tint[good], np.hypot(blue_error, red_error)[good]
    return replace(
        references, magnitude=magnitude, error=error, color=color, color_error=color_error, catalogue="ps1"
    )


def _column(table: Table, name: str, default: float) -> NDArray[np.float64]:
    if name not in table.colnames:
        return np.full(len(table), default)
    values = np.asarray(table[name], dtype=float)
    return np.where(np.isfinite(values), values, default)


def _magnitude(table: Table, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    flux = np.asarray(table[column], dtype=float)
    error = f"{column}Err"
    spread = np.asarray(table[error], dtype=float) if error in table.colnames else 0.01 * flux
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = np.where(flux > 0, ZERO_POINT - 2.5 * np.log10(flux), np.nan)
        return magnitude, 2.5 / np.log(10) * spread / flux
