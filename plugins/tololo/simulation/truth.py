"""The truth of a simulation, and the reference catalogue made of its stars."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from tololo.reduction.kernels.calibration import gaia_to_decam
from tololo.simulation.plan import Plan
from tololo.simulation.sky import PIXEL_SCALE, Ccd, wcs_header, wcs_of

type Floats = NDArray[np.float64]

TABLES = ("stars", "galaxies", "transients", "exposures")
REFERENCE = Path("gaia", "chunk-00000.fits")
EPOCH = 2015.5
"""Julian year of the stars' positions and of the reference catalogue."""

MARGIN = 70
"""How far beyond a detector its sky is filled, pixels."""

_BRIGHTEST, _FAINTEST, _SLOPE = 13.5, 23.5, 0.25
# G - RP of stars as a polynomial in BP - RP, fitted to Gaia DR2 in the fields of the test data.
_G_RP = (0.03144474, -0.25237341, 0.95514368, -0.12740789)
# Error of a position (mas) and signal to noise of G, and of BP and RP, against G: medians of the same tables.
_GAIA_G = (13.5, 14.5, 15.5, 16.5, 17.5, 18.5, 19.5, 20.5)
_GAIA_PLACE = (0.028, 0.035, 0.053, 0.073, 0.144, 0.251, 0.532, 1.261)
_GAIA_SNR_G = (3331.0, 3089.0, 1659.0, 1243.0, 755.0, 412.0, 211.0, 91.0)
_GAIA_SNR_BP = (685.0, 585.0, 271.0, 162.0, 73.0, 30.0, 12.7, 6.6)
_GALAXY_COLORS = {"g": 0.8, "r": 0.0, "i": -0.3, "z": -0.5}


@dataclass(frozen=True)
class Truth:
    """What was put into the images.

    Attributes
    ----------
    folder : `pathlib.Path`
        Holds ``exposures/`` (InstCal files), ``gaia/`` (reference catalogue), ``truth/`` (these tables,
        ECSV).
    stars : `astropy.table.Table`
        id, ra, dec (degrees ICRS at `EPOCH`), pmra, pmdec (mas/yr, pmra with cos dec), g, bp, rp (Gaia
        magnitudes), flux_<band> (nJy), variable, detector.
    galaxies : `astropy.table.Table`
        id, ra, dec, radius (half-light, arcsec), sersic, axis_ratio, angle (degrees), flux_<band> (nJy),
        detector.
    transients : `astropy.table.Table`
        One row per transient and science exposure in which it shines: id, kind (``transient``,
        ``variable`` for the change of a variable star against its mean, or that of a planned source, which
        has rows in all exposures), visit, detector, band, ra, dec, x, y
        (zero-based pixels), flux (nJy), snr (expected, PSF-fitted on the difference with an unconvolved mean
        template), snr_science (on the science image alone), galaxy (id of the one it is near, or -1).
    exposures : `astropy.table.Table`
        visit, night, band, science, mjd_utc, exptime, fwhm (arcsec), zero_point (AB magnitude of 1 ADU in the
        exposure), transparency, sky (ADU), airmass, image (file name).
    """

    folder: Path
    stars: Table
    galaxies: Table
    transients: Table
    exposures: Table

    @property
    def images(self) -> Path:
        """Folder of the InstCal files."""
        return self.folder / "exposures"

    @property
    def reference(self) -> Path:
        """Reference catalogue, a FITS table with Gaia's column names."""
        return self.folder / REFERENCE

    @classmethod
    def read(cls, folder: Path) -> Truth:
        """Read the tables of a finished simulation."""
        tables = {name: Table.read(folder / "truth" / f"{name}.ecsv") for name in TABLES}
        return cls(folder, **tables)

    def write(self) -> None:
        """Write the tables into the folder."""
        (self.folder / "truth").mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            getattr(self, name).write(self.folder / "truth" / f"{name}.ecsv", overwrite=True)


