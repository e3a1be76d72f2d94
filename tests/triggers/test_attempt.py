from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import GetTaskStates, TaskStatesResult
from airflow.sdk.module_loading import import_string

from tololo.engine.attempt import Attempt, AttemptState, process_started
from tololo.facility.run import RunRequest
from tololo.triggers.attempt import AttemptTrigger, describe_progress, own

REQUEST = RunRequest("/nowhere", "/nowhere/p.yaml", "20190401/instcal", "instcal", ["refcats"])


@pytest.fixture(autouse=True)
def _the_worker_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fire at once: nothing here was deferred by a worker."""
    monkeypatch.setattr("tololo.triggers.attempt.LEAVE_SECONDS", 0.0)


@pytest.fixture
def driver() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a driver: it leads a session of its own."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def attempt(tmp_path: Path, driver: subprocess.Popen[bytes]) -> Attempt:
    attempt = Attempt(tmp_path / "1")
    attempt.create(REQUEST)
    record(attempt, driver, phase="submitted", expected={"a": 3})
    return attempt


def record(attempt: Attempt, driver: subprocess.Popen[bytes], **state: Any) -> None:
    attempt.record(AttemptState(pid=driver.pid, pid_started=process_started(driver.pid), **state))


def is_over(driver: subprocess.Popen[bytes]) -> bool:
    return driver.poll() is not None


async def first_event(trigger: AttemptTrigger) -> dict[str, Any]:
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("no event")


def fired(trigger: AttemptTrigger) -> dict[str, Any]:
    return asyncio.run(asyncio.wait_for(first_event(trigger), 60))


def test_it_fires_when_the_attempt_ends_and_logs_how_it_went(
    attempt: Attempt, driver: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    async def follow() -> dict[str, Any]:
        waiting = asyncio.create_task(first_event(AttemptTrigger(str(attempt.folder), relaunches=2)))
        said = ""
        while "a 0 of 3" not in said:
            await asyncio.sleep(0.01)
            said += capsys.readouterr().out
        record(attempt, driver, phase="done", expected={"a": 3}, finished={"a": 2}, failed={"a": 1})
        return await waiting

    event = asyncio.run(asyncio.wait_for(follow(), 60))
    assert event == {"standing": "ended", "folder": str(attempt.folder), "relaunches": 2}
    assert "done: a 2 of 3, 1 failed" in capsys.readouterr().out


def test_it_fires_when_the_driver_is_killed(attempt: Attempt, driver: subprocess.Popen[bytes]) -> None:
    driver.kill()
    driver.wait()
    assert fired(AttemptTrigger(str(attempt.folder)))["standing"] == "lost"


def test_a_driver_that_has_written_its_end_and_gone_is_not_lost(
    attempt: Attempt, driver: subprocess.Popen[bytes]
) -> None:
    record(attempt, driver, phase="error", error={"what": "x"})
    driver.kill()
    driver.wait()
    assert fired(AttemptTrigger(str(attempt.folder)))["standing"] == "ended"


def test_it_fires_when_the_task_has_waited_too_long(attempt: Attempt) -> None:
    assert fired(AttemptTrigger(str(attempt.folder), deadline=1.0))["standing"] == "overdue"


def test_another_triggerer_can_go_on_with_it(attempt: Attempt) -> None:
    path, arguments = AttemptTrigger(str(attempt.folder), 1, 7.5).serialize()
    again = import_string(path)(**arguments)
    assert again.serialize() == (path, arguments)
    assert arguments == {"folder": str(attempt.folder), "relaunches": 1, "deadline": 7.5}


@pytest.fixture
def killed(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Kill a trigger the way the triggerer does, with the state that the task has by then."""

    def kill(state: str | None, try_number: int = 1, map_index: int = -1) -> None:
        def answer(question: GetTaskStates) -> TaskStatesResult:
            assert (question.task_ids, question.run_ids, question.map_index) == (["t"], ["r"], map_index)
            name = "t" if map_index < 0 else f"t_{map_index}"
            return TaskStatesResult(task_states={"r": {name: state}} if state != "removed" else {})

        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", SimpleNamespace(send=answer), raising=False)
        trigger = AttemptTrigger(str(attempt.folder))
        trigger._task_instance = SimpleNamespace(
            dag_id="d", run_id="r", task_id="t", map_index=map_index, try_number=try_number
        )
        asyncio.run(trigger.on_kill())

    return kill


@pytest.mark.parametrize("state", ["failed", "success", "skipped", None, "queued", "removed"])
def test_a_task_that_somebody_ends_or_clears_takes_its_run_along(
    killed: Any, attempt: Attempt, driver: subprocess.Popen[bytes], state: str | None
) -> None:
    own(attempt, 1)
    killed(state)
    assert is_over(driver)
    assert attempt.is_cancelled


@pytest.mark.parametrize("map_index", [-1, 4])
def test_a_task_that_waits_in_another_triggerer_keeps_its_run(
    killed: Any, attempt: Attempt, driver: subprocess.Popen[bytes], map_index: int
) -> None:
    killed("deferred", map_index=map_index)
    assert not is_over(driver)


def test_a_run_that_a_later_try_follows_is_left_to_it(
    killed: Any, attempt: Attempt, driver: subprocess.Popen[bytes]
) -> None:
    own(attempt, 2)
    killed("running", try_number=1)
    assert not is_over(driver)
    killed("running", try_number=2)
    assert is_over(driver)


def test_killing_a_run_that_has_ended_is_harmless(
    killed: Any, attempt: Attempt, driver: subprocess.Popen[bytes]
) -> None:
    record(attempt, driver, phase="done")
    killed("failed")
    assert not is_over(driver)


def test_progress_in_one_line() -> None:
    state = AttemptState(phase="submitted", expected={"a": 3, "b": 2}, finished={"a": 1}, failed={"a": 1})
    assert describe_progress(state) == "submitted: a 1 of 3, 1 failed; b 0 of 2"
    assert describe_progress(AttemptState(phase="building")) == "building"


def test_the_triggerer_does_not_import_the_stack() -> None:
    program = (
        "import sys, tololo.triggers.attempt, tololo.hooks.bps;"
        "print(*({'lsst', 'numpy', 'astropy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_worker_that_deferred_is_given_time_to_end(
    attempt: Attempt, driver: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tololo.triggers.attempt.LEAVE_SECONDS", 1.5)
    record(attempt, driver, phase="done", expected={"a": 3}, finished={"a": 3})
    began = time.monotonic()
    assert fired(AttemptTrigger(str(attempt.folder)))["standing"] == "ended"
    assert time.monotonic() - began >= 1.5
