"""What has happened in a run: one line for each event, only ever appended: a kill loses at most a line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tololo.engine.local.workflow import FINAL, Job, Workflow

FILE = "journal.jsonl"


@dataclass
class JobRecord:
    """What is known of one job.

    ``state`` is one of waiting, running, done, failed, pruned; ``tries`` counts the tries that ended,
    ``memory`` is the limit of the next one in MiB, ``last`` says how the last one ended.
    """

    state: str = "waiting"
    tries: int = 0
    memory: int = 0
    last: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunRecord:
    """What is known of a run: its jobs, and whether it was submitted, cancelled, ended.

    ``runners`` counts the runners that have begun since a job last ended.
    """

    jobs: dict[str, JobRecord]
    submitted: int = 0
    cancelled: str = ""
    ended: bool = False
    runners: int = 0

    @property
    def failed(self) -> list[str]:
        """Names of the jobs that failed for good."""
        return [name for name, job in self.jobs.items() if job.state == "failed"]


class Journal:
    """The journal in a submit folder.

    Parameters
    ----------
    folder : `pathlib.Path`
        The submit folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def append(self, event: str, **facts: Any) -> None:
        """Add one line, whole or not at all."""
        line = (json.dumps({"time": round(time.time(), 3), "event": event, **facts}) + "\n").encode()
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line  # a full disk has cut the last one short
            if os.write(file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(file)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError), open(self.path, errors="replace") as lines:
            for line in lines:
                # A full disk, or the end of the machine, can cut a line short.
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def replay(self, workflow: Workflow) -> RunRecord:
        """Return what the events add up to."""
        record = RunRecord({name: JobRecord(memory=job.memory) for name, job in workflow.jobs.items()})
        for event in self:
            job = record.jobs.get(event.get("job", ""))
            match event["event"]:
                case "submitted":
                    record.submitted += 1
                case "start" if job:
                    job.state = "running"
                case "end" if job:
                    record.runners = 0
                    job.state, job.tries, job.last = event["state"], event["try"], event
                    job.memory = event["next_memory"]
                case "runner":  # what its predecessor left running was cut off
                    record.runners += 1
                    for name, other in record.jobs.items():
                        if other.state == "running":
                            _cut_off(workflow.jobs[name], other)
                case "restarted":
                    _reset(record)
                case "cancelled":
                    record.cancelled = event["by"]
                case "ended":
                    record.ended = True
        return record


def _cut_off(job: Job, record: JobRecord) -> None:
    """Let a job that was cut off run again, unless its quanta may not be tried twice."""
    record.state = "waiting"
    if job.quanta and not job.retries:
        record.state, record.tries, record.last = "failed", record.tries + 1, {"reason": "lost"}


def _reset(record: RunRecord) -> None:
    """Let what failed be tried again; the final job runs again in any case."""
    record.ended, record.cancelled, record.runners = False, "", 0
    for name, job in record.jobs.items():
        if name == FINAL or job.state in ("failed", "pruned"):
            job.state, job.tries = "waiting", 0


def prune(workflow: Workflow, record: RunRecord) -> None:
    """Mark the jobs that cannot run because one before them failed."""
    for name, job in workflow.jobs.items():
        before = {record.jobs[parent].state for parent in job.parents}
        if record.jobs[name].state == "waiting" and before & {"failed", "pruned"}:
            record.jobs[name].state = "pruned"
