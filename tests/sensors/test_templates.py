from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout
from lsst.daf.butler import Butler

from conftest import NIGHT
from sensors.datasets import add
from sensors.waiting import deferred, make, resume
from tololo.sensors.templates import TemplateCoverageSensor

CHAIN = "2019/meanclip/coadd"


@pytest.fixture
def patches(visited: Path) -> list[dict[str, Any]]:
    """The patches that the detectors of NIGHT's visits overlap."""
    with Butler.from_config(str(visited)) as butler:
        found = butler.query_data_ids(
            ["tract", "patch", "visit", "detector"],
            where=f"instrument = 'DECam' AND visit.day_obs = {NIGHT} AND skymap = 'decam_rings'",
        )
    unique = sorted({(key["tract"], key["patch"]) for key in found})
    assert len(unique) > 1
    return [{"skymap": "decam_rings", "tract": tract, "patch": patch, "band": "r"} for tract, patch in unique]


def test_it_waits_for_the_last_patch(visited: Path, patches: list[dict[str, Any]]) -> None:
    add(visited, "template_coadd", CHAIN, patches[1:])
    sensor, filled = make(TemplateCoverageSensor)
    stopped = deferred(sensor, filled)
    add(visited, "template_coadd", CHAIN, patches[:1])
    assert resume(sensor, filled, stopped) == len(patches)
    sensor, filled = make(TemplateCoverageSensor)
    assert sensor.execute(filled) == len(patches)


def test_the_message_names_band_tract_and_patches(visited: Path, patches: list[dict[str, Any]]) -> None:
    add(visited, "template_coadd", CHAIN, patches[1:])
    sensor, filled = make(TemplateCoverageSensor, timeout=0.4)
    with pytest.raises(AirflowSensorTimeout) as caught:
        resume(sensor, filled, deferred(sensor, filled))
    tract, patch = patches[0]["tract"], patches[0]["patch"]
    assert str(caught.value).endswith(f"missing: template_coadd for band r, tract {tract}, patch {patch}")


def test_a_part_can_be_enough(visited: Path, patches: list[dict[str, Any]]) -> None:
    add(visited, "template_coadd", CHAIN, patches[1:])
    sensor, filled = make(TemplateCoverageSensor, coverage=f"{1 / len(patches)}")
    assert sensor.execute(filled) == len(patches) - 1


def test_before_the_visits_the_visits_are_missing(repository: Path) -> None:
    sensor, filled = make(TemplateCoverageSensor, timeout=0.2)
    with pytest.raises(AirflowSensorTimeout, match=f"missing: visit_image in {NIGHT}/instcal where "):
        resume(sensor, filled, deferred(sensor, filled))


@pytest.mark.parametrize("coverage", [-0.1, 1.1, "most", "nan"])
def test_a_fraction_that_is_none_is_refused(visited: Path, coverage: float | str) -> None:
    sensor, filled = make(TemplateCoverageSensor, coverage=coverage)
    with pytest.raises(AirflowFailException, match="no fraction of the patches"):
        sensor.execute(filled)
