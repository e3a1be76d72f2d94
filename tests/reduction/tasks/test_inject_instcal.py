"""Sources injected into InstCal exposures of a simulated night, and found again on its difference images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from astropy.wcs import WCS
from lsst.daf.butler import Butler

from tololo.facility import collections
from tololo.facility.configuration import INCLUDE
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap, footprint_of
from tololo.hooks.butler import ButlerHook
from tololo.hooks.injection import InjectionHook
from tololo.reduction.formats.instcal import read_instcal
from tololo.reduction.formats.instcal_search import find_instcal
from tololo.reduction.injection_recovery import matched, recovery
from tololo.simulation.instcal import simulate_nights
from tololo.simulation.plan import Plan, PlannedExposure

from .injected import run, scattered, write

TEMPLATE_NIGHT, NIGHT, DETECTOR, SHAPE = 20190309, 20190312, 28, (768, 768)
VISITS = collections.chain("instcal_injected", NIGHT)
DIFFERENCES = collections.chain("diff_instcal_injected", NIGHT, "2019", "meanclip")
TEMPLATE = collections.coadd("2019", "meanclip")
FULL = 901
"""Id of a source that fills its pixels."""


@dataclass
class Night:
    repository: Path
    visit: int


def science_wcs(images: Path) -> tuple[int, WCS]:
    """Return the visit of NIGHT and its WCS."""
    (exposure,) = (exposure for exposure in find_instcal(images).triples if exposure.day_obs == NIGHT)
    (ccd,) = exposure.detectors
    return exposure.expnum, read_instcal(ccd.image.path, ccd.weight.path, ccd.mask.path, DETECTOR).wcs


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A template of three visits, and a night after it, with and without injected sources."""
    folder = tmp_path_factory.mktemp("injected")
    plan = Plan(
        exposures=tuple(PlannedExposure(n) for n in (TEMPLATE_NIGHT,) * 3 + (NIGHT,)),
        detectors=(DETECTOR,),
        shape=SHAPE,
        stars_per_deg2=30000.0,
        galaxies=5,
        transients=0,
        dither=5.0,
    )
    truth = simulate_nights(folder / "nights", plan=plan, seed=4)
    repository = folder / "repository"
    bootstrap(
        BootstrapPlan(
            repository=str(repository),
            skymaps=yaml.safe_load((INCLUDE / "configs" / "skymaps.yaml").read_text()),
            footprint=footprint_of(str(truth.reference)),
            refcats={"gaia_dr2": str(truth.reference)},
        )
    )
    ButlerHook(repository).ingest_instcal(truth.images)
    visit, wcs = science_wcs(truth.images)
    random = np.random.default_rng(3)
    x, y = scattered(SHAPE, 70, random)
    mag = random.uniform(18.5, 24.5, len(x))
    mag[0] = 12.0
    ra, dec = wcs.all_pix2world(x, y, 0)
    number = np.arange(1, len(x) + 1)
    number[0] = FULL
    InjectionHook(repository).ingest(write(folder / "ring.csv", ra, dec, mag, ID=number))
    old = [collections.REFCATS, f"{TEMPLATE_NIGHT}/instcal/raw"]
    new = [collections.REFCATS, f"{NIGHT}/instcal/raw"]
    run(repository, "nightly_decam.yaml#instcal", old, f"{TEMPLATE_NIGHT}/instcal")
    run(repository, "nightly_decam.yaml#instcal", new, f"{NIGHT}/instcal")
    where = "skymap = 'decam_rings'"
    run(repository, "template_coadds.yaml", [f"{TEMPLATE_NIGHT}/instcal", "skymaps"], TEMPLATE, where)
    run(repository, "nightly_decam.yaml#inject_instcal", ["injection/ring", *new], VISITS)
    inputs = [TEMPLATE, VISITS, "skymaps"]
    run(repository, "difference_imaging.yaml#difference", inputs, DIFFERENCES, where)
    return Night(repository, visit)


@pytest.fixture(scope="module")
def product(night: Night) -> Iterator[Callable[..., Any]]:
    """What gets a dataset of the visit from a collection."""
    with Butler.from_config(str(night.repository)) as butler:
        data_id = {"instrument": "DECam", "visit": night.visit, "detector": DETECTOR}
        yield lambda name, chain=VISITS: butler.get(butler.find_dataset(name, data_id, collections=chain))


def test_injected_sources_are_recovered_on_the_difference(product: Callable[..., Any]) -> None:
    truth = product("injected_source")
    sources = product("dia_source_unfiltered", DIFFERENCES)
    good = sources[(sources["rejection"] == "") & (sources["reliability"] >= 0.5)]
    edges = (0.0, 4.0, 15.0, 30.0, 100000.0)
    found, accepted = recovery(truth, sources, edges=edges), recovery(truth, good, edges=edges)
    assert (found["injected"] > 5).all()
    # The difference has the template's noise, too.
    assert found["fraction"][0] < 0.5
    assert found["fraction"][2] > 0.9
    assert found["fraction"][3] > 0.95
    assert (np.diff(found["fraction"]) > -0.05).all()
    assert accepted["fraction"][3] > 0.85
    assert found["flux_ratio"][3] == pytest.approx(1.0, abs=0.015)
    assert found["flux_ratio"][2] == pytest.approx(1.0, abs=0.04)


def test_the_catalogue_of_the_visit_has_them(product: Callable[..., Any]) -> None:
    truth, stars = product("injected_source"), product("single_visit_star")
    bins = recovery(truth, stars, edges=(0.0, 3.0, 20.0, 100000.0))
    assert bins["fraction"][-1] > 0.95
    assert bins["flux_ratio"][-1] == pytest.approx(1.0, abs=0.01)
    rows = matched(truth, stars)
    good = (rows >= 0) & (truth["snr"] > 50) & ~truth["saturated"] & ~truth["masked"]
    pull = (stars["psfFlux"][rows[good]] - truth["flux"][good]) / stars["psfFluxErr"][rows[good]]
    assert 0.6 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.5


def test_a_source_that_fills_its_pixels_is_masked(product: Callable[..., Any]) -> None:
    (row,) = (row for row in product("injected_source") if row["injection_id"] == FULL)
    assert row["saturated"]
    assert product("visit_image").mask.get("SATURATED")[round(row["y"]), round(row["x"])]


def test_the_visit_without_them_is_as_it_was(night: Night, product: Callable[..., Any]) -> None:
    before, after = product("visit_image", f"{NIGHT}/instcal"), product("visit_image")
    assert "INJECTED" not in before.mask.schema.names
    assert "INJECTED" in after.mask.schema.names
    assert "n_injected" not in product("detector_summary", f"{NIGHT}/instcal").colnames
    light = after.mask.get("INJECTED")
    noise = np.sqrt(np.median(before.variance.array))
    change = np.abs(after.image.array - before.image.array)
    assert np.median(change[~light]) < 0.05 * noise
    assert not np.array_equal(after.image.array[light], before.image.array[light])
    with Butler.from_config(str(night.repository)) as butler:
        for chain in (f"{NIGHT}/instcal", TEMPLATE):
            assert not butler.query_datasets("injected_source", chain, explain=False)
