"""Reference stars on a detector, and calibrations that lack them."""

from __future__ import annotations

import numpy as np
import pytest

from tololo.facility.errors import BadInputError
from tololo.reduction.references import references_on

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
