"""Workflows of shell commands, and a runner for them in a process that holds nothing of the stack."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tololo.engine.attempt import process_started
from tololo.engine.local import runner
from tololo.engine.local.journal import Journal, RunRecord
from tololo.engine.local.workflow import FINAL, Job, Workflow


def job(folder: Path, name: str, *commands: str, **changes: Any) -> Job:
    """A job of shell commands that run in the submit folder."""
    return replace(Job(name, name.partition("_")[0], list(commands), str(folder / "logs" / name)), **changes)


def write(folder: Path, *jobs: Job, cores: int = 2, final: str = "") -> Workflow:
    """Write a workflow, and the journal's first line, into a submit folder."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {one.name: one for one in jobs}
    if final:
        named[FINAL] = job(folder, FINAL, final)
    workflow = Workflow("run", named, cores)
    workflow.write(folder)
    Journal(folder).append("submitted", user="somebody")
    return workflow


def start(folder: Path) -> None:
    """Start a runner from a small process."""
    code = "import sys; from pathlib import Path; from tololo.engine.local import runner; "
    subprocess.run([sys.executable, "-c", f"{code}runner.start(Path(sys.argv[1]))", str(folder)], check=True)


def run(folder: Path) -> RunRecord:
    """Run what lies in a folder to its end."""
    start(folder)
    until(lambda: not runner.is_running(folder), "the runner to end")
    return record(folder)


def record(folder: Path) -> RunRecord:
    return Journal(folder).replay(Workflow.read(folder))


def events(folder: Path, event: str, *names: str) -> list[dict[str, Any]]:
    """Lines of the journal about some jobs, or about all of them."""
    return [
        line for line in Journal(folder) if line["event"] == event and (not names or line["job"] in names)
    ]


def runner_pid(folder: Path) -> int:
    """Wait for a runner to be at work, and return its pid."""

    def pid() -> int:
        lines = events(folder, "runner")
        return lines[-1]["pid"] if lines and process_started(lines[-1]["pid"]) == lines[-1]["started"] else 0

    return int(until(pid, "a runner"))


def processes_with(mark: str) -> list[int]:
    """Processes with a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def until(reached: Callable[[], Any], what: str) -> Any:
    """Wait for something, and return it."""
    deadline = time.monotonic() + 120
    while not (value := reached()):
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.02)
    return value
