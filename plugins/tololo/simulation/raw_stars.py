"""Stars of a simulated field out of a reference catalogue: Gaia's, and PS1's fainter ones where given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table, vstack
from astropy.time import Time
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.refcat import MILLIARCSECOND, read_refcat
from tololo.reduction.formats.tract import unit_vectors
from tololo.reduction.kernels.calibration import gaia_to_decam
from tololo.simulation.raw_camera import Chip
from tololo.simulation.raw_plan import RawPlan
from tololo.simulation.raw_reference import ps1_to_decam
from tololo.simulation.sky import wcs_header, wcs_of
from tololo.simulation.truth import EPOCH, MARGIN, nanojansky

type Floats = NDArray[np.float64]

_SAME = np.radians(1 / 3600)
"""PS1 sources within an arcsecond of one of Gaia's are that one."""

_TYPICAL_COLOR, _TYPICAL_G_I = 1.2, 0.8
"""BP - RP, g - i of stars that have none."""

_BRIGHT = 14.5
"""Stars brighter than that are saturated in PS1."""

# Colours of stars in Gaia's bands as polynomials, highest power first, in PS1's g - r; fitted to 1600 stars
# of G 15.5 to 18.5 in both catalogues of the COSMOS field, with a scatter of 0.07 mag.
_BP_RP, _G_R = (0.821, 0.273, 0.621), (-0.876, 1.089, -0.249)
_G_RP = (-0.0667, 0.6223, 0.0328)  # in BP - RP


def read_field(plan: RawPlan) -> Table:
    """Read the catalogue of a plan.

    Parameters
    ----------
    plan : `RawPlan`
        Its ``refcat`` is a table, a folder of tables of one catalogue, or a folder with one folder of each:
        those of Gaia and those of PS1 (columns ``g_flux``, ``r_flux``, ...), which adds fainter stars and
        whose magnitudes go before what Gaia's predict.

    Returns
    -------
    stars : `astropy.table.Table`
        ra, dec (degrees ICRS at the truth's epoch), pmra, pmdec (mas/yr), g, bp, rp (Gaia magnitudes),
        flux_<band> (nJy, DECam), ``id`` of the catalogue as ``source``.

    Raises
    ------
    BadInputError
        If there is no table with Gaia's magnitudes.
    """
    root = Path(plan.refcat)
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []
    catalogues = [read_refcat(path) for path in folders or [root]]
    gaia = [table for table in catalogues if "phot_g_mean_flux" in table.colnames]
    others = [table for table in catalogues if {"g_flux", "r_flux"} <= set(table.colnames)]
    if not gaia:
        raise BadInputError(
            "The reference catalogue has no magnitudes of Gaia", str(root), "give a folder with Gaia's tables"
        )
    stars = [_from_gaia(table, plan.bands) for table in gaia]
    taken = cKDTree(unit_vectors(*(np.concatenate([table[c] for table in stars]) for c in ("ra", "dec"))))
    for table in others:
        faint = _from_ps1(table, plan.bands)
        distance, _ = taken.query(unit_vectors(np.asarray(faint["ra"]), np.asarray(faint["dec"])))
        for own in stars[: len(gaia)]:
            _measure_better(own, faint, plan.bands)
        stars.append(faint[distance > _SAME])
    return vstack(stars, metadata_conflicts="silent")


def stars_on(field: Table, plan: RawPlan, chip: Chip, random: np.random.Generator) -> Table:
    """Choose the stars of a field that fall on a CCD or near it; the columns of `Truth.stars` but the id."""
    wcs = wcs_of(wcs_header(chip.true, plan.sky))
    ny, nx = chip.shape
    ra, dec = (float(value) for value in wcs.all_pix2world(nx / 2, ny / 2, 0))
    away = np.hypot((field["ra"] - ra) * np.cos(np.radians(dec)), field["dec"] - dec)
    near = field[np.asarray(away) < 0.25]
    x, y = wcs.all_world2pix(near["ra"], near["dec"], 0) if len(near) else (np.empty(0), np.empty(0))
    inside = (x > -MARGIN) & (x < nx + MARGIN) & (y > -MARGIN) & (y < ny + MARGIN)
    stars = near[inside]
    g = np.asarray(stars["g"])
    stars["variable"] = (random.random(len(stars)) < plan.variable_fraction) & (g > 15.5) & (g < 20)
    stars["detector"] = chip.ccd.id
    return stars


