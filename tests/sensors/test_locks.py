from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout

from sensors.waiting import deferred, finish, make, resume
from tololo.engine.locks import Lock, lock_for
from tololo.facility.locks import LOCK_FILE, MISSING, LockOwner
from tololo.hooks.locks import LockHook, owner_of
from tololo.sensors.locks import DatasetLockSensor

OTHER = LockOwner("photometry_to_tom", "manual__7", "reduce", 2)
HOLDER = """
import sys, time
from tololo.engine.locks import LockKeeper, lock_for
from tololo.facility.locks import LockOwner
lock = lock_for(sys.argv[1], LockOwner("photometry_to_tom", "manual__7", "reduce", 2), ttl=1.0)
lock.acquire()
with LockKeeper([lock]):
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "home"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path, "ob1")


def make_dataset(root: Path, target: str) -> Path:
    folder = root / "reduced" / target / "sinistro" / "ip"
    folder.mkdir(parents=True)
    return folder


def taken(name: str) -> Lock:
    lock = lock_for(name, OTHER)
    lock.acquire()
    return lock


@contextmanager
def released_later(*locks: Lock) -> Iterator[None]:
    timer = threading.Timer(0.7, lambda: [lock.release() for lock in locks])
    timer.start()
    yield
    timer.join()


def killed_holder(name: str) -> None:
    """Let a process take a lock, keep it, and die of SIGKILL."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, name], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holds\n"
        os.kill(holder.pid, signal.SIGKILL)


def test_a_free_dataset_costs_no_defer(dataset: Path) -> None:
    sensor, filled = make(DatasetLockSensor, locks=str(dataset))
    assert sensor.execute(filled) == 1
    assert not (dataset / LOCK_FILE).exists()


@pytest.mark.parametrize(
    "name", ["{dataset}", "folder:{dataset}", "collection:20190401/drp", "apdb:2019_meanclip"]
)
def test_it_waits_until_the_lock_is_released(dataset: Path, name: str) -> None:
    name = name.format(dataset=dataset)
    lock = taken(f"folder:{name}" if name.startswith("/") else name)
    sensor, filled = make(DatasetLockSensor, locks=[name])
    stopped = deferred(sensor, filled)
    with released_later(lock):
        assert resume(sensor, filled, stopped) == 1


def test_the_message_says_who_holds_it(dataset: Path) -> None:
    taken(f"folder:{dataset}")
    sensor, filled = make(DatasetLockSensor, locks=str(dataset), timeout=0.5)
    with pytest.raises(AirflowSensorTimeout) as caught:
        resume(sensor, filled, deferred(sensor, filled))
    for text in (f"the lock folder:{dataset}", str(OTHER), f"process {os.getpid()}", "since", "heartbeat"):
        assert text in str(caught.value)


def test_what_the_own_dag_run_holds_is_free(dataset: Path) -> None:
    sensor, filled = make(DatasetLockSensor, locks=str(dataset))
    LockHook(owner_of(filled)).acquire([f"folder:{dataset}"])
    assert sensor.execute(filled) == 1


def test_all_datasets_of_a_selection(tmp_path: Path) -> None:
    first, _, third = (make_dataset(tmp_path, f"ob{number}") for number in (1, 2, 3))
    locks = [taken(f"folder:{folder}") for folder in (first, third)]
    sensor, filled = make(DatasetLockSensor, locks=f"{tmp_path}/reduced/*/sinistro/*")
    stopped = deferred(sensor, filled)
    assert stopped.trigger.missing == [f"lock folder:{folder} of {OTHER}: held" for folder in (first, third)]
    with released_later(*locks):
        assert resume(sensor, filled, stopped) == 3


@pytest.mark.parametrize("where", ["reduced/ob9", "reduced/*/nowhere"])
def test_a_dataset_that_does_not_exist_is_named(tmp_path: Path, dataset: Path, where: str) -> None:
    sensor, filled = make(DatasetLockSensor, locks=[str(dataset), f"{tmp_path}/{where}"], timeout=0.3)
    with pytest.raises(AirflowSensorTimeout, match=r"ob9|nowhere") as caught:
        resume(sensor, filled, deferred(sensor, filled))
    assert "does not exist" in str(caught.value)
    assert str(dataset) not in str(caught.value)


