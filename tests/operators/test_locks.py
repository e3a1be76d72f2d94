from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from operators.airflow_context import TaskInstance, context
from tololo.facility.errors import UnavailableError
from tololo.facility.locks import LockOwner
from tololo.hooks.locks import LockHook, owner_of
from tololo.operators.locks import AcquireLockOperator, BreakLockOperator, ReleaseLockOperator

DRP = "collection:20190401/drp"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AIRFLOW_CONN_POSTGRES_DEFAULT", raising=False)


@pytest.fixture
def red(tmp_path: Path) -> str:
    (tmp_path / "red").mkdir()
    return f"folder:{tmp_path}/red"


def run_of(run_id: str, task_id: str = "task", try_number: int = 1, **params: Any) -> Any:
    filled = context(**params)
    filled["ti"] = TaskInstance(run_id=run_id, task_id=task_id, try_number=try_number)
    return filled


def owner(name: str) -> LockOwner | None:
    record = LockHook().holder(name)
    return record.owner if record else None


def acquire(locks: list[str], **options: Any) -> AcquireLockOperator:
    return AcquireLockOperator(task_id="lock", locks=locks, **options)


def release(locks: list[str]) -> ReleaseLockOperator:
    return ReleaseLockOperator(task_id="unlock", locks=locks)


def event_of(deferred: TaskDeferred) -> Any:
    async def first() -> Any:
        async for event in deferred.trigger.run():
            return event.payload

    return asyncio.run(first())


def resume(task: AcquireLockOperator, filled: Any, deferred: TaskDeferred) -> Any:
    assert deferred.method_name == "execute_complete"
    return task.execute_complete(filled, event=event_of(deferred), **deferred.kwargs)


def test_taken_taken_again_and_released_by_another_task(red: str) -> None:
    assert acquire([red, DRP, red]).execute(run_of("a", "lock")) == [DRP, red]
    assert owner(red) == owner_of(run_of("a", "lock"))
    assert acquire([red, DRP]).execute(run_of("a", "lock", 2)) == [DRP, red]
    held = owner(DRP)
    assert held is not None
    assert held.try_number == 2
    release([red, DRP]).execute(run_of("a", "unlock"))
    assert owner(red) is owner(DRP) is None
    release([red, DRP]).execute(run_of("a", "unlock"))


def test_it_waits_in_the_triggerer_until_the_lock_is_free(red: str) -> None:
    acquire([red, DRP]).execute(run_of("a"))
    task, filled = acquire([red, DRP], poke_interval=0.05, timeout=60), run_of("b")
    with pytest.raises(TaskDeferred) as caught:
        task.execute(filled)
    assert "held by dag a" in filled["task_state_store"]["progress"]
    later = threading.Timer(0.5, lambda: release([red, DRP]).execute(run_of("a")))
    later.start()
    assert resume(task, filled, caught.value) == [DRP, red]
    later.join()
    assert owner(red) == owner_of(run_of("b"))


def test_one_of_two_who_wait_is_quicker_and_the_other_waits_on(red: str) -> None:
    acquire([red]).execute(run_of("a"))
    tasks = {run: (acquire([red], poke_interval=0.05, timeout=60), run_of(run)) for run in ("b", "c")}
    deferred = {}
    for run, (task, filled) in tasks.items():
        with pytest.raises(TaskDeferred) as caught:
            task.execute(filled)
        deferred[run] = caught.value
    release([red]).execute(run_of("a"))
    events = {run: event_of(deferred[run]) for run in tasks}
    task, filled = tasks["b"]
    assert task.execute_complete(filled, event=events["b"], **deferred["b"].kwargs) == [red]
    task, filled = tasks["c"]
    with pytest.raises(TaskDeferred) as caught:
        task.execute_complete(filled, event=events["c"], **deferred["c"].kwargs)
    assert caught.value.kwargs == deferred["c"].kwargs
    assert owner(red) == owner_of(run_of("b"))


def test_waiting_in_vain_says_who_holds_it(red: str) -> None:
    acquire([red]).execute(run_of("a"))
    with pytest.raises(
        AirflowSensorTimeout, match=r"Waited 0 s in vain. The lock folder:.* is held by dag a"
    ):
        acquire([red], timeout=0).execute(run_of("b"))
    task, filled = acquire([red], poke_interval=0.05, timeout=0.3), run_of("b")
    with pytest.raises(TaskDeferred) as caught:
        task.execute(filled)
    with pytest.raises(AirflowSensorTimeout, match=r"Waited 0.3 s in vain. The lock .* is held by dag a"):
        resume(task, filled, caught.value)
    assert owner(red) == owner_of(run_of("a"))