def _measure_better(stars: Table, listed: Table, bands: tuple[str, ...]) -> None:
    """Give stars the fluxes of PS1 where it lists them."""
    tree = cKDTree(unit_vectors(np.asarray(listed["ra"]), np.asarray(listed["dec"])))
    distance, row = tree.query(unit_vectors(np.asarray(stars["ra"]), np.asarray(stars["dec"])))
    known = np.flatnonzero((distance < _SAME) & (np.asarray(stars["g"]) > _BRIGHT))
    for band in bands:
        stars[f"flux_{band}"][known] = listed[f"flux_{band}"][row[known]]


def _from_gaia(table: Table, bands: tuple[str, ...]) -> Table:
    def magnitude(name: str) -> Floats:
        flux = np.asarray(table[f"phot_{name}_mean_flux"], float)
        return np.where(flux > 0, 31.4 - 2.5 * np.log10(np.where(flux > 0, flux, 1)), np.nan)

    g, bp, rp = (magnitude(name) for name in ("g", "bp", "rp"))
    color = np.clip(np.nan_to_num(bp - rp, nan=_TYPICAL_COLOR), 0.0, 3.5)
    middle = np.where(np.isfinite(rp), rp, g - 0.6)
    motion = {axis: np.nan_to_num(np.asarray(table[f"pm_{axis}"], float)) for axis in ("ra", "dec")}
    ra, dec = np.degrees(np.asarray(table["coord_ra"])), np.degrees(np.asarray(table["coord_dec"]))
    epoch = Time(
        np.nan_to_num(np.asarray(table["epoch"], float), nan=57205.87), format="mjd", scale="tai"
    ).jyear
    years = EPOCH - epoch
    stars = Table({"source": np.asarray(table["id"])})
    stars["ra"] = ra + np.degrees(motion["ra"] * years) / np.cos(np.radians(dec))
    stars["dec"] = dec + np.degrees(motion["dec"] * years)
    stars["pmra"], stars["pmdec"] = motion["ra"] / MILLIARCSECOND, motion["dec"] / MILLIARCSECOND
    stars["g"], stars["bp"], stars["rp"] = g, middle + color, middle
    for band in bands:
        stars[f"flux_{band}"] = nanojansky(gaia_to_decam(g, middle + color, middle, band))
    return stars[np.isfinite(g)]


def _from_ps1(table: Table, bands: tuple[str, ...]) -> Table:
    def magnitude(band: str) -> Floats:
        flux = np.asarray(table[f"{band}_flux"], float)
        return np.where(flux > 0, 31.4 - 2.5 * np.log10(np.where(flux > 0, flux, 1)), np.nan)

    good = np.isfinite(magnitude("g") + magnitude("r"))
    color = np.clip(magnitude("g") - magnitude("r"), -0.3, 1.6)
    g = magnitude("r") + np.polyval(_G_R, color)
    spread = np.polyval(_BP_RP, color)
    rp = g - np.polyval(_G_RP, spread)
    stars = Table({"source": np.asarray(table["id"])})
    stars["ra"], stars["dec"] = (
        np.degrees(np.asarray(table["coord_ra"])),
        np.degrees(np.asarray(table["coord_dec"])),
    )
    stars["pmra"] = stars["pmdec"] = np.zeros(len(table))
    stars["g"], stars["bp"], stars["rp"] = g, rp + spread, rp
    g_i = np.nan_to_num(magnitude("g") - magnitude("i"), nan=_TYPICAL_G_I)
    for band in bands:
        measured = magnitude(band) + ps1_to_decam(g_i, band)
        guessed = gaia_to_decam(g, rp + spread, rp, band)
        stars[f"flux_{band}"] = nanojansky(np.where(np.isfinite(measured), measured, guessed))
    return stars[good]
