from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException
from lsst.daf.butler import Butler

from conftest import GOOD_VISITS, NIGHT
from sensors.datasets import add
from sensors.waiting import deferred, does_not_answer, finish, make, resume
from tololo.facility.nights import night_bounds
from tololo.sensors.templates import NightTemplatesSensor, TemplateCoverageSensor
from tololo.sensors.waiting import UNANSWERED

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


def of_night(seconds: float = -1.0, partial: str = "go_on", **arguments: Any) -> Any:
    """Make the sensor of a run whose time is up in so many seconds."""
    hours = (time.time() + seconds - night_bounds(NIGHT)[1].timestamp()) / 3600
    return make(NightTemplatesSensor, params={"wait": hours, "partial": partial}, **arguments)


def tag_inputs(repository: Path) -> None:
    """Say that the template is made of the visits of NIGHT, as template_coadds says it."""
    from lsst.daf.butler import CollectionType

    with Butler.from_config(str(repository), writeable=True) as butler:
        refs = butler.query_datasets("visit_image", f"{NIGHT}/instcal", explain=False)
        assert {ref.dataId["visit"] for ref in refs} == set(GOOD_VISITS)
        butler.collections.register(f"{CHAIN}/inputs", CollectionType.TAGGED)
        butler.registry.associate(f"{CHAIN}/inputs", refs)


class TestOfANight:
    def test_when_the_time_is_up_what_is_covered_must_do(
        self, visited: Path, patches: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        add(visited, "template_coadd", CHAIN, patches[1:])
        sensor, filled = of_night()
        assert sensor.execute(filled) == len(patches) - 1
        said = capsys.readouterr().out
        assert (
            f"Going on with what is there; missing: template_coadd for band r, tract {patches[0]['tract']}"
            in said
        )
        sensor, filled = of_night(1.0)
        assert finish(sensor, filled) == len(patches) - 1

    def test_or_it_stops_and_names_what_is_missing(
        self, visited: Path, patches: list[dict[str, Any]]
    ) -> None:
        add(visited, "template_coadd", CHAIN, patches[1:])
        sensor, filled = of_night(0.5, "stop")
        with pytest.raises(AirflowSensorTimeout, match=f"patch {patches[0]['patch']}$"):
            finish(sensor, filled)

    @pytest.mark.parametrize("partial", ["go_on", "stop"])
    def test_where_nothing_is_covered_it_is_skipped(self, visited: Path, partial: str) -> None:
        sensor, filled = of_night(partial=partial)
        with pytest.raises(AirflowSkipException, match=f"from night {NIGHT}.*template_coadd for band r.*run"):
            sensor.execute(filled)
        assert "template_coadd for band r" in filled["task_state_store"]["progress"]

    def test_who_does_not_answer_has_not_said_that_there_is_none(
        self, visited: Path, patches: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as away:
            away.setattr("tololo.engine.client.ask", does_not_answer)
            sensor, filled = of_night(-9999.0)
            stopped = deferred(sensor, filled)
            assert time.time() < stopped.trigger.deadline <= time.time() + UNANSWERED
            late = {"outcome": "timeout", "found": 0, "message": "gone"}
            with pytest.raises(AirflowSensorTimeout, match="gone"):
                sensor.execute_complete(filled, late)
        with pytest.raises(AirflowSkipException, match="No template can be subtracted"):
            sensor.execute_complete(filled, late)
        add(visited, "template_coadd", CHAIN, patches)
        assert resume(sensor, filled, stopped) == len(patches)

    def test_a_template_of_the_night_itself_does_not_count(
        self, visited: Path, patches: list[dict[str, Any]]
    ) -> None:
        add(visited, "template_coadd", CHAIN, patches)
        tag_inputs(visited)
        sensor, filled = of_night(own_night=str(NIGHT))
        with pytest.raises(AirflowSkipException, match=f"without visits of night {NIGHT} itself for band r"):
            sensor.execute(filled)
        sensor, filled = of_night(own_night="")
        assert sensor.execute(filled) == len(patches)
        sensor, filled = of_night(own_night="20190301")
        assert sensor.execute(filled) == len(patches)
