"""The bps WMS service for one machine."""

from __future__ import annotations

import contextlib
import getpass
import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsst.ctrl.bps import BaseWmsService, BaseWmsWorkflow, WmsJobReport, WmsRunReport, WmsStates

from tololo.engine.client import engine_folder
from tololo.engine.local import runner
from tololo.engine.local.journal import Journal, RunRecord, prune
from tololo.engine.local.workflow import FINAL, Workflow
from tololo.facility.errors import BadInputError

if TYPE_CHECKING:
    from lsst.ctrl.bps import BpsConfig, GenericWorkflow

_STATES = {
    "waiting": WmsStates.UNREADY,
    "running": WmsStates.RUNNING,
    "done": WmsStates.SUCCEEDED,
    "failed": WmsStates.FAILED,
    "pruned": WmsStates.PRUNED,
}


class LocalWorkflow(BaseWmsWorkflow):  # type: ignore[misc]
    """A workflow that lies ready in its submit folder."""

    def __init__(self, name: str, config: BpsConfig, workflow: Workflow) -> None:
        super().__init__(name, config)
        self.workflow = workflow

    @classmethod
    def from_generic_workflow(
        cls, config: BpsConfig, generic_workflow: GenericWorkflow, out_prefix: str, service_class: str
    ) -> LocalWorkflow:
        """Take over what bps prepared."""
        workflow = Workflow.from_generic(config, generic_workflow, Path(out_prefix).resolve())
        made = cls(generic_workflow.name, config, workflow)
        made.service_class, made.submit_path = service_class, out_prefix
        return made

    def write(self, out_prefix: str) -> None:
        """Write it into the submit folder."""
        self.workflow.write(Path(out_prefix))


class LocalService(BaseWmsService):  # type: ignore[misc]
    """Runs the jobs of bps on this machine, in a pool of processes that hold the stack.

    The id of a run is its submit folder. ``submit`` returns at once; a detached process runs the jobs.
    """

    def prepare(
        self, config: BpsConfig, generic_workflow: GenericWorkflow, out_prefix: str | None = None
    ) -> LocalWorkflow:
        """Write what the runner needs into the submit folder."""
        folder = out_prefix or config["submitPath"]
        name = f"{type(self).__module__}.{type(self).__name__}"
        workflow = LocalWorkflow.from_generic_workflow(config, generic_workflow, folder, name)
        workflow.write(folder)
        return workflow

    def submit(self, workflow: LocalWorkflow, **kwargs: Any) -> LocalWorkflow:
        """Start the runner; a folder that was submitted already is not submitted again."""
        folder = Path(workflow.submit_path).resolve()
        if not (folder / "journal.jsonl").exists():
            Journal(folder).append("submitted", user=getpass.getuser())
            _remember(folder)
        runner.start(folder)
        workflow.run_id = str(folder)
        return workflow

    def restart(self, wms_workflow_id: str) -> tuple[str | None, str | None, str]:
        """Go on with a run whose runner died, or run again what failed in one that ended."""
        folder = Path(wms_workflow_id).resolve()
        try:
            workflow, record = _read(folder)
        except BadInputError as error:
            return None, None, str(error)
        if runner.is_running(folder):
            return None, None, "it still runs"
        if record.ended or record.cancelled:
            Journal(folder).append("restarted", user=getpass.getuser())
        runner.start(folder)
        return str(folder), workflow.name, ""

    def get_status(
        self, wms_workflow_id: str, hist: float = 1, is_global: bool = False
    ) -> tuple[WmsStates, str]:
        """Return the state of a run."""
        if runner.is_running(Path(wms_workflow_id)):
            return WmsStates.RUNNING, ""
        try:
            _, record = _read(Path(wms_workflow_id))
        except BadInputError as error:
            return WmsStates.UNKNOWN, str(error)
        return _state(Path(wms_workflow_id), record)

    def report(
        self,
        wms_workflow_id: str | None = None,
        user: str | None = None,
        hist: float = 0,
        pass_thru: str | None = None,
        is_global: bool = False,
        return_exit_codes: bool = False,
    ) -> tuple[list[WmsRunReport], str]:
        """Report on one run, or on those that run or were submitted within ``hist`` days."""
        if wms_workflow_id:
            try:
                return [_report(Path(wms_workflow_id).resolve())], ""
            except BadInputError as error:
                return [], str(error)
        reports = []
        for line in _remembered(user):
            with contextlib.suppress(BadInputError):
                report = _report(Path(line["path"]))
                if report.state is WmsStates.RUNNING or time.time() - line["time"] < 86400 * hist:
                    reports.append(report)
        return reports, ""

    def list_submitted_jobs(
        self,
        wms_id: str | None = None,
        user: str | None = None,
        require_bps: bool = True,
        pass_thru: str | None = None,
        is_global: bool = False,
    ) -> list[str]:
        """List the submit folders of runs that run."""
        folders = [wms_id] if wms_id else [line["path"] for line in _remembered(user)]
        return [folder for folder in folders if runner.is_running(Path(folder))]

    def cancel(self, wms_id: str, pass_thru: str | None = None) -> tuple[bool, str]:
        """End the runner and its jobs; what they have finished stays."""
        folder = Path(wms_id)
        try:
            _, record = _read(folder)
        except BadInputError as error:
            return False, str(error)
        if record.ended and not runner.is_running(folder):
            return False, "it has ended"
        return runner.cancel(folder)

    def run_submission_checks(self) -> None:
        """Find nothing to check: there is no other machine."""

    def ping(self, pass_thru: str | None = None) -> tuple[int, str]:
        """Say that the service is there: it is this machine."""
        return 0, ""


