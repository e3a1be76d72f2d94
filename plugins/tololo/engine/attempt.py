"""The record of one attempt to run a pipeline step: a folder that outlives the task that made it.

``request.json`` is what was asked, ``state.json`` what is known now. The driver process writes the state; the
operator only reads it, so either of the two can die without the other losing anything.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tololo.facility.run import RunRequest, write_json

LIVE = ("starting", "building", "submitted", "aggregating")
ENDED = ("done", "planned", "empty", "error")


@dataclass
class AttemptState:
    """Where an attempt stands.

    ``phase`` is one of `LIVE` or `ENDED`; ``expected`` and ``finished`` count quanta by task label;
    ``outcome`` is `RunOutcome` as a dict once the phase is ``done`` (or ``planned``, after a dry run);
    ``error`` holds what, where and remedy.
    """

    phase: str = "starting"
    pid: int = 0
    pid_started: str = ""
    run: str = ""
    expected: dict[str, int] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
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

    def create(self, request: RunRequest) -> None:
        """Record the request before anything is started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        request.write(self.folder / "request.json")

    def record(self, state: AttemptState) -> None:
        """Write the state."""
        write_json(self.folder / "state.json", asdict(state))

    def record_launch(self, pid: int) -> None:
        """Write the first state of a driver that was just started, unless it has written one itself.

        Without it, whoever attaches while the driver starts up would take it for dead and start another.
        """
        beside = self.folder / f".launched.{pid}"
        write_json(beside, asdict(AttemptState(pid=pid, pid_started=process_started(pid))))
        with contextlib.suppress(FileExistsError):
            os.link(beside, self.folder / "state.json")
        beside.unlink()

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
