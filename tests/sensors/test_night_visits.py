from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException
from lsst.daf.butler import Butler

from conftest import GOOD_VISITS, NIGHT
from sensors.datasets import add_visit_images
from sensors.waiting import deferred, does_not_answer, finish, make, resume
from tololo.facility.locks import LockOwner
from tololo.facility.nights import night_bounds
from tololo.hooks.locks import LockHook
from tololo.sensors.night_visits import NightVisitsSensor
from tololo.triggers.night_visits import NightVisitsTrigger

OTHER = LockOwner("nightly_decam", "manual__7", "lock")
LOCK = f"collection:{NIGHT}@butler_test"


def sensor(seconds: float = -1.0, **params: Any) -> Any:
    """Make a sensor whose time is up in so many seconds."""
    hours = (time.time() + seconds - night_bounds(NIGHT)[1].timestamp()) / 3600
    return make(NightVisitsSensor, params={"wait": hours, "proc_type": None} | params)


@pytest.fixture
def worked_on(repository: Path) -> Iterator[LockHook]:
    """Another run works on the night."""
    hook = LockHook(OTHER)
    hook.acquire([LOCK])
    yield hook
    hook.release([LOCK])


def test_a_night_with_visits_costs_no_defer(visited: Path) -> None:
    made, filled = sensor()
    assert made.execute(filled) >= 1


def test_visits_are_waited_for(repository: Path) -> None:
    made, filled = sensor(60)
    stopped = deferred(made, filled)
    assert isinstance(stopped.trigger, NightVisitsTrigger)
    add_visit_images(repository, GOOD_VISITS)
    assert resume(made, filled, stopped) >= 1


def test_who_does_not_answer_has_not_said_that_there_are_none(
    visited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr("tololo.engine.client.ask", does_not_answer)
        made, filled = sensor(wait=6)
        stopped = deferred(made, filled)
        with pytest.raises(AirflowSensorTimeout, match="gone"):
            made.execute_complete(filled, {"outcome": "timeout", "found": 0, "message": "gone"})
    assert resume(made, filled, stopped) >= 1


def test_a_night_long_ago_without_visits_is_skipped_and_says_where_they_should_be(repository: Path) -> None:
    made, filled = sensor(wait=6)
    with pytest.raises(AirflowSkipException) as caught:
        made.execute(filled)
    for part in (f"Night {NIGHT} has no visits", f"{NIGHT}/drp", f"{NIGHT}/instcal", "nightly_decam"):
        assert part in str(caught.value)
    assert str(NIGHT) in filled["task_state_store"]["progress"]


def test_only_the_chain_that_is_asked_for_counts(visited: Path) -> None:
    made, filled = sensor(proc_type="drp")
    with pytest.raises(AirflowSkipException, match=f"{NIGHT}/drp"):
        made.execute(filled)
    made, filled = sensor(proc_type="instcal")
    assert made.execute(filled) >= 1


def test_visits_of_the_detectors_that_are_asked_for(visited: Path) -> None:
    made, filled = sensor(detectors="1, 2")
    with pytest.raises(AirflowSkipException, match="detector IN"):
        made.execute(filled)


def test_a_run_that_works_on_the_night_is_waited_for_however_long_ago_it_was(
    visited: Path, worked_on: LockHook
) -> None:
    made, filled = sensor(wait=6)
    stopped = deferred(made, filled)
    assert 5 * 3600 < made.timeout <= 6 * 3600
    worked_on.release([LOCK])
    assert resume(made, filled, stopped) >= 1


def test_when_the_time_is_up_while_a_run_works_on_it_that_is_a_failure(
    visited: Path, worked_on: LockHook
) -> None:
    made, filled = sensor(wait=0.3 / 3600)
    with pytest.raises(AirflowSensorTimeout, match=r"held by nightly_decam manual__7"):
        finish(made, filled)


def test_a_dry_run_looks_once(repository: Path, worked_on: LockHook) -> None:
    made, filled = sensor(60, dry_run=True)
    assert made.execute(filled) == 0
    with Butler.from_config(str(repository)) as butler:
        assert not list(butler.registry.queryDatasetTypes("visit_image"))
