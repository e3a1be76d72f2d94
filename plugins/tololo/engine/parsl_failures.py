"""The record of the jobs that failed under Parsl, which itself forgets them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.facility.run import write_json

if TYPE_CHECKING:
    from lsst.ctrl.bps.parsl import ParslJob, ParslWorkflow

_FILE = "failures.json"


@dataclass(frozen=True)
class Loss:
    """Why a job ended without a word: ``memory``, ``timeout`` or ``lost``, and who says so in what words."""

    reason: str
    said: str


@dataclass(frozen=True)
class JobFailure:
    """A job that failed for good; its fields are those that `tololo.engine.provenance` reads."""

    quanta: list[str]
    label: str
    exit: int | None
    signal: int | None
    reason: str
    said: str
    tries: int
    memory_mb: int = 0
    peak_mb: int = 0


def record_failures(
    workflow: ParslWorkflow, folder: Path, explain: Callable[[BaseException | None], Loss]
) -> None:
    """Write down which jobs of a workflow failed, not counting those that waited for one that did.

    Parameters
    ----------
    workflow : `lsst.ctrl.bps.parsl.ParslWorkflow`
        A workflow that has been run.
    folder : `pathlib.Path`
        Its submit folder.
    explain : callable
        Says why a worker was lost, given Parsl's exception; or why a process was killed, given `None`.
    """
    failures = [failure for job in workflow.jobs.values() if (failure := _failure(job, explain))]
    write_json(folder / _FILE, [asdict(failure) for failure in failures])


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """Return what was recorded in a submit folder; nothing if its driver died before that."""
    path = folder / _FILE
    return list(json.loads(path.read_text())) if path.exists() else []


def _failure(job: ParslJob, explain: Callable[[BaseException | None], Loss]) -> JobFailure | None:
    from parsl.app.errors import BashExitFailure
    from parsl.dataflow.errors import DependencyError

    future = job.future
    exception = future.exception() if future is not None and future.done() else None
    if exception is None or isinstance(exception, DependencyError):
        return None
    code = sign = None
    loss = Loss("exit", "")
    if isinstance(exception, BashExitFailure):
        code = exception.exitcode
        # A shell says 128 + n for a command that signal n killed; a process that became it says -n.
        sign = -code if code < 0 else code - 128 if code - 128 in signal.valid_signals() else None
        if sign == signal.SIGKILL:
            loss = explain(None)
    else:
        loss = explain(exception)
    return JobFailure(
        quanta=[quantum for quantum in job.generic.cmdvals.get("qgraphNodeId", "").split(",") if quantum],
        label=job.generic.label,
        exit=None if sign else code,
        signal=sign,
        reason=loss.reason,
        said=loss.said,
        tries=future.task_record["try_id"] + 1,
    )
