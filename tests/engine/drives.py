"""Drivers in processes of their own that die where a test wants them to."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lsst.daf.butler import Butler, CollectionType

from tololo.engine.attempt import Attempt
from tololo.engine.driver import drive
from tololo.engine.local import runner
from tololo.engine.local.journal import Journal
from tololo.facility.run import RunRequest

STEPS = {
    # What is called, and whether it dies then, or when it is done with it; {} is for a phase to be recorded.
    "before it has a name for its RUN": ("engine.attempt:Attempt.record building", "before"),
    "before it builds": ("engine.attempt:Attempt.record building", "after"),
    "with half a graph": ("engine.graph:build_graph", "after"),
    "when the graph is built": ("engine.attempt:Attempt.record built", "before"),
    "before it submits": ("engine.attempt:Attempt.record built", "after"),
    "with half a submit folder": ("engine.local.workflow:Workflow.write", "before"),
    "when bps has prepared the run": ("engine.local.service:LocalService.submit", "before"),
    "when the run is in the journal": ("engine.local.runner:start", "before"),
    "when the runner has begun": ("engine.attempt:Attempt.record submitted", "before"),
    "before it follows": ("engine.attempt:Attempt.record submitted", "after"),
    "when the run has ended": ("engine.attempt:Attempt.record judging", "before"),
    "before it judges": ("engine.attempt:Attempt.record judging", "after"),
    "before it records the outcome": ("engine.outcomes:write_outcome", "before"),
    "before it writes the chain": ("hooks.chains:write_chain", "before"),
    "before it says that it is done": ("engine.attempt:Attempt.record done", "before"),
}
"""Where a driver can be killed: all edges of the table of an attempt's phases."""


def drive_in_child(attempt: Attempt, prepare: Callable[[], object] = lambda: None) -> int:
    """Drive an attempt in a forked process; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            log = os.open(attempt.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # type: ignore[assignment]
            os.dup2(log, 1)
            os.dup2(log, 2)
            prepare()
            drive(attempt)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(0)
    return pid


def ended_by(pid: int) -> int:
    """Wait for a process, and return the signal that ended it."""
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def die_at(step: str) -> Callable[[], None]:
    """Return what makes a process kill itself at one of `STEPS`."""
    target, when = STEPS[step]
    target, _, phase = target.partition(" ")

    def prepare() -> None:
        module, _, path = target.partition(":")
        holder: Any = importlib.import_module(f"tololo.{module}")
        *outer, name = path.split(".")
        for part in outer:
            holder = getattr(holder, part)
        real = getattr(holder, name)

        def call(*args: Any, **options: Any) -> Any:
            meant = not phase or args[1].phase == phase
            if meant and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            answer = real(*args, **options)
            if meant:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        setattr(holder, name, call)

    return prepare


def runs_of(request: RunRequest) -> list[str]:
    """RUN collections below the parent of a request."""
    with Butler.from_config(request.repository) as butler:
        return sorted(butler.collections.query(f"{request.parent}/*", collection_types=CollectionType.RUN))


def submissions(folder: Path) -> int:
    """How often the attempts in a folder were submitted."""
    journals = [Journal(path) for path in folder.glob("*/submit")]
    return sum(event["event"] == "submitted" for journal in journals for event in journal)


def still_running(folder: Path) -> bool:
    """Tell whether a runner is at work for one of the attempts in a folder."""
    return any(runner.is_running(path) for path in folder.glob("*/submit"))