def positions_at(stars: Table, mjd: float) -> tuple[Floats, Floats]:
    """Return RA and Dec of stars at a time (MJD), degrees, moved by their proper motion from `EPOCH`."""
    years = (mjd - 51544.5) / 365.25 + 2000.0 - EPOCH
    dec = np.asarray(stars["dec"])
    ra = np.asarray(stars["ra"]) + np.asarray(stars["pmra"]) * years / 3.6e6 / np.cos(np.radians(dec))
    return ra, dec + np.asarray(stars["pmdec"]) * years / 3.6e6


def nanojansky(magnitude: Floats | float) -> Floats:
    """Turn AB magnitudes into nJy."""
    return np.asarray(10 ** (0.4 * (31.4 - np.asarray(magnitude))))


def make_stars(plan: Plan, chip: Ccd, random: np.random.Generator) -> Table:
    """Draw the stars over one detector: N(<G) ~ 10^(0.25 G), colours and proper motions like Gaia's.

    Returns
    -------
    stars : `astropy.table.Table`
        The columns of `Truth.stars`. Magnitudes in DECam's bands follow from Gaia's as
        `tololo.reduction.kernels.calibration.gaia_to_decam` has them, with a scatter of 0.015 mag of its own.
    """
    area = (plan.shape[0] + 2 * MARGIN) * (plan.shape[1] + 2 * MARGIN) * (PIXEL_SCALE / 3600) ** 2
    number = random.poisson(plan.stars_per_deg2 * area * 10 ** (_SLOPE * (_FAINTEST - 21.0)))
    ra, dec = _scatter(plan, chip, number, random)
    share = random.uniform(10 ** (_SLOPE * (_BRIGHTEST - _FAINTEST)), 1, number)
    g = _FAINTEST + np.log10(share) / _SLOPE
    red = random.random(number) < np.interp(g, (14, 20), (0.08, 0.55))
    color = np.clip(
        np.where(red, random.normal(2.1, 0.4, number), random.normal(0.95, 0.18, number)), 0.4, 3.0
    )
    rp = g - np.polyval(_G_RP, color) + random.normal(0, 0.01, number)
    stars = Table({"ra": ra, "dec": dec})
    stars["pmra"], stars["pmdec"] = random.normal(-3, 4, number), random.normal(-4, 4, number)
    stars["g"], stars["bp"], stars["rp"] = g, rp + color, rp
    for band in _bands(plan):
        magnitude = gaia_to_decam(g, rp + color, rp, band) + random.normal(0, 0.015, number)
        stars[f"flux_{band}"] = nanojansky(magnitude)
    stars["variable"] = (random.random(number) < plan.variable_fraction) & (g > 15.5) & (g < 20)
    stars["detector"] = chip.ccdnum
    return stars


def draw_variability(stars: Table, exposures: int, random: np.random.Generator) -> Floats:
    """Draw the factor of each star's flux in each exposure, (stars, exposures): 1 but for variables."""
    factor = np.ones((len(stars), exposures))
    which = np.asarray(stars["variable"])
    amplitude, phase = (
        random.uniform(0.2, 0.5, which.sum()),
        random.uniform(0, 2 * np.pi, (which.sum(), exposures)),
    )
    factor[which] = 1 + amplitude[:, None] * np.sin(phase)
    return factor


def make_galaxies(plan: Plan, chip: Ccd, random: np.random.Generator) -> Table:
    """Draw the galaxies over one detector: exponential and steeper profiles, fainter ones smaller."""
    number = plan.galaxies
    ra, dec = _scatter(plan, chip, number, random)
    magnitude = 23.0 + np.log10(random.uniform(10 ** (0.35 * (17.5 - 23.0)), 1, number)) / 0.35
    galaxies = Table({"ra": ra, "dec": dec})
    galaxies["radius"] = np.clip(
        10 ** (0.12 * (21.5 - magnitude) + random.normal(-0.1, 0.18, number)), 0.2, 4.0
    )
    galaxies["sersic"] = np.where(random.random(number) < 0.75, 1.0, 3.0)
    galaxies["axis_ratio"] = random.uniform(0.25, 1.0, number)
    galaxies["angle"] = random.uniform(0, 180, number)
    for band in _bands(plan):
        galaxies[f"flux_{band}"] = nanojansky(magnitude + _GALAXY_COLORS[band])
    galaxies["detector"] = chip.ccdnum
    return galaxies


