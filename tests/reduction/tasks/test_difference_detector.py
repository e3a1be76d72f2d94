"""When a detector has nothing to subtract, the task says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
import numpy as np
import pytest
import yaml
from lsst.resources import ResourcePath

from reduction.chain import Simulation
from tololo.facility.errors import BadInputError
from tololo.reduction import reliability
from tololo.reduction.reliability import read_model
from tololo.reduction.tasks.difference_detector import DifferenceDetectorConfig, DifferenceDetectorTask

KEY = (840004, 28)
WHERE = "visit 840004, detector 28"


def subtract(simulation: Simulation, coadds, **config) -> dict:
    settings = DifferenceDetectorConfig()
    settings.limits.update(**config.pop("limits", {}))
    settings.update(**config)
    detector = simulation.chain.detector(*KEY)
    return DifferenceDetectorTask(config=settings).subtract(detector.image, detector.stars, coadds, WHERE)


def subtract_from(simulation: Simulation, science: Any, stars: Any, empty: bool = False) -> dict:
    """Subtract a template (blank sky of the same noise if ``empty``) from an image."""
    coadds = simulation.chain.coadds([840001], simulation.chain.detector(*KEY).image)
    if empty:
        random = np.random.default_rng(2)
        blank = [(coadd.copy(), patch) for coadd, patch in coadds]
        for coadd, _ in blank:
            pixels = coadd.image.array
            seen = np.isfinite(pixels)
            pixels[seen] = random.normal(0, np.sqrt(np.nanmedian(coadd.variance.array)), int(seen.sum()))
        coadds = blank
    return DifferenceDetectorTask(config=DifferenceDetectorConfig()).subtract(science, stars, coadds, WHERE)


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


def test_only_the_patches_of_the_same_night_are_refused(simulation: Simulation) -> None:
    science = simulation.chain.detector(*KEY).image
    others = simulation.chain.coadds([840001], science)
    own = simulation.chain.coadds([840004], science)
    assert len(others) > 1
    results = subtract(simulation, own[:1] + others[1:])
    assert results["difference"].metadata["TEMPLATE VISITS"] == "840001"
    whole = subtract(simulation, others)["difference"].metadata["TEMPLATE COVERAGE"]
    assert 0.05 < results["difference"].metadata["TEMPLATE COVERAGE"] < whole
    with pytest.raises(pipe_base.NoWorkFound, match="very night"):
        subtract(simulation, own)


def test_a_detector_without_good_pixels_has_no_work(simulation: Simulation) -> None:
    detector = simulation.chain.detector(*KEY)
    science = detector.image.copy()
    science.mask.set("NO_DATA", np.ones(science.image.array.shape, bool))
    with pytest.raises(pipe_base.NoWorkFound, match=rf"{WHERE}: .* 0 good pixels in common"):
        subtract_from(simulation, science, detector.stars)


def test_a_detector_without_light_to_match_has_no_work(simulation: Simulation) -> None:
    detector = simulation.chain.detector(*KEY)
    science = detector.image.copy()
    random = np.random.default_rng(1)
    science.image.array[...] = random.normal(0, np.sqrt(np.nanmedian(science.variance.array)), (1024, 1024))
    with pytest.raises(pipe_base.NoWorkFound, match=WHERE):
        subtract_from(simulation, science, detector.stars[:0], empty=True)


def test_a_visit_without_a_psf_model_has_no_work(simulation: Simulation) -> None:
    detector = simulation.chain.detector(*KEY)

    class WithoutPsf:
        psf = None

        def __getattr__(self, name: str) -> object:
            return getattr(detector.image, name)

    with pytest.raises(pipe_base.NoWorkFound, match=rf"{WHERE}: .*no PSF model"):
        subtract_from(simulation, WithoutPsf(), detector.stars)


def test_method_limits_and_model_are_those_of_the_configuration(
    simulation: Simulation, tmp_path: Path
) -> None:
    usual = simulation.differences[0]
    assert usual.image.metadata["METHOD"] == "alard_lupton"
    assert usual.image.metadata["RELIABILITY"] == read_model().version
    assert set(usual.sources["reliabilityVersion"]) == {read_model().version}
    science = simulation.chain.detector(*KEY).image
    coadds = simulation.chain.coadds([840001], science)
    results = subtract(simulation, coadds, method="zogy", limits={"score": 30.0})
    assert results["difference"].metadata["METHOD"] == "zogy"
    sources = results["sources"]
    kept = sources["rejection"] == ""
    assert kept.any()
    assert (np.abs(sources["detectionScore"][kept]) >= 30.0).all()
    with pytest.raises(pipe_base.NoWorkFound, match="0%"):
        subtract(simulation, [], reliability=str(tmp_path / "none.json"))
    with pytest.raises(BadInputError, match="The reliability model cannot be used"):
        subtract(simulation, coadds, reliability=str(tmp_path / "none.json"))


def test_a_broken_shipped_model_costs_no_detector(
    simulation: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "reliability.json"
    path.write_text("{}")
    monkeypatch.setattr(reliability, "SHIPPED", path)
    science = simulation.chain.detector(*KEY).image
    results = subtract(simulation, simulation.chain.coadds([840001], science))
    assert set(results["sources"]["reliabilityVersion"]) == {reliability.BY_HAND}
    assert f"{path}" in caplog.text
    assert "set by hand" in caplog.text


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(pex_config.FieldValidationError, match="good_light"):
        DifferenceDetectorConfig().limits.good_light = 1.5


def test_the_columns_are_those_of_the_apdb_schema(simulation: Simulation) -> None:
    schema = yaml.safe_load(ResourcePath("resource://lsst.sdm.schemas/apdb.yaml").read())
    (table,) = (table for table in schema["tables"] if table["name"] == "DiaSource")
    known = {column["name"]: column["datatype"] for column in table["columns"]}
    sources = simulation.differences[0].sources
    measured = known.keys() & set(sources.colnames)
    assert len(measured) >= 85
    kinds = {"double": "f", "float": "f", "boolean": "b", "int": "i", "short": "i", "long": "i"}
    wrong = {name for name in measured if sources[name].dtype.kind != kinds.get(known[name], "U")}
    assert wrong == set()


def test_the_sources_are_a_dia_source_table(simulation: Simulation) -> None:
    table = simulation.differences[0].sources
    expected = """diaSourceId visit detector band midpointMjdTai ra dec raErr decErr ra_dec_Cov x y xErr
        yErr x_y_Cov psfFlux psfFluxErr psfChi2 psfLnL psfNdata
        apFlux apFluxErr scienceFlux scienceFluxErr templateFlux templateFluxErr snr isNegative isDipole
        trailLength extendedness reliability pixelFlags pixelFlags_bad pixelFlags_saturated pixelFlags_edge
        pixelFlags_cr pixelFlags_interpolated rejection"""
    assert set(expected.split()) <= set(table.colnames)
    assert len(set(table["diaSourceId"].tolist())) == len(table)
    kinds = {"diaSourceId": "i8", "visit": "i8", "detector": "i2", "snr": "f4", "reliability": "f4"}
    assert all(table[name].dtype == kind for name, kind in kinds.items())
    assert all(table[name].dtype == bool for name in table.colnames if name.startswith("pixelFlags"))
