"""Sources injected into InstCal exposures of a simulated night, and found again on its difference images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from lsst.daf.butler import Butler

from tololo.reduction.injection_recovery import matched, recovery

from .injected_night import DETECTOR, DIFFERENCES, FULL, NIGHT, TEMPLATE, VISITS, Night


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
