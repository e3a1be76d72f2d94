"""What all sensors share, shown with the one for collections; the engine server is the real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
)

from sensors.datasets import add
from sensors.waiting import deferred, make, resume
from tololo.sensors.collections import CollectionSensor
from tololo.triggers.questions import QuestionTrigger

MISSING = "missing: collection absent (it does not exist)"


def appear(repository: Path) -> None:
    add(repository, "bias", "absent", [{"instrument": "DECam", "detector": 3}])


def test_what_is_there_costs_no_defer(repository: Path) -> None:
    sensor, filled = make(CollectionSensor, collections="skymaps, refcats")
    assert sensor.execute(filled) == 2


def test_what_is_not_there_is_waited_for_in_the_triggerer(repository: Path) -> None:
    sensor, filled = make(CollectionSensor, collections="skymaps,absent")
    stopped = deferred(sensor, filled)
    assert isinstance(stopped.trigger, QuestionTrigger)
    assert stopped.timeout.total_seconds() > sensor.timeout
    appear(repository)
    assert resume(sensor, filled, stopped) == 2


def test_the_message_of_a_time_out_names_what_is_missing(repository: Path) -> None:
    sensor, filled = make(CollectionSensor, collections="skymaps,absent", timeout=0.5)
    with pytest.raises(AirflowSensorTimeout, match=r"Waited 0\.5 s in vain") as caught:
        resume(sensor, filled, deferred(sensor, filled))
    assert MISSING in str(caught.value)


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_soft_time_out_is_a_skip_with_the_reason(repository: Path, deferrable: bool) -> None:
    sensor, filled = make(
        CollectionSensor, collections="absent", timeout=0.5, soft_fail=True, deferrable=deferrable
    )
    with pytest.raises(AirflowSkipException) as caught:
        resume(sensor, filled, deferred(sensor, filled)) if deferrable else sensor.execute(filled)
    assert MISSING in str(caught.value)
    assert MISSING in filled["task_state_store"]["progress"]


def test_a_dry_run_says_what_is_missing_and_does_not_wait(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sensor, filled = make(CollectionSensor, collections="skymaps,absent", params={"dry_run": True})
    assert sensor.execute(filled) == 1
    output = capsys.readouterr().out
    assert MISSING in output
    assert "would be waited for" in output


def test_without_a_triggerer_the_task_waits_itself(repository: Path) -> None:
    sensor, filled = make(CollectionSensor, collections="absent", deferrable=False, timeout=0.5)
    with pytest.raises(AirflowSensorTimeout) as caught:
        sensor.execute(filled)
    assert MISSING in str(caught.value)
    appear(repository)
    sensor, filled = make(CollectionSensor, collections="absent", deferrable=False)
    assert sensor.execute(filled) == 1


def test_or_gives_its_slot_back_between_looks(repository: Path) -> None:
    sensor, filled = make(CollectionSensor, collections="absent", deferrable=False, mode="reschedule")
    filled["ti"].get_first_reschedule_date = lambda _: None
    with pytest.raises(AirflowRescheduleException):
        sensor.execute(filled)


@pytest.mark.parametrize("lateness", ["ready", "missing"])
def test_a_triggerer_that_is_away_when_the_time_is_up(repository: Path, lateness: str) -> None:
    sensor, filled = make(CollectionSensor, collections="absent")
    deferred(sensor, filled)
    if lateness == "ready":
        appear(repository)
        assert sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, filled) == 1
        return
    fresh, filled = make(CollectionSensor, collections="absent")  # a task that goes on is another process
    with pytest.raises(AirflowSensorTimeout) as caught:
        fresh.resume_execution("__fail__", {"error": "Trigger timeout"}, filled)
    assert MISSING in str(caught.value)


@pytest.mark.parametrize(("soft_fail", "ends"), [(False, AirflowFailException), (True, AirflowSkipException)])
@pytest.mark.parametrize("deferrable", [True, False])
def test_what_can_never_be_right_ends_at_once(
    repository: Path, monkeypatch: pytest.MonkeyPatch, soft_fail: bool, ends: Any, deferrable: bool
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_BUTLER_TEST", f'{{"conn_type": "butler", "host": "{repository}/nowhere"}}'
    )
    sensor, filled = make(CollectionSensor, collections="skymaps", soft_fail=soft_fail, deferrable=deferrable)
    with pytest.raises(ends, match="There is no Butler repository") as caught:
        sensor.execute(filled)
    assert "What to do: run the DAG repo_bootstrap" in str(caught.value)


def test_a_repository_that_goes_while_the_sensor_waits(repository: Path, tmp_path: Path) -> None:
    sensor, filled = make(CollectionSensor, collections="absent")
    stopped = deferred(sensor, filled)
    repository.rename(tmp_path / "moved")
    with pytest.raises(AirflowFailException, match="There is no Butler repository"):
        resume(sensor, filled, stopped)


def test_a_connection_that_does_not_exist(repository: Path) -> None:
    sensor, filled = make(CollectionSensor, collections="skymaps", conn_id="butler_absent")
    with pytest.raises(AirflowFailException, match="butler_absent"):
        sensor.execute(filled)


def test_the_log_says_what_is_missing_when_that_changes(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sensor, filled = make(CollectionSensor, collections="absent,later", timeout=1.5)
    stopped = deferred(sensor, filled)
    appear(repository)
    with pytest.raises(AirflowSensorTimeout):
        resume(sensor, filled, stopped)
    said = [line for line in capsys.readouterr().out.splitlines() if "Waiting" in line]
    first, second = "collection absent (it does not exist)", "collection later (it does not exist)"
    assert [(first in line, second in line) for line in said] == [(True, True), (False, True)]


def test_sensors_and_triggers_import_nothing_heavy() -> None:
    program = (
        "import sys, pkgutil, importlib, tololo.sensors, tololo.triggers\n"
        "for package in (tololo.sensors, tololo.triggers):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        print(importlib.import_module(module.name).__name__)\n"
        "assert not {'lsst', 'astropy', 'numpy', 'numba', 'scipy'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"tololo.sensors.collections", "tololo.triggers.questions"} <= set(done.stdout.split())
