"""Calibrations of quanta that combine exposures, and a repository that has never heard of them."""

from __future__ import annotations

from typing import Any

import pytest
from lsst.daf.butler import Butler, CollectionType, DatasetType

from tololo.hooks.validity import parse_validity
from tololo.reduction.formats.raw_search import find_raws
from tololo.reduction.ingest_raw import ingest_raws
from tololo.reduction.instrument import DarkEnergyCamera
from tololo.reduction.tasks.calibration_inputs import valid_for_raws
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan

RAWS, CALIBS = "20190305/bias/raw", "DECam/calib"


@pytest.fixture(scope="module")
def butler(tmp_path_factory: pytest.TempPathFactory) -> Butler:
    """Biases of two nights of detector 28, tagged as those of the first one and of both."""
    folder = tmp_path_factory.mktemp("inputs")
    nights = tuple(RawNight(night, zeros=2, flats=0, objects=0) for night in (20190305, 20190306))
    truth = simulate_raw_nights(folder / "nights", RawPlan(nights, (28,), (128, 256)), 3)
    Butler.makeRepo(str(folder / "repo"))
    butler = Butler.from_config(str(folder / "repo"), writeable=True)
    DarkEnergyCamera().register(butler.registry)
    ingest_raws(butler, find_raws(truth.images).exposures)
    butler.collections.register("both", CollectionType.TAGGED)
    butler.registry.associate("both", butler.query_datasets("raw", "DECam/raw/all"))
    return butler


def test_what_holds_for_all_raws_is_found_and_an_unknown_type_has_nothing(butler: Butler) -> None:
    kind = DatasetType(
        "defects",
        ("instrument", "detector"),
        "StructuredDataDict",
        universe=butler.dimensions,
        isCalibration=True,
    )
    data_id = butler.registry.expandDataId(instrument="DECam", detector=28)

    def found(raws: str) -> list[Any]:
        return [ref.id for ref in valid_for_raws(kind, butler.registry, data_id, [CALIBS, raws])]

    butler.collections.register(CALIBS, CollectionType.CALIBRATION)
    assert found(RAWS) == []
    butler.registry.registerDatasetType(kind)
    assert found(RAWS) == []
    for version in (1, 2):
        butler.collections.register(f"run{version}")
    first, second = (
        butler.put({"detector": 28, "boxes": [], "version": version}, kind, data_id, run=f"run{version}")
        for version in (1, 2)
    )
    butler.registry.certify(CALIBS, [first], parse_validity("..20190305"))
    assert found(RAWS) == [first.id]
    butler.registry.certify(CALIBS, [second], parse_validity("20190306.."))
    assert found(RAWS) == [first.id]
    assert found("both") == [first.id]
