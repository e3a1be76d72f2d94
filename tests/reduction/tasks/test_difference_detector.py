"""When a detector has nothing to subtract, the task says why."""

from __future__ import annotations

import lsst.pipe.base as pipe_base
import pytest

from reduction.chain import Simulation
from tololo.reduction.tasks.difference_detector import DifferenceDetectorConfig, DifferenceDetectorTask

KEY = (840004, 28)
WHERE = "visit 840004, detector 28"


def subtract(simulation: Simulation, coadds, **config) -> dict:
    settings = DifferenceDetectorConfig()
    settings.update(**config)
    detector = simulation.chain.detector(*KEY)
    return DifferenceDetectorTask(config=settings).subtract(detector.image, detector.stars, coadds, WHERE)


def test_a_detector_without_template_has_no_work(simulation: Simulation) -> None:
    with pytest.raises(pipe_base.NoWorkFound, match=rf"{WHERE}: the template covers 0% of the detector"):
        subtract(simulation, [])


def test_a_template_of_another_place_is_none(simulation: Simulation) -> None:
    other = simulation.chain.detector(840001, 35).image
    coadds = simulation.chain.coadds([840001], other)
    near = {patch for patch in simulation.chain.patches(simulation.chain.detector(*KEY).image)}
    elsewhere = [(coadd, patch) for coadd, patch in coadds if patch not in near]
    with pytest.raises(pipe_base.NoWorkFound, match=rf"covers 0% .*\({len(elsewhere)} patches"):
        subtract(simulation, elsewhere)


def test_a_template_that_covers_too_little_is_refused(simulation: Simulation) -> None:
    science = simulation.chain.detector(*KEY).image
    coadds = simulation.chain.coadds([840001], science)
    with pytest.raises(pipe_base.NoWorkFound, match=r"the template covers 9\d% of the detector"):
        subtract(simulation, coadds, minimum_coverage=1.0)


def test_a_template_of_the_same_night_is_refused_unless_allowed(simulation: Simulation) -> None:
    science = simulation.chain.detector(*KEY).image
    coadds = simulation.chain.coadds([840001, 840004], science)
    with pytest.raises(pipe_base.NoWorkFound, match="holds visits of this very night, 20190402"):
        subtract(simulation, coadds)
    results = subtract(simulation, coadds, allow_own_night=True)
    assert results["difference"].metadata["TEMPLATE VISITS"] == "840001,840004"


def test_the_sources_are_a_dia_source_table(simulation: Simulation) -> None:
    table = simulation.differences[0].sources
    expected = """diaSourceId visit detector band midpointMjdTai ra dec raErr decErr x y xErr yErr psfFlux
        psfFluxErr
        apFlux apFluxErr scienceFlux scienceFluxErr templateFlux templateFluxErr snr isNegative isDipole
        trailLength extendedness reliability pixelFlags pixelFlags_bad pixelFlags_saturated pixelFlags_edge
        pixelFlags_cr pixelFlags_interpolated rejection"""
    assert set(expected.split()) <= set(table.colnames)
    assert len(set(table["diaSourceId"].tolist())) == len(table)
    kinds = {"diaSourceId": "i8", "visit": "i8", "detector": "i2", "snr": "f4", "reliability": "f4"}
    assert all(table[name].dtype == kind for name, kind in kinds.items())
    assert all(table[name].dtype == bool for name in table.colnames if name.startswith("pixelFlags"))
