"""Sources injected into a raw of a simulated night, through the Butler: what is measured of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lsst.daf.butler import Butler

from tololo.hooks.injection import InjectionHook
from tololo.reduction.formats.images import planes_of
from tololo.reduction.injection import MASK_PLANES
from tololo.reduction.injection_recovery import matched, recovery
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth

from .injected import run, scattered, write
from .test_calibrate_visit import CALIBS, DETECTOR, KINDS, NIGHT, SHAPE, certify, repository_of

INPUTS = ["injection/ring", "refcats", f"{NIGHT}/drp/raw", CALIBS]
BRIGHT, ELSEWHERE, NEXT_BAND = 901, 902, 903
"""Ids of a source that fills its pixels, of one for another exposure, and of one in another band."""


@dataclass
class Injected:
    repository: Path
    truth: RawTruth
    visit: int


@pytest.fixture(scope="module")
def injected(tmp_path_factory: pytest.TempPathFactory) -> Injected:
    plan = RawPlan(
        nights=(RawNight(NIGHT, zeros=0, flats=0, objects=1, seeing=1.0),),
        detectors=(DETECTOR,),
        shape=SHAPE,
        stars_per_deg2=30000.0,
        galaxies=5,
        transients=0,
        trails=0.0,
    )
    folder = tmp_path_factory.mktemp("injected")
    truth = simulate_raw_nights(folder / "nights", plan, seed=6)
    visit = int(truth.exposures["visit"][0])
    repository = repository_of(truth, folder / "repository")
    for name in KINDS:
        certify(repository, name, "2019-03-05", "2019-03-07")
    random = np.random.default_rng(2)
    x, y = scattered(SHAPE, 56, random)
    mag = random.uniform(17.5, 25.0, len(x))
    number = np.arange(1, len(x) + 1)
    x[:3], y[:3] = (200.0, 300.0, 400.0), (200.5, 300.5, 400.5)
    number[:3], mag[:3] = (BRIGHT, ELSEWHERE, NEXT_BAND), (11.0, 18.0, 18.0)
    exposure = np.where(number == ELSEWHERE, visit + 1, 0)
    band = np.where(number == NEXT_BAND, "g", "r")
    ra, dec = truth.wcs(visit, DETECTOR).all_pix2world(x, y, 0)
    path = write(folder / "ring.csv", ra, dec, mag, ID=number, EXPNUM=exposure, BAND=band)
    InjectionHook(repository).ingest(path)
    run(repository, "nightly_decam.yaml#inject", INPUTS, f"{NIGHT}/drp_injected")
    return Injected(repository, truth, visit)


@pytest.fixture(scope="module")
def product(injected: Injected) -> Iterator[Callable[[str], Any]]:
    with Butler.from_config(str(injected.repository), collections=f"{NIGHT}/drp_injected") as butler:
        data_id = {"instrument": "DECam", "visit": injected.visit, "detector": DETECTOR}
        yield lambda name: butler.get(butler.find_dataset(name, data_id))


def test_only_sources_of_this_exposure_and_band_are_injected(product: Callable[[str], Any]) -> None:
    truth = product("injected_source")
    ids = set(truth["injection_id"].tolist())
    assert BRIGHT in ids
    assert not ids & {ELSEWHERE, NEXT_BAND}
    assert truth["inside"].all()
    (row,) = product("detector_summary")
    assert row["n_injected"] == len(truth)


def test_fluxes_and_places_are_unbiased(product: Callable[[str], Any]) -> None:
    truth, stars = product("injected_source"), product("single_visit_star")
    rows = matched(truth, stars)
    good = (rows >= 0) & (truth["snr"] > 50) & ~truth["masked"] & ~truth["saturated"]
    # Real stars are simulated, too: what lies on one is not a fair measurement.
    clean = good & ~np.asarray(stars["blended"])[rows]
    assert np.count_nonzero(clean) > 30
    found, true = stars[rows[clean]], truth[clean]
    ratio = np.asarray(found["psfFlux"] / true["flux"])
    assert np.median(ratio) == pytest.approx(1.0, abs=0.005)
    for axis in "xy":
        offset = np.asarray(found[axis] - true[axis])
        assert abs(np.median(offset)) < 0.02
    pull = np.asarray((found["psfFlux"] - true["flux"]) / found["psfFluxErr"])
    assert 0.7 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.4
    expected = np.asarray(true["flux"] / true["snr"] / found["psfFluxErr"])
    assert np.median(expected) == pytest.approx(1.0, abs=0.1)


def test_bright_sources_are_found_and_the_faintest_are_not(product: Callable[[str], Any]) -> None:
    bins = recovery(product("injected_source"), product("single_visit_star"), edges=(0.0, 3.0, 10.0, 1000.0))
    faint, middle, bright = bins["fraction"].tolist()
    assert bright > 0.95
    assert faint < 0.3
    assert faint < middle < bright
    assert bins["flux_ratio"][-1] == pytest.approx(1.0, abs=0.02)


def test_the_noise_is_that_of_the_light(product: Callable[[str], Any]) -> None:
    """Residuals of bright sources over the variance that the image gives."""
    truth, image = product("injected_source"), product("visit_image")
    planes = planes_of(image)
    inner = [
        (row, (slice(y - 3, y + 4), slice(x - 3, x + 4)))
        for row, (x, y) in enumerate(
            zip(np.round(truth["x"]).astype(int), np.round(truth["y"]).astype(int), strict=True)
        )
        if truth["snr"][row] > 100 and not (truth["masked"][row] or truth["saturated"][row])
    ]
    assert len(inner) > 10
    sky = np.median(planes.variance)
    assert all(planes.variance[box].max() > 1.2 * sky for _, box in inner)


def test_a_source_that_fills_its_pixels_is_masked(product: Callable[[str], Any]) -> None:
    truth, image = product("injected_source"), product("visit_image")
    (row,) = truth[truth["injection_id"] == BRIGHT]
    assert row["saturated"]
    assert not row["masked"]
    assert image.mask.get("SATURATED")[round(row["y"]), round(row["x"])]
    assert not truth["saturated"][truth["mag"] > 18].any()


def test_the_image_says_where_sources_were_injected(product: Callable[[str], Any]) -> None:
    truth, image = product("injected_source"), product("visit_image")
    assert {plane.name for plane in MASK_PLANES} <= set(image.mask.schema.names)
    core, light = image.mask.get("INJECTED_CORE"), image.mask.get("INJECTED")
    x, y = np.round(truth["x"]).astype(int), np.round(truth["y"]).astype(int)
    assert core[y, x].all()
    assert core.sum() == pytest.approx(9 * len(truth), rel=0.02)
    assert light[core].all()
    assert not light.all()
    # Readers that do not know these planes see the others as ever.
    assert ((planes_of(image).bits & 1) != 0).sum() == image.mask.get("BAD").sum() > 0


def test_the_visit_is_summarised(injected: Injected) -> None:
    with Butler.from_config(str(injected.repository), collections=f"{NIGHT}/drp_injected") as butler:
        (row,) = butler.get("visit_summary", instrument="DECam", visit=injected.visit)
        assert row["n_injected"] > 0
        assert row["zero_point"] == pytest.approx(injected.truth.exposures["zero_point"][0], abs=0.01)
