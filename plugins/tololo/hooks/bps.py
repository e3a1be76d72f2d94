"""Runs of pipelines through bps, in a detached process that outlives the task that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tololo.engine.attempt import ENDED, Attempt, AttemptState
from tololo.facility.errors import UnavailableError
from tololo.facility.run import RunRequest


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
        """Return the attempt that still runs for the same request, or start a new one."""
        latest = self.latest()
        # A driver that has written its last state may need a moment to go.
        if latest is not None and latest.is_alive() and latest.state.phase not in ENDED:
            return latest
        number = int(latest.folder.name) + 1 if latest else 1
        attempt = Attempt(self.folder / str(number))
        attempt.create(request)
        self._launch(attempt)
        return attempt

    def _launch(self, attempt: Attempt) -> None:
        # A job that inherits stdin would hold the task supervisor's socket and hide the task's death.
        with open(attempt.log, "ab") as log:
            driver = subprocess.Popen(
                [sys.executable, "-m", "tololo.engine.driver", str(attempt.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=job_environment(),
            )
        attempt.record_launch(driver.pid)

    def poll(self, attempt: Attempt, started: float) -> AttemptState | None:
        """Return the state of an attempt that goes on or has ended.

        Parameters
        ----------
        attempt : `Attempt`
            The attempt.
        started : `float`
            When this caller began to wait (`time.monotonic`), to give a new driver time to come up.

        Raises
        ------
        UnavailableError
            The driver died without saying why.
        """
        state = attempt.state
        if state.phase in ENDED or attempt.is_alive():
            return state
        if state.pid == 0 and time.monotonic() - started < 60:
            return None
        # It may have ended between the two looks.
        state = attempt.state
        if state.phase in ENDED:
            return state
        tail = (
            "\n".join(attempt.log.read_text(errors="replace").splitlines()[-5:])
            if attempt.log.exists()
            else ""
        )
        raise UnavailableError(
            f"The driver of the run died in phase {state.phase!r}: {tail}",
            str(attempt.log),
            "try the task again",
        )

    def cancel(self) -> None:
        """End the newest attempt and everything that it started."""
        latest = self.latest()
        if latest is None or not latest.is_alive():
            return
        pid = latest.state.pid
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(pid, sign)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and latest.is_alive():
                time.sleep(0.1)


def job_environment() -> dict[str, str]:
    """Return the environment of jobs: one thread each, this installation's commands first in the path."""
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # Fresh pages for each large array cost a fifth of the time; keep what was freed.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
    return os.environ | threads | malloc | {"PATH": path}


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
