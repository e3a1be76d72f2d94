"""Runs of pipelines through bps, in a detached process that outlives the task that started it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from tololo.engine import slurm
from tololo.engine.attempt import ENDED, Attempt, process_started
from tololo.engine.client import call, job_environment
from tololo.engine.local.runner import cancel
from tololo.facility.errors import UnavailableError
from tololo.facility.run import RunRequest

ROOM = 16 * 2**20
"""Bytes that must be free for an attempt: its graph, record and logs."""

MEMORY_GROWTH = 2.0
"""Growth of the memory of an attempt after one that failed for lack of it."""


class BpsHook:
    """Start, follow and cancel the attempts of one pipeline step.

    Parameters
    ----------
    folder : `pathlib.Path`
        Folder of the step's attempts; one folder for each lies below it, numbered from 1.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def for_task(cls, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> BpsHook:
        """Return the hook of one Airflow task instance; every try of it finds the same folder."""
        home = Path(os.environ.get("TOLOLO_HOME") or "var").resolve()
        name = task_id if map_index < 0 else f"{task_id}-{map_index}"
        return cls(home / "runs" / _safe(dag_id) / _safe(run_id) / _safe(name))

    def latest(self) -> Attempt | None:
        """Return the newest attempt, if there is one."""
        numbers = sorted(
            int(path.name) for path in self.folder.glob("[0-9]*") if (path / "request.json").exists()
        )
        return Attempt(self.folder / str(numbers[-1])) if numbers else None

    def attach_or_start(self, request: RunRequest) -> Attempt:
        """Return the attempt that runs or can be gone on with, else start a new one.

        An attempt whose driver died gets another driver, which goes on where the first one was; it is never
        submitted a second time. One that was cancelled, or was asked something else, is settled by the new
        attempt. After a failure for lack of memory the new attempt gets twice as much.

        Parameters
        ----------
        request : `~tololo.facility.run.RunRequest`
            What to run.

        Raises
        ------
        UnavailableError
            The engine server does not start, or the disk is full.
        """
        latest = self.latest()
        if latest is None:
            return self._start(request, 1)
        state = latest.state
        if state.phase not in ENDED:
            if latest.is_alive():
                return latest
            asked = latest.request
            same = replace(request, memory_factor=asked.memory_factor, locks=asked.locks)
            if not latest.is_cancelled and asked == same:
                self._launch(latest)
                return latest
        factor = latest.request.memory_factor
        if state.outcome.get("memory_failures"):
            factor *= MEMORY_GROWTH
        return self._start(replace(request, memory_factor=factor), int(latest.folder.name) + 1)

    def _start(self, request: RunRequest, number: int) -> Attempt:
        attempt = Attempt(self.folder / str(number))
        self.folder.mkdir(parents=True, exist_ok=True)
        _check_room(self.folder)
        attempt.create(request)
        self._launch(attempt)
        return attempt

    def _launch(self, attempt: Attempt) -> None:
        _check_room(attempt.folder)
        message = {"folder": str(attempt.folder), "log": str(attempt.log), "environment": job_environment()}
        pid = call({"do": "drive"} | message)
        # Until it has written that it drives, somebody who looks would take the attempt for dead.
        deadline = time.monotonic() + 10
        while attempt.state.pid != pid and process_started(pid) and time.monotonic() < deadline:
            time.sleep(0.005)

    def cancel(self) -> None:
        """End the newest attempt and everything that it started."""
        latest = self.latest()
        if latest is None or latest.state.phase in ENDED:
            return
        latest.mark_cancelled()
        if latest.is_alive():
            _end(latest)
        if (latest.submit_path / "journal.jsonl").exists():
            cancel(latest.submit_path)
        if latest.request.site == "slurm" and latest.state.run:
            slurm.cancel(latest.state.run)


def _end(attempt: Attempt) -> None:
    """End a driver with what it started, gently and then not."""
    pid = attempt.state.pid
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(pid, sign)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if not attempt.is_alive():
                return
            time.sleep(0.05)


def _check_room(folder: Path) -> None:
    room = os.statvfs(folder)
    if room.f_bavail * room.f_frsize < ROOM:
        raise UnavailableError(
            "No space left on device for the record of a run",
            str(folder),
            "make room; a run that had begun goes on where it was",
        )


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