def test_a_policy_breaks_what_is_stale(red: str) -> None:
    acquire([red], ttl=0.05).execute(run_of("a"))
    time.sleep(0.1)
    assert acquire([red], policy="if_stale").execute(run_of("b")) == [red]
    with pytest.raises(AirflowFailException, match="only its owner releases it"):
        release([red]).execute(run_of("a"))
    assert owner(red) == owner_of(run_of("b"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "sometimes"}, "no lock policy 'sometimes'"),
        ({"locks": ["collection:20190401/*"]}, "cannot be part of a collection name"),
        ({"locks": ["folder:/nowhere/at/all"]}, "does not exist"),
        ({"locks": ["20190401"]}, "not the name of a lock"),
    ],
)
def test_bad_input_fails_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AirflowFailException, match=message):
        acquire(**{"locks": [DRP], **options}).execute(run_of("a"))
    assert owner(DRP) is None


def test_a_killed_task_gives_back_what_this_try_took(red: str) -> None:
    acquire([DRP]).execute(run_of("a"))
    task = acquire([red, DRP])
    task.on_kill()
    task.execute(run_of("a", "lock", 2))
    task.on_kill()
    assert owner(red) is None
    assert owner(DRP) is not None


def test_a_dry_run_takes_and_releases_nothing(red: str) -> None:
    acquire([red]).execute(run_of("a"))
    assert acquire([red, DRP]).execute(run_of("a", dry_run=True)) == []
    release([red, DRP]).execute(run_of("a", dry_run=True))
    assert owner(red) is not None
    assert owner(DRP) is None


def test_breaking(red: str) -> None:
    acquire([red]).execute(run_of("a"))
    breaking = {"task_id": "break", "locks": [red, DRP]}
    with pytest.raises(UnavailableError, match="policy if_stale does not let us"):
        BreakLockOperator(**breaking, reason="stuck", only="if_stale").execute(run_of("b"))
    with pytest.raises(AirflowFailException, match="No reason"):
        BreakLockOperator(**breaking, reason="").execute(run_of("b"))
    assert BreakLockOperator(**breaking, reason="stuck").execute(run_of("b", dry_run=True)) == {}
    breaking["locks"] = f" {red} \n\ncollection:nobody"
    broken = BreakLockOperator(**breaking, reason="stuck").execute(run_of("b"))
    assert list(broken) == [red]
    assert "held by dag a" in broken[red]
    with pytest.raises(AirflowSkipException, match="Nobody holds any of the locks"):
        BreakLockOperator(**breaking, reason="stuck").execute(run_of("b"))


def test_setup_and_teardown() -> None:
    with DAG("locked", schedule=None):
        lock = acquire([DRP])
        unlock = release([DRP]).as_teardown(setups=lock)
    assert lock.is_setup
    assert unlock.is_teardown
    assert lock.template_fields == ("locks", "policy")


DAGS = """
import os
from airflow.sdk import DAG, task
from tololo.facility.locks import LockOwner
from tololo.hooks.locks import LockHook, owner_of
from tololo.operators.locks import AcquireLockOperator, ReleaseLockOperator

RED = "folder:" + os.environ["RED"]


@task
def work(fail: bool, **context):
    from dataclasses import replace

    hook, owner = LockHook(), owner_of(context)
    states = [hook.run_state(owner), hook.run_state(replace(owner, run_id="x"))]
    print("STATUS", hook.status(RED).verdict, *states)
    if fail:
        raise ValueError("the sky fell")


def chain(name, fail):
    with DAG(name, schedule=None) as dag:
        acquire = AcquireLockOperator(task_id="lock", locks=[RED], policy="if_run_ended", ttl=0.01, timeout=0)
        release = ReleaseLockOperator(task_id="unlock", locks=[RED]).as_teardown(setups=acquire)
        acquire >> work(fail) >> release
    return dag


with DAG("forgets", schedule=None) as forgets:
    AcquireLockOperator(task_id="lock", locks=[RED], ttl=0.01, timeout=0)
good, bad = chain("good", False), chain("bad", True)

if __name__ == "__main__":
    for dag in (bad, forgets, good):
        run = dag.test()
        tasks = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
        print("RUN", dag.dag_id, run.state, sorted(tasks.items()), os.listdir(os.environ["RED"]))
"""


@pytest.mark.long
@pytest.mark.services
def test_in_airflow_a_failed_run_releases_and_an_ended_one_is_broken(tmp_path: Path, red: str) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "locking.py").write_text(DAGS)
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(tmp_path / "plugins"),
        "RED": red.removeprefix("folder:"),
    }
    environment.pop("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", None)
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], env=environment, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, tmp_path / "dags" / "locking.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith(("RUN", "STATUS"))]
    chained = "[('lock', 'success'), ('unlock', 'success'), ('work', '{}')]"
    assert said == [
        "STATUS held running missing",
        f"RUN bad failed {chained.format('failed')} []",
        said[2],
        "STATUS held running missing",
        f"RUN good success {chained.format('success')} []",
    ], done.stdout + done.stderr
    assert said[2].startswith("RUN forgets success [('lock', 'success')] [")
    assert "'dataset.lock'" in said[2]
    assert "broke the lock folder:" in done.stdout + done.stderr
    assert "Reason: policy if_run_ended: its DAG run has ended" in done.stdout + done.stderr
