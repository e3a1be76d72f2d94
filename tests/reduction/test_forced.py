"""Forced photometry on simulated images, against the truth."""

from __future__ import annotations

import numpy as np

from tololo.reduction.forced import ForcedImages
from tololo.reduction.formats.images import planes_of
from tololo.reduction.formats.masks import BIT
from tololo.reduction.tasks.difference_detector import DifferenceDetectorConfig, DifferenceDetectorTask

from .chain import Simulation


def images(simulation: Simulation, n: int = 0) -> ForcedImages:
    subtracted = simulation.differences[n]
    return ForcedImages.of(subtracted.image, subtracted.science.image)


def test_planted_transients_have_their_flux(simulation: Simulation) -> None:
    ratio, pull = [], []
    for n, subtracted in enumerate(simulation.differences):
        planted = simulation.planted(subtracted.science.key)
        table = images(simulation, n).measure(planted["ra"], planted["dec"])
        np.testing.assert_allclose(table["x"], planted["x"], atol=0.1)
        np.testing.assert_allclose(table["y"], planted["y"], atol=0.1)
        assert np.asarray(table["on_image"]).all()
        good = np.isfinite(np.asarray(table["psfFlux"]))
        np.testing.assert_array_equal(good, ~np.asarray(table["flags"]))
        error = np.asarray(table["psfFlux"] - planted["flux"])[good]
        pull += list(error / np.asarray(table["psfFluxErr"])[good])
        strong = np.asarray(planted["snr"])[good] > 15
        ratio += list(1 + (error / np.asarray(planted["flux"])[good])[strong])
    assert len(pull) > 60
    assert abs(np.mean(ratio) - 1) < 0.02
    assert np.std(pull) < 1.4


def test_empty_sky_has_no_flux(simulation: Simulation) -> None:
    subtracted = simulation.differences[0]
    rng = np.random.default_rng(4)
    x, y = rng.uniform(40, 980, (2, 400))
    planted = simulation.planted(subtracted.science.key)
    stars = subtracted.science.stars
    far = np.hypot(x[:, None] - planted["x"], y[:, None] - planted["y"]).min(axis=1) > 15
    far &= np.hypot(x[:, None] - np.asarray(stars["x"]), y[:, None] - np.asarray(stars["y"])).min(axis=1) > 15
    ra, dec = subtracted.science.calibrated.wcs.all_pix2world(x[far], y[far], 0)
    table = images(simulation).measure(ra, dec)
    pull = np.asarray(table["psfFlux"] / table["psfFluxErr"])
    pull = pull[np.isfinite(pull)]
    assert len(pull) > 80
    assert abs(np.mean(pull)) < 0.4
    assert 0.75 < np.std(pull) < 1.4


def test_no_positions_make_an_empty_table(simulation: Simulation) -> None:
    table = images(simulation).measure([], [])
    assert len(table) == 0
    assert {"x", "y", "psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr", "flags", "on_image"} == set(
        table.colnames
    )


def test_positions_off_the_image_are_flagged_and_have_no_flux(simulation: Simulation) -> None:
    subtracted = simulation.differences[0]
    ra, dec = subtracted.science.calibrated.wcs.all_pix2world(
        [-30.0, 500.0, 512.0], [500.0, 1100.0, 512.0], 0
    )
    table = images(simulation).measure(ra, dec)
    assert table["on_image"].tolist() == [False, False, True]
    assert np.isnan(table["psfFlux"][:2]).all()
    assert np.isnan(table["scienceFluxErr"][:2]).all()
    assert table["flags"].tolist()[:2] == [True, True]
    far = images(simulation).measure([(float(ra[0]) + 180) % 360], [-float(dec[0])])
    assert not far["on_image"][0]


def test_light_that_a_bad_pixel_has_spoiled_is_not_measured(simulation: Simulation) -> None:
    n, subtracted = next(
        (n, item)
        for n, item in enumerate(simulation.differences)
        if item.image.metadata["CONVOLVED"] == "science"
    )
    planted = simulation.planted(subtracted.science.key)
    measured = images(simulation, n).measure(planted["ra"], planted["dec"])
    planted = planted[(np.asarray(planted["snr"]) > 20) & ~np.asarray(measured["flags"])]
    assert len(planted) >= 5
    # A cosmic ray of four pixels beside the middle of each, which the kernel spreads over the rest.
    science = subtracted.science.image.copy()
    hit = np.zeros(science.image.array.shape, bool)
    for k, row in enumerate(planted):
        x, y = round(row["x"]) + (1, 3)[k % 2], round(row["y"])
        hit[y : y + 2, x : x + 2] = True
    science.image.array[hit] += 1e5
    science.mask.set("COSMIC_RAY", hit | science.mask.get("COSMIC_RAY"))
    task = DifferenceDetectorTask(config=DifferenceDetectorConfig())
    coadds = simulation.chain.coadds(simulation.template_visits, science)
    difference = task.subtract(science, subtracted.science.stars, coadds, "a detector")["difference"]
    bits = planes_of(difference).bits
    assert np.count_nonzero(bits & BIT["SPOILED"]) > 2 * np.count_nonzero(hit)
    table = ForcedImages.of(difference, science).measure(planted["ra"], planted["dec"])
    usable = ~np.asarray(table["flags"])
    assert 0 < np.count_nonzero(usable) < len(planted)
    ratio = np.asarray(table["psfFlux"] / planted["flux"])[usable]
    assert (np.abs(ratio - 1) < 0.25).all()
