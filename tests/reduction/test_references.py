"""Reference stars on a detector, and calibrations that lack them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from real_data import REAL, needs
from tololo.facility.errors import BadInputError
from tololo.reduction.formats.refcat import read_refcat
from tololo.reduction.references import references_on
from tololo.simulation.plan import Plan
from tololo.simulation.sky import ccd, wcs_header

from .chain import Simulation, calibrated_detector

KEY = (840001, 28)


def test_the_stars_that_fall_on_the_detector(simulation: Simulation) -> None:
    pixels = simulation.chain.read(*KEY)
    mjd = float(simulation.exposure(KEY[0])["mjd_utc"])
    references = references_on(simulation.chain.shards, pixels.wcs, pixels.image.shape, "r", mjd)
    stars = simulation.truth.stars
    mine = stars[(stars["detector"] == KEY[1]) & (stars["g"] < 21)]
    x, y = pixels.wcs.all_world2pix(mine["ra"], mine["dec"], 0)
    ny, nx = pixels.image.shape
    inside = mine[(x > 0) & (x < nx - 1) & (y > 0) & (y < ny - 1)]
    rows = {int(number): n for n, number in enumerate(references.ids - 3_000_000_000_000_000_000)}
    assert set(inside["id"].tolist()) <= set(rows)
    found = np.array([rows[int(number)] for number in inside["id"]])
    true = 31.4 - 2.5 * np.log10(inside["flux_r"])
    bright = np.asarray(inside["g"]) < 18
    # The truth scatters by 0.015 mag about the relation, and Gaia's colours add to it.
    assert np.std((references.magnitude[found] - true)[bright]) < 0.03
    pull = (references.magnitude[found] - true) / references.error[found]
    assert np.std(pull[np.isfinite(pull)]) < 1.5
    px, py = pixels.wcs.all_world2pix(references.ra, references.dec, 0)
    np.testing.assert_allclose((references.x, references.y), (px, py), atol=1e-6)


def test_proper_motion_moves_the_stars(simulation: Simulation) -> None:
    pixels = simulation.chain.read(*KEY)
    shard = simulation.chain.shards[0].copy()
    shard["pm_ra"], shard["pm_dec"] = np.radians(0.1 / 3600), np.radians(-0.2 / 3600)
    shard["parallax"] = 0.0
    epoch = float(np.asarray(shard["epoch"])[0])
    now, later = (
        references_on([shard], pixels.wcs, pixels.image.shape, "r", epoch + years * 365.25)
        for years in (0, 10)
    )
    both, a, b = np.intersect1d(now.ids, later.ids, return_indices=True)
    assert len(both) > 50
    east = (later.ra[b] - now.ra[a]) * np.cos(np.radians(now.dec[a])) * 3600
    np.testing.assert_allclose(east, 1.0, atol=1e-3)
    np.testing.assert_allclose((later.dec[b] - now.dec[a]) * 3600, -2.0, atol=1e-3)


def test_a_band_that_gaia_cannot_give_is_refused_once(simulation: Simulation) -> None:
    pixels = simulation.chain.read(*KEY)
    with pytest.raises(BadInputError, match="for band VR") as caught:
        references_on(simulation.chain.shards, pixels.wcs, pixels.image.shape, "VR", 58500.0)
    assert "g, r, i, z" in str(caught.value)


def test_no_reference_stars_no_calibration(simulation: Simulation) -> None:
    pixels = simulation.chain.read(*KEY)
    assert len(references_on([], pixels.wcs, pixels.image.shape, "r", 58500.0)) == 0
    with pytest.raises(BadInputError) as caught:
        calibrated_detector(pixels, [], "r", KEY[1])
    message = str(caught.value)
    assert "visit 840001, detector 28" in message
    assert "reference" in message


COSMOS = REAL / "refcats_cosmos"


@cache
def cosmos(name: str) -> Table:
    return read_refcat(COSMOS / name)


@needs(COSMOS)
@pytest.mark.parametrize("band", ["g", "r", "i", "z"])
def test_pan_starrs_and_gaia_agree_on_real_stars(band: str) -> None:
    gaia, pan_starrs = cosmos("gaia_dr2"), cosmos("ps1")
    wcs, shape = WCS(wcs_header(ccd(28), Plan(ra=150.2, dec=2.2))), (4096, 2048)
    by_gaia = references_on([gaia], wcs, shape, band, 58550.0)
    by_both = references_on([gaia], wcs, shape, band, 58550.0, photometry=[pan_starrs])
    assert (by_gaia.catalogue, by_both.catalogue) == ("gaia_dr2", "ps1")
    np.testing.assert_array_equal(by_gaia.ids, by_both.ids)
    good = (by_gaia.color_error < 0.05) & np.isfinite(by_both.magnitude) & (by_both.magnitude < 19)
    assert good.sum() > 40
    difference = (by_both.magnitude - by_gaia.magnitude)[good]
    # The two relations differ by some hundredths of a magnitude, the same for blue and red stars.
    assert abs(np.median(difference)) < 0.05
    assert abs(np.polyfit(by_both.color[good], difference, 1)[0]) < 0.03
    assert 1.4826 * np.median(np.abs(difference - np.median(difference))) < 0.04
    assert np.nanmin(by_both.magnitude) > 14
    assert np.nanmedian(by_both.error[good]) < 0.03


@needs(COSMOS)
def test_pan_starrs_gives_a_band_that_gaia_cannot() -> None:
    gaia, pan_starrs = cosmos("gaia_dr2"), cosmos("ps1")
    wcs, shape = WCS(wcs_header(ccd(28), Plan(ra=150.2, dec=2.2))), (4096, 2048)
    found = references_on([gaia], wcs, shape, "y", 58550.0, photometry=[pan_starrs])
    assert np.isfinite(found.magnitude).sum() > 60
    # Where its survey ends, Gaia's magnitudes serve, if they can.
    edge = pan_starrs[np.degrees(np.asarray(pan_starrs["coord_ra"])) > 150.7]
    assert references_on([gaia], wcs, shape, "r", 58550.0, photometry=[edge]).catalogue == "gaia_dr2"


def test_errors_of_places_grow_with_the_years(simulation: Simulation) -> None:
    pixels = simulation.chain.read(*KEY)
    epoch = float(np.asarray(simulation.chain.shards[0]["epoch"])[0])
    now, later = (
        references_on(simulation.chain.shards, pixels.wcs, pixels.image.shape, "r", epoch + years * 365.25)
        for years in (0, 10)
    )
    _, a, b = np.intersect1d(now.ids, later.ids, return_indices=True)
    assert (later.place_error[b] > 5 * now.place_error[a]).all()
    assert 5e-5 < np.median(now.place_error) < 5e-3
