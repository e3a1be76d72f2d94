from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import wait_for
from tololo.engine.attempt import ENDED, LIVE, Attempt, AttemptState, process_started, this_process
from tololo.engine.client import job_environment
from tololo.facility.errors import UnavailableError
from tololo.facility.run import RunRequest
from tololo.hooks import bps
from tololo.hooks.bps import BpsHook

NOWHERE = RunRequest("/nowhere", "/nowhere/p.yaml", "20190401/instcal", "instcal", ["refcats"], site="local")
GONE = {"pid": 2**22 + 1, "pid_started": "7"}
"""No process has this pid."""


def recorded(folder: Path, state: AttemptState, request: RunRequest = NOWHERE) -> Attempt:
    attempt = Attempt(folder)
    attempt.create(request)
    attempt.record(state)
    return attempt


def alive(**changes: object) -> AttemptState:
    pid, started = this_process()
    return replace(AttemptState(pid=pid, pid_started=started), **changes)  # type: ignore[arg-type]


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
    assert [one.folder.name for one in latest.earlier()] == ["1", "2", "9"]


def test_a_driver_is_told_from_another_process_with_its_pid(tmp_path: Path) -> None:
    assert recorded(tmp_path / "1", alive()).is_alive()
    assert not recorded(tmp_path / "2", alive(pid_started="1")).is_alive()
    assert not recorded(tmp_path / "3", AttemptState(**GONE)).is_alive()
    assert not recorded(tmp_path / "4", AttemptState()).is_alive()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    while process_started(pid):
        pass  # until it is a zombie, which is dead
    assert Path(f"/proc/{pid}").exists()
    os.waitpid(pid, 0)


def test_the_first_attempt_fails_and_a_second_is_made(tmp_path: Path) -> None:
    """With the engine server, which starts on demand."""
    hook = BpsHook(tmp_path)
    first = hook.attach_or_start(NOWHERE)
    state = wait_for(first, ENDED)
    assert (state.phase, state.drivers) == ("error", 1)
    assert "/nowhere" in state.error["what"]
    assert first.request == NOWHERE
    second = hook.attach_or_start(NOWHERE)
    assert (first.folder.name, second.folder.name) == ("1", "2")
    wait_for(second, ENDED)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Attempts for which a driver was asked of the engine server; here it starts none."""
    asked: list[Path] = []
    monkeypatch.setattr(bps, "call", lambda message: asked.append(Path(message["folder"])) or GONE["pid"])
    return asked


def cancelled(attempt: Attempt) -> None:
    attempt.mark_cancelled()


def left_alone(attempt: Attempt) -> None:
    """Nothing happened to it."""


@pytest.mark.parametrize("phase", LIVE)
@pytest.mark.parametrize(
    ("how", "asked", "prepare", "finds", "starts"),
    [
        # An attempt that is driven is followed, whatever is asked.
        (alive(), NOWHERE, left_alone, "1", []),
        (alive(), replace(NOWHERE, threshold=0.5), left_alone, "1", []),
        # One whose driver died, or never came, gets another.
        (AttemptState(**GONE), NOWHERE, left_alone, "1", ["1"]),
        (AttemptState(), NOWHERE, left_alone, "1", ["1"]),
        # The locks of a request are its own affair.
        (AttemptState(**GONE), replace(NOWHERE, locks=["x"]), left_alone, "1", ["1"]),
        # One that was cancelled, or is not what is asked, is left to the next to settle.
        (AttemptState(**GONE), NOWHERE, cancelled, "2", ["2"]),
        (AttemptState(**GONE), replace(NOWHERE, where="x"), left_alone, "2", ["2"]),
        (AttemptState(**GONE), replace(NOWHERE, retry_failed=True), left_alone, "2", ["2"]),
    ],
)
def test_which_attempt_is_followed(
    tmp_path: Path,
    launched: list[Path],
    phase: str,
    how: AttemptState,
    asked: RunRequest,
    prepare: Callable[[Attempt], None],
    finds: str,
    starts: list[str],
) -> None:
    prepare(recorded(tmp_path / "1", replace(how, phase=phase)))
    attempt = BpsHook(tmp_path).attach_or_start(asked)
    assert attempt.folder == tmp_path / finds
    assert [path.name for path in launched] == starts
    assert attempt.request == (asked if finds == "2" else NOWHERE)


@pytest.mark.parametrize("phase", ENDED)
def test_after_one_that_has_ended_comes_another(tmp_path: Path, launched: list[Path], phase: str) -> None:
    recorded(tmp_path / "1", alive(phase=phase))  # its process lives on, as another
    assert BpsHook(tmp_path).attach_or_start(NOWHERE).folder.name == "2"
    assert [path.name for path in launched] == ["2"]


def test_memory_grows_after_attempts_that_had_too_little(tmp_path: Path, launched: list[Path]) -> None:
    hook = BpsHook(tmp_path)
    factors = []
    for failures in (0, 2, 0, 1):
        attempt = hook.attach_or_start(NOWHERE)
        factors.append(attempt.request.memory_factor)
        attempt.record(AttemptState(phase="done", outcome={"memory_failures": failures}))
    factors.append(hook.attach_or_start(NOWHERE).request.memory_factor)
    assert factors == [1.0, 1.0, 2.0, 2.0, 4.0], "what once was too little is so again"
    hook.attach_or_start(NOWHERE)
    assert launched[-1] == launched[-2], "the factor makes it no other request"


def test_a_disk_without_room_is_named_before_anything_is_written(
    tmp_path: Path, launched: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bps, "ROOM", shutil.disk_usage(tmp_path).total + 1)
    hook = BpsHook(tmp_path / "runs")
    with pytest.raises(UnavailableError, match="No space left on device"):
        hook.attach_or_start(NOWHERE)
    assert (list(hook.folder.iterdir()), launched) == ([], [])


def test_cancel_touches_no_process_that_is_not_the_driver(tmp_path: Path) -> None:
    hook = BpsHook(tmp_path)
    hook.cancel()  # there is nothing
    attempt = recorded(tmp_path / "1", alive(phase="submitted", pid_started="1"))
    hook.cancel()
    assert attempt.is_cancelled


def test_what_has_ended_cannot_be_cancelled(tmp_path: Path) -> None:
    attempt = recorded(tmp_path / "1", alive(phase="done"))
    BpsHook(tmp_path).cancel()
    assert not attempt.is_cancelled


def test_jobs_use_one_thread_each_and_this_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("TOLOLO_HOME", "here")
    environment = job_environment()
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert environment["TOLOLO_HOME"] == str(Path.cwd() / "here"), "jobs work in folders of their own"
