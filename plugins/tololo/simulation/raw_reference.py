"""What Pan-STARRS1 would list of a simulated field, and what DECam sees of what it lists."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.reduction.kernels.calibration import gaia_to_decam
from tololo.reduction.references import color_terms
from tololo.simulation.truth import EPOCH, nanojansky

type Floats = NDArray[np.float64]

BANDS = ("g", "r", "i", "z")

_EPOCH = 56000.0  # MJD, the middle of the survey
_PLACE = 0.015  # arcsec
_FLOOR, _AT_20 = 0.006, 0.012  # errors in mag: of bright stars, and beside it at 20th magnitude
_FIRST = 100_000_000_000_000_000


def ps1_to_decam(g_i: Floats, band: str) -> Floats:
    """Return DECam's magnitude less PS1's against PS1's g - i; constant beyond the relation's range."""
    terms = color_terms()["ps1"]
    color = np.clip(g_i, *terms["range"])
    return np.asarray(np.polynomial.polynomial.polyval(color, terms["bands"][band]["terms"]))


def ps1_catalogue(stars: Table, limit: float, random: np.random.Generator) -> Table:
    """Return what PS1 would list of the stars.

    Parameters
    ----------
    stars : `astropy.table.Table`
        As in `Truth.stars`.
    limit : `float`
        Faintest r.
    random : `numpy.random.Generator`

    Returns
    -------
    catalogue : `astropy.table.Table`
        Columns of LSST's shards: id, coord_ra, coord_dec (rad, ICRS at ``epoch``, MJD), ``g_flux`` to
        ``z_flux`` and their errors (nJy), with scatter as the errors say. Where the truth has no flux in a
        band, Gaia's magnitudes stand for it.
    """
    decam = {
        band: 31.4 - 2.5 * np.log10(np.asarray(stars[f"flux_{band}"]))
        if f"flux_{band}" in stars.colnames
        else gaia_to_decam(stars["g"], stars["bp"], stars["rp"], band)
        for band in BANDS
    }
    color = decam["g"] - decam["i"]
    for _ in range(20):
        color = decam["g"] - ps1_to_decam(color, "g") - decam["i"] + ps1_to_decam(color, "i")
    magnitude = {band: decam[band] - ps1_to_decam(color, band) for band in BANDS}
    kept = np.flatnonzero(magnitude["r"] < limit)
    years = (_EPOCH - 51544.5) / 365.25 + 2000 - EPOCH
    dec = np.asarray(stars["dec"])[kept] + np.asarray(stars["pmdec"])[kept] * years / 3.6e6
    stretch = np.cos(np.radians(dec))
    ra = np.asarray(stars["ra"])[kept] + np.asarray(stars["pmra"])[kept] * years / 3.6e6 / stretch
    off = random.normal(0, _PLACE / 3600, (2, len(kept)))
    catalogue = Table({"id": _FIRST + np.asarray(stars["id"])[kept]})
    catalogue["coord_ra"] = np.radians(ra + off[0] / stretch) % (2 * np.pi)
    catalogue["coord_dec"] = np.radians(dec + off[1])
    catalogue["epoch"] = np.full(len(kept), _EPOCH)
    for band in BANDS:
        true = magnitude[band][kept]
        error = np.hypot(_FLOOR, _AT_20 * 10 ** (0.3 * (true - 20)))
        flux = nanojansky(true + random.normal(0, error))
        catalogue[f"{band}_flux"], catalogue[f"{band}_fluxErr"] = flux, flux * error / 1.0857
    return catalogue
