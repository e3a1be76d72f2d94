"""The real DECam cutouts and their stars, for tests that compare with the Legacy Surveys' measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.time import Time
from astropy.wcs import WCS
from numpy.typing import NDArray

from real_data import FIELD, needs
from tololo.reduction.kernels.background import estimate_background
from tololo.reduction.kernels.calibration import match_offsets
from tololo.reduction.kernels.detection import detect_sources
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.psffit import fit_psf, moffat_kernel

EPOCHS = {
    431608: "c4d_150411_035242_ooi_z_ls9.N3", 630780: "c4d_170316_062107_ooi_z_ls9.N2",
    634850: "c4d_170329_044212_ooi_g_ls9.N3", 640615: "c4d_170419_042827_ooi_z_ls9.S1",
    650104: "c4d_170522_005829_ooi_r_ls9.N2", 716705: "c4d_180128_083845_ooi_r_ls9.N3",
    720558: "c4d_180212_083009_ooi_z_ls9.N3", 725257: "c4d_180225_074106_ooi_g_ls9.S1",
    730182: "c4d_180314_055922_ooi_r_ls9.S1",
}  # fmt: skip
needs_cutouts = needs(FIELD)


@dataclass
class Cutout:
    band: str
    exposure_time: float
    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    bad: NDArray[np.bool_]
    psf: PixelPsf
    n_psf_stars: int
    sources: NDArray[np.void]
    matched: NDArray[np.int64]
    gaia: Table
    gaia_x: NDArray[np.float64]
    gaia_y: NDArray[np.float64]


def legacy_survey(expnum: int) -> Table.Row:
    ccds = Table.read(FIELD / "survey-ccds-1.fits.gz")
    return ccds[ccds["expnum"] == expnum][0]


def gaia_stars(mjd: float) -> Table:
    """Return the Gaia DR2 stars with their positions moved to the epoch."""
    gaia = vstack([Table.read(path) for path in sorted((FIELD / "gaia").glob("chunk-*.fits"))])
    years = Time(mjd, format="mjd").jyear - gaia["ref_epoch"]
    pm_ra, pm_dec = (np.nan_to_num(np.array(gaia[name], dtype=float)) for name in ("pmra", "pmdec"))
    gaia["ra_now"] = gaia["ra"] + pm_ra * years / 3.6e6 / np.cos(np.radians(gaia["dec"]))
    gaia["dec_now"] = gaia["dec"] + pm_dec * years / 3.6e6
    return gaia


def open_cutout(expnum: int) -> Cutout:
    """Read a cutout, subtract its sky and fit its PSF.

    The weight map is the inverse of the whole variance: it falls at the stars as their photon noise asks.
    """
    path = FIELD / "exposures" / f"{EPOCHS[expnum]}.fits"
    with fits.open(path) as hdus:
        header, wcs = hdus[0].header, WCS(hdus[1].header)
        image = hdus[1].data.astype(np.float32)
    weight = fits.getdata(str(path).replace("_ooi_", "_oow_")).astype(np.float32)
    bad = (fits.getdata(str(path).replace("_ooi_", "_ood_")) != 0) | (weight <= 0)
    variance = np.where(weight > 0, 1 / np.where(weight > 0, weight, 1), np.inf).astype(np.float32)
    image -= estimate_background(image, bad)[0]
    guess = PixelPsf(moffat_kernel(25, np.log([4.5, 1, 1, 3]))[None])
    sources = detect_sources(image, variance, bad, guess)
    gaia = gaia_stars(header["MJD-OBS"])
    gaia_x, gaia_y = wcs.all_world2pix(gaia["ra_now"], gaia["dec_now"], 0, quiet=True)
    inside = (gaia_x > 3) & (gaia_y > 3) & (gaia_x < image.shape[1] - 4) & (gaia_y < image.shape[0] - 4)
    pairs = match_offsets(sources["x"], sources["y"], gaia_x[inside], gaia_y[inside], 6.0)
    known = np.isin(np.arange(sources.size), pairs.index)
    psf, stars = fit_psf(image, variance, bad, sources["x"], sources["y"], sources["flux"], point_like=known)
    rows = np.flatnonzero(inside)[pairs.reference]
    return Cutout(
        header["FILTER"][0], header["EXPTIME"], image, variance, bad, psf, int(stars["used"].sum()), sources,
        pairs.index, gaia[rows], gaia_x[rows], gaia_y[rows],
    )  # fmt: skip
