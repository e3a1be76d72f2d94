"""The record of one attempt to run a pipeline step: a folder that outlives the task that made it.

``request.json`` is what was asked, ``state.json`` what is known now. The driver process writes the state; the
operator only reads it, so either of the two can die without the other losing anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from tololo.engine import warm
from tololo.facility.run import RunRequest, write_json

LIVE = ("starting", "building", "built", "submitted", "judging")
ENDED = ("done", "planned", "empty", "error")

LETTING_GO = 10.0
"""Seconds that a killed driver may take to end its last thread, on a machine that has much else to do."""


@dataclass
class AttemptState:
    """Where an attempt stands.

    ``phase`` is one of `LIVE` or `ENDED`; ``expected``, ``finished`` and ``failed`` count quanta by task
    label; ``drivers`` counts the driver processes that it has had; ``outcome`` is `RunOutcome` as a dict once
    the phase is ``done`` (or ``planned``, after a dry run); ``error`` holds what, where and
    remedy, and the class of a facility's own error.
    """

    phase: str = "starting"
    pid: int = 0
    pid_started: str = ""
    drivers: int = 0
    run: str = ""
    expected: dict[str, int] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    outcome: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] = field(default_factory=dict)


class Attempt:
    """One attempt's folder.

    Parameters
    ----------
    folder : `pathlib.Path`
        The folder; it is made by `create`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def log(self) -> Path:
        """The driver's log."""
        return self.folder / "driver.log"

    @property
    def graph(self) -> Path:
        """The quantum graph."""
        return self.folder / "graph.qg"

    @property
    def submit_path(self) -> Path:
        """The submit folder of bps."""
        return self.folder / "submit"

    @property
    def request(self) -> RunRequest:
        """What was asked."""
        return RunRequest.read(self.folder / "request.json")

    @property
    def state(self) -> AttemptState:
        """Where it stands now."""
        path = self.folder / "state.json"
        return AttemptState(**json.loads(path.read_text())) if path.exists() else AttemptState()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled: it is not gone on with, only settled."""
        return (self.folder / "cancelled").exists()

    def create(self, request: RunRequest) -> None:
        """Record the request before anything is started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        request.write(self.folder / "request.json")

    def record(self, state: AttemptState) -> None:
        """Write the state."""
        write_json(self.folder / "state.json", asdict(state))

    def earlier(self) -> list[Attempt]:
        """Return the attempts of the same task before this one, oldest first."""
        numbers = sorted(int(path.name) for path in self.folder.parent.glob("[0-9]*"))
        return [Attempt(self.folder.with_name(str(n))) for n in numbers if n < int(self.folder.name)]

    def mark_cancelled(self) -> None:
        """Record that it was cancelled, before anything is ended."""
        (self.folder / "cancelled").touch()

    @contextlib.contextmanager
    def claimed(self) -> Iterator[bool]:
        """Hold the attempt while driving or settling it; false where another process does.

        The kernel gives it back however the process ends.
        """
        with open(self.folder / "driver.lock", "w") as lock:
            if not self._take(lock):
                yield False
                return
            # Nor does what is forked meanwhile hold on to it: a runner outlives its driver.
            warm.KEPT_FROM_CHILDREN.append(lock.fileno())
            try:
                yield True
            finally:
                with contextlib.suppress(ValueError):
                    warm.KEPT_FROM_CHILDREN.remove(lock.fileno())

    def _take(self, lock: IO[str]) -> bool:
        """Take the lock, once a driver that was killed has let go of it.

        A process with threads passes for dead when the first of them has ended; the lock is its until the
        last one has.
        """
        deadline = time.monotonic() + LETTING_GO
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self.is_alive() or time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
            else:
                return True

    def is_alive(self) -> bool:
        """Tell whether the driver that recorded this state still runs (and is not another with its pid)."""
        state = self.state
        return state.pid_started != "" and process_started(state.pid) == state.pid_started


def process_started(pid: int) -> str:
    """Return the start time of a process in clock ticks, empty if there is none (Linux ``/proc``)."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def this_process() -> tuple[int, str]:
    """Return pid and start time of the running process."""
    return os.getpid(), process_started(os.getpid())