def failures(folder: Path) -> list[dict[str, Any]]:
    """List the jobs that failed for good, with the record of exit and signal.

    Returns
    -------
    failures : `list` [`dict`]
        ``quanta`` (UUIDs), ``label``, ``exit``, ``signal``, ``reason`` (memory, lost, timeout, exit),
        ``said`` (why it was lost, where that is known), ``memory_mb`` (limit of the last try), ``peak_mb``,
        ``tries``.
    """
    workflow, record = _read(folder)
    found = []
    for name in record.failed:
        job, known = workflow.jobs[name], record.jobs[name]
        found.append(
            {
                "quanta": job.quanta,
                "label": job.label,
                "exit": known.last.get("exit"),
                "signal": known.last.get("signal"),
                "reason": known.last.get("reason", ""),
                "said": known.last.get("said", ""),
                "memory_mb": known.last.get("memory", 0),
                "peak_mb": known.last.get("peak", 0),
                "tries": known.tries,
            }
        )
    return found


def fruitless_runners(folder: Path) -> int:
    """Count the runners that began since a job last ended: if none of them lives, they died for nothing."""
    return _read(folder)[1].runners


def _read(folder: Path) -> tuple[Workflow, RunRecord]:
    workflow = Workflow.read(folder)
    record = Journal(folder).replay(workflow)
    prune(workflow, record)
    return workflow, record


def _state(folder: Path, record: RunRecord) -> tuple[WmsStates, str]:
    if runner.is_running(folder):
        return WmsStates.RUNNING, ""
    if record.cancelled:
        return WmsStates.DELETED, f"cancelled by {record.cancelled}"
    if record.ended:
        failed = record.failed
        return (WmsStates.FAILED, f"{len(failed)} jobs failed") if failed else (WmsStates.SUCCEEDED, "")
    if not Journal(folder).path.exists():
        return WmsStates.PENDING, "not submitted yet"
    return WmsStates.HELD, f"its runner died; go on with: bps restart --id {folder}"


def _report(folder: Path) -> WmsRunReport:
    workflow, record = _read(folder)
    states = {name: _job_state(name, workflow, record) for name in workflow.jobs}
    counts = Counter(states.values())
    labels: dict[str, Counter[WmsStates]] = {}
    codes: dict[str, list[int]] = {}
    for name, job in workflow.jobs.items():
        labels.setdefault(job.label, Counter())[states[name]] += 1
        if record.jobs[name].state == "failed":
            last = record.jobs[name].last
            codes.setdefault(job.label, []).append(last.get("exit") or -(last.get("signal") or 0))
    attributes = workflow.attributes
    return WmsRunReport(
        wms_id=str(folder),
        global_wms_id=str(folder),
        path=str(folder),
        label=attributes.get("payload"),
        run=attributes.get("run"),
        project=attributes.get("project"),
        campaign=attributes.get("campaign"),
        payload=attributes.get("payload"),
        operator=attributes.get("operator"),
        site=attributes.get("runsite"),
        run_summary=";".join(f"{label}:{sum(count.values())}" for label, count in labels.items()),
        state=_state(folder, record)[0],
        jobs=[WmsJobReport(name, name, job.label, states[name]) for name, job in workflow.jobs.items()],
        total_number_jobs=len(workflow.jobs),
        job_state_counts={state: counts[state] for state in WmsStates},
        job_summary={label: {state: count[state] for state in WmsStates} for label, count in labels.items()},
        exit_code_summary=codes,
    )


def _job_state(name: str, workflow: Workflow, record: RunRecord) -> WmsStates:
    state = record.jobs[name].state
    if record.cancelled and state in ("waiting", "running"):
        return WmsStates.DELETED
    if state == "waiting":
        parents = workflow.jobs[name].parents if name != FINAL else [n for n in workflow.jobs if n != FINAL]
        if all(record.jobs[parent].state == "done" for parent in parents):
            return WmsStates.READY
    return _STATES[state]


def _remember(folder: Path) -> None:
    """Add a run to those that ``bps report`` lists without being told an id."""
    index = engine_folder() / "submitted.jsonl"
    index.parent.mkdir(parents=True, exist_ok=True)
    line = {"time": time.time(), "user": getpass.getuser(), "path": str(folder)}
    with open(index, "a") as lines:
        lines.write(json.dumps(line) + "\n")


def _remembered(user: str | None) -> list[dict[str, Any]]:
    found = []
    with contextlib.suppress(FileNotFoundError), open(engine_folder() / "submitted.jsonl") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return [line for line in found if user in (None, line["user"])]