class TestAHolderThatWasKilled:
    @pytest.fixture(autouse=True)
    def _killed(self, dataset: Path) -> None:
        killed_holder(f"folder:{dataset}")

    @pytest.mark.parametrize("policy", ["never", "if_run_ended"])
    def test_is_reported_with_its_age_and_waited_for(
        self, dataset: Path, policy: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sensor, filled = make(DatasetLockSensor, locks=str(dataset), policy=policy, timeout=3.5)
        with pytest.raises(AirflowSensorTimeout, match=r"heartbeat \d+ s ago.*stale") as caught:
            finish(sensor, filled)
        assert str(OTHER) in str(caught.value)
        said = [line for line in capsys.readouterr().out.splitlines() if "Waiting; " in line]
        assert "; stale" in said[-1]
        assert len(said) <= 2, "an older heartbeat alone is no news"
        assert (dataset / LOCK_FILE).exists()

    def test_is_broken_where_the_policy_lets_it_and_the_log_says_so(
        self, dataset: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        sensor, filled = make(DatasetLockSensor, locks=str(dataset), policy="if_stale")
        assert finish(sensor, filled) == 1
        assert not (dataset / LOCK_FILE).exists()
        (said,) = (line for line in caplog.messages if "broke the lock" in line)
        waiting = str(owner_of(filled))
        for text in (waiting, str(dataset), str(OTHER), "stale", "policy if_stale of a sensor"):
            assert text in said

    def test_fails_where_that_is_asked_for(self, dataset: Path) -> None:
        sensor, filled = make(DatasetLockSensor, locks=str(dataset), fail_when_stale=True)
        with pytest.raises(
            AirflowFailException, match=r"stale.*What to do: see whether its owner still works"
        ):
            finish(sensor, filled)
        assert (dataset / LOCK_FILE).exists()


@pytest.mark.parametrize("policy", ["never", "if_stale", "if_run_ended"])
def test_a_lock_whose_dag_run_has_ended(dataset: Path, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LockHook, "run_state", lambda *_: MISSING)
    taken(f"folder:{dataset}")
    sensor, filled = make(DatasetLockSensor, locks=str(dataset), policy=policy, timeout=0.3)
    if policy == "never":
        with pytest.raises(AirflowSensorTimeout, match="its DAG run has ended"):
            resume(sensor, filled, deferred(sensor, filled))
    else:
        assert sensor.execute(filled) == 1


def test_a_dry_run_breaks_nothing(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LockHook, "run_state", lambda *_: MISSING)
    taken(f"folder:{dataset}")
    sensor, filled = make(
        DatasetLockSensor, locks=str(dataset), policy="if_run_ended", params={"dry_run": True}
    )
    assert sensor.execute(filled) == 0
    assert (dataset / LOCK_FILE).exists()


def test_the_lock_of_another_tool_is_never_broken(dataset: Path) -> None:
    (dataset / LOCK_FILE).write_text("2019-04-01T03:00:00")
    sensor, filled = make(DatasetLockSensor, locks=str(dataset), policy="if_stale", timeout=0.3)
    with pytest.raises(AirflowSensorTimeout, match=r"another tool.*since 2019-04-01T03:00:00 UTC"):
        resume(sensor, filled, deferred(sensor, filled))
    assert (dataset / LOCK_FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"locks": "reduced/ob1"}, "not the name of a lock"),
        ({"locks": []}, "No lock is named"),
        ({"locks": ["collection:a b"]}, "cannot be part of a collection name"),
        ({"locks": "/", "policy": "always"}, "There is no lock policy"),
    ],
)
def test_what_cannot_be_watched_fails_at_once(arguments: dict[str, Any], says: str) -> None:
    sensor, filled = make(DatasetLockSensor, **arguments)
    with pytest.raises(AirflowFailException, match=says):
        sensor.execute(filled)
