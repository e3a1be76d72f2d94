from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from conftest import wait_for
from tololo.engine.attempt import ENDED, Attempt, AttemptState, this_process
from tololo.facility.errors import UnavailableError
from tololo.facility.run import RunRequest
from tololo.hooks.bps import BpsHook, job_environment

NOWHERE = RunRequest("/nowhere", "/nowhere/p.yaml", "20190401/instcal", "instcal", ["refcats"])


def recorded(folder: Path, state: AttemptState) -> Attempt:
    attempt = Attempt(folder)
    attempt.create(NOWHERE)
    attempt.record(state)
    return attempt


def test_every_try_of_a_task_finds_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path))
    run_id = "scheduled__2026-11-19T12:00:00+00:00__20261118"
    hook = BpsHook.for_task("nightly_decam", run_id, "calibrate")
    assert hook.folder == BpsHook.for_task("nightly_decam", run_id, "calibrate").folder
    assert hook.folder.parent.parent == tmp_path / "runs" / "nightly_decam"
    assert not set(hook.folder.parent.name) & set(":+/ ")
    assert BpsHook.for_task("nightly_decam", run_id, "calibrate", 3).folder.name == "calibrate-3"
    assert BpsHook.for_task("a/../../b", "x", "y").folder.is_relative_to(tmp_path / "runs")


def test_the_latest_attempt_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    hook = BpsHook(tmp_path)
    assert hook.latest() is None
    for number in (1, 2, 9, 10):
        recorded(tmp_path / str(number), AttemptState())
    (tmp_path / "11").mkdir()  # killed before its request was written
    latest = hook.latest()
    assert latest is not None
    assert latest.folder.name == "10"


def test_attach_finds_a_driver_that_only_just_starts_and_replaces_one_that_ended(tmp_path: Path) -> None:
    hook = BpsHook(tmp_path)
    first = hook.attach_or_start(NOWHERE)
    assert hook.attach_or_start(NOWHERE).folder == first.folder
    state = wait_for(hook, first, ENDED)
    assert state.phase == "error"
    assert "/nowhere" in state.error["what"]
    assert first.request == NOWHERE
    second = hook.attach_or_start(NOWHERE)
    assert (first.folder.name, second.folder.name) == ("1", "2")
    wait_for(hook, second, ENDED)


def test_a_driver_is_told_from_another_process_with_its_pid(tmp_path: Path) -> None:
    pid, started = this_process()
    assert recorded(tmp_path / "1", AttemptState(pid=pid, pid_started=started)).is_alive()
    assert not recorded(tmp_path / "2", AttemptState(pid=pid, pid_started="1")).is_alive()
    assert not recorded(tmp_path / "3", AttemptState(pid=2**22 + 1, pid_started="")).is_alive()
    assert not recorded(tmp_path / "4", AttemptState()).is_alive()


def test_polling(tmp_path: Path) -> None:
    hook = BpsHook(tmp_path)
    pid, started = this_process()
    now = time.monotonic()
    running = AttemptState(phase="building", pid=pid, pid_started=started)
    assert hook.poll(recorded(tmp_path / "1", running), now) == running
    over = AttemptState(phase="done", pid=2**22 + 1, pid_started="7")
    assert hook.poll(recorded(tmp_path / "2", over), now) == over
    attempt = Attempt(tmp_path / "3")
    attempt.create(NOWHERE)
    assert hook.poll(attempt, now) is None
    with pytest.raises(UnavailableError, match="starting"):
        hook.poll(attempt, now - 61)
    attempt.log.write_text("one\nKilled by the kernel\n")
    attempt.record(AttemptState(phase="aggregating", pid=2**22 + 1, pid_started="7"))
    with pytest.raises(UnavailableError, match=r"(?s)'aggregating'.*Killed by the kernel") as caught:
        hook.poll(attempt, now)
    assert caught.value.where == str(attempt.log)


def test_cancel_touches_no_process_that_is_not_the_driver(tmp_path: Path) -> None:
    hook = BpsHook(tmp_path)
    hook.cancel()
    pid, _ = this_process()
    recorded(tmp_path / "1", AttemptState(phase="submitted", pid=pid, pid_started="1"))
    hook.cancel()


def test_the_first_record_gives_way_to_the_drivers_own(tmp_path: Path) -> None:
    attempt = recorded(tmp_path / "1", AttemptState(phase="building", pid=7, pid_started="7"))
    attempt.record_launch(this_process()[0])
    assert attempt.state.phase == "building"
    assert sorted(path.name for path in attempt.folder.iterdir()) == ["request.json", "state.json"]


def test_jobs_use_one_thread_each_and_this_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    environment = job_environment()
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