def reference_catalogue(stars: Table, limit: float, random: np.random.Generator) -> Table:
    """Return what Gaia would list of the stars.

    Parameters
    ----------
    stars : `astropy.table.Table`
        As in `Truth.stars`.
    limit : `float`
        Faintest G.
    random : `numpy.random.Generator`

    Returns
    -------
    catalogue : `astropy.table.Table`
        Columns, types and units of Gaia DR2 as the Legacy Surveys' ``chunk-*.fits`` have them: positions in
        degrees at ``ref_epoch``, their errors in mas, motions in mas/yr. Values are off by errors of Gaia's
        size.
    """
    kept = stars[np.asarray(stars["g"]) < limit]
    g = np.asarray(kept["g"])
    place = np.interp(g, _GAIA_G, _GAIA_PLACE)
    catalogue = Table({"source_id": np.int64(3_000_000_000_000_000_000) + np.asarray(kept["id"])})
    for axis, scale in (("ra", np.cos(np.radians(kept["dec"]))), ("dec", 1.0)):
        catalogue[axis] = kept[axis] + random.normal(0, place) / 3.6e6 / scale
    catalogue["ra_error"] = catalogue["dec_error"] = place.astype("f4")
    for short, errors in (("g", _GAIA_SNR_G), ("bp", _GAIA_SNR_BP), ("rp", _GAIA_SNR_BP)):
        snr = np.exp(np.interp(g, _GAIA_G, np.log(errors)))
        catalogue[f"phot_{short}_mean_mag"] = (kept[short] + random.normal(0, 1.0857 / snr)).astype("f4")
        catalogue[f"phot_{short}_mean_flux_over_error"] = snr.astype("f4")
        catalogue[f"phot_{short}_n_obs"] = np.full(len(kept), 20 if short != "g" else 200, "i2")
    catalogue["astrometric_excess_noise"] = np.zeros(len(kept), "f4")
    catalogue["duplicated_source"] = np.zeros(len(kept), bool)
    catalogue["ref_epoch"] = np.full(len(kept), EPOCH, "f4")
    catalogue["parallax"], catalogue["parallax_error"] = np.zeros(len(kept), "f4"), place.astype("f4")
    for axis in ("ra", "dec"):
        catalogue[f"pm{axis}"] = (kept[f"pm{axis}"] + random.normal(0, 1.8 * place)).astype("f4")
        catalogue[f"pm{axis}_error"] = (1.8 * place).astype("f4")
    catalogue["phot_variable_flag"] = np.zeros(len(kept), bool)
    catalogue["phot_bp_rp_excess_factor"] = np.full(len(kept), 1.3, "f4")
    return catalogue


def numbered(tables: list[Table]) -> Table:
    """Stack tables and number their rows from 1 in a column ``id``."""
    whole = vstack(tables, metadata_conflicts="silent")
    whole.add_column(np.arange(1, len(whole) + 1), 0, name="id")
    return whole


def _bands(plan: Plan) -> list[str]:
    return sorted({exposure.band for exposure in plan.exposures})


def _scatter(plan: Plan, chip: Ccd, number: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Places on the sky, even over the detector and `MARGIN` beyond."""
    x = random.uniform(-MARGIN, plan.shape[1] + MARGIN, number)
    y = random.uniform(-MARGIN, plan.shape[0] + MARGIN, number)
    ra, dec = wcs_of(wcs_header(chip, plan)).all_pix2world(x, y, 0)
    return np.asarray(ra, float), np.asarray(dec, float)
