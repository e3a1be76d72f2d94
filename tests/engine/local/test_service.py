"""The service behind bps's own command lines, on the drill: quanta whose faults come on demand."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from lsst.ctrl.bps import WmsStates
from lsst.daf.butler import Butler

from tololo.engine import LocalService
from tololo.engine.attempt import process_started
from tololo.engine.client import job_environment
from tololo.engine.local import runner
from tololo.engine.local.service import failures
from tololo.engine.local.workflow import FINAL, Workflow
from tololo.facility.configuration import INCLUDE
from tololo.facility.errors import BadInputError
from tololo.simulation.drill import (
    FIRST_VISIT,
    INPUTS,
    NIGHT,
    PIPELINE,
    made,
    make_drill_repository,
    wrong_numbers,
)
from tololo.simulation.drill_faults import executions, write_faults

from .jobs import events, record, runner_pid, until

BPS = str(Path(sys.executable).with_name("bps"))
REQUEST, MOST = 550, 1100
"""MiB that a job may use at first and at most; the process itself holds some 250."""


@dataclass(frozen=True)
class Drill:
    """A repository, what its quanta suffer, and where they are submitted from."""

    root: Path

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    @property
    def journal(self) -> Path:
        return self.root / "executions"

    def suffer(self, **faults: object) -> None:
        write_faults(self.root / "faults", **faults)

    def bps(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Call bps as a person does."""
        environment = job_environment() | {"BPS_WMS_SERVICE_CLASS": "tololo.engine.LocalService"}
        call = [BPS, command, *words]
        return subprocess.run(
            call, cwd=self.root, env=environment, text=True, capture_output=True, check=False
        )

    def submit(self, name: str, **changes: object) -> Path:
        """Submit the drill; return the submit folder, which is the id of the run."""
        config = {
            "includeConfigs": [str(INCLUDE / "pipelines" / "bps" / "local.yaml")],
            "computeSite": "local",
            "pipelineYaml": f"{PIPELINE}#detectors",
            "submitPath": str(self.root / name),
            "cores": 2,
            "requestMemory": REQUEST,
            "memoryLimit": MOST,
            "extraQgraphOptions": " ".join(
                f"-c {label}:{field}={self.root / value}"
                for label in ("drillOne", "drillTwo")
                for field, value in (("faults", "faults"), ("journal", "executions"))
            ),
            "payload": {
                "payloadName": "drill",
                "butlerConfig": str(self.repository),
                "inCollection": INPUTS,
                "output": f"{NIGHT}/drill",
                "outputRun": f"{NIGHT}/drill/{name}",
                "dataQuery": "instrument = 'DECam'",
            },
        }
        (self.root / f"{name}.yaml").write_text(yaml.safe_dump(config | changes))
        done = self.bps("submit", f"{name}.yaml")
        assert done.returncode == 0, done.stderr[-1000:]
        assert f"Run Id: {self.root / name}" in done.stdout
        return self.root / name


@dataclass(frozen=True)
class Faulty:
    """A run that ended with failures, and what it was then."""

    drill: Drill
    folder: Path
    report: str
    status: subprocess.CompletedProcess[str]
    tries: dict[int, int]


def job_of(folder: Path, detector: int) -> str:
    """Name of the job of a detector, by its log."""
    jobs = Workflow.read(folder).jobs
    (name,) = [name for name in jobs if re.search(rf"_{FIRST_VISIT}_{detector}$", name)]
    return name


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """Eight detectors, of which five fail for good, each in its way."""
    drill = Drill(tmp_path_factory.mktemp("faulty"))
    make_drill_repository(drill.repository, detectors=8)
    drill.suffer(
        **{"raise": [3]},
        no_data=[2],
        database=[4],
        kill=[5, 6],
        memory={"7": 500, "8": 1500},
        sleep={"7": 0.5, "8": 0.5},
    )
    folder = drill.submit("faulty")
    until(lambda: not runner.is_running(folder), "the run to end")
    status = drill.bps("status", "--id", str(folder))
    report = drill.bps("report", "--id", str(folder), "--return-exit-codes")
    assert report.returncode == 0, report.stderr
    tries = Counter(execution.detector for execution in executions(drill.journal))
    return Faulty(drill, folder, report.stdout, status, dict(tries))


def test_everything_else_is_done(faulty: Faulty) -> None:
    numbers = made(faulty.drill.repository, "*")
    assert set(numbers) == {
        (label, FIRST_VISIT, detector) for label in ("drillOne", "drillTwo") for detector in (1, 7)
    }
    assert all(len(found) == 1 for found in numbers.values())


def test_tries_are_as_bps_configures_them(faulty: Faulty) -> None:
    """One each for 1 (of two tasks), for 2 (no data: the other has nothing to do), 3 and 4 (exit code 1)."""
    assert {d: n for d, n in faulty.tries.items() if d < 5} == {1: 2, 2: 1, 3: 1, 4: 1}
    # Killed: the first try and three more.
    assert {d: n for d, n in faulty.tries.items() if d in (5, 6)} == {5: 4, 6: 4}
    # Memory: 550 is too little and 1100 enough for 7, and too little for 8.
    assert {d: n for d, n in faulty.tries.items() if d > 6} == {7: 3, 8: 2}
    ends = {d: [(e["reason"], e["memory"]) for e in events(faulty.folder, "end", job_of(faulty.folder, d))]
            for d in (7, 8)}  # fmt: skip
    assert ends == {7: [("memory", REQUEST), ("", MOST)], 8: [("memory", REQUEST), ("memory", MOST)]}


def test_the_record_of_what_failed(faulty: Faulty) -> None:
    found = {line["quanta"][0]: line for line in failures(faulty.folder)}
    jobs = Workflow.read(faulty.folder).jobs
    by_detector = {d: found[jobs[job_of(faulty.folder, d)].quanta[0]] for d in (3, 4, 5, 6, 8)}
    assert len(found) == 5
    what = {
        d: (line["reason"], line["exit"], line["signal"], line["tries"]) for d, line in by_detector.items()
    }
    assert what == {
        3: ("exit", 1, None, 1),
        4: ("exit", 1, None, 1),
        5: ("lost", None, signal.SIGKILL, 4),
        6: ("lost", None, signal.SIGKILL, 4),
        8: ("memory", None, signal.SIGKILL, 2),
    }
    assert (by_detector[8]["memory_mb"], by_detector[8]["peak_mb"] > MOST) == (MOST, True)
    assert {len(line["quanta"]) for line in found.values()} == {2}, "a detector's two tasks are one job"


def test_a_detectors_consecutive_tasks_are_one_job_in_one_process(faulty: Faulty) -> None:
    workflow = Workflow.read(faulty.folder)
    detectors = [one for one in workflow.jobs.values() if one.label == "drillOne"]
    assert [one.counts for one in detectors] == [{"drillOne": 1, "drillTwo": 1}] * 8
    assert len(workflow.jobs) == 8 + 2
    pids = [execution.pid for execution in executions(faulty.drill.journal) if execution.detector == 1]
    assert len(pids) == 2
    assert len(set(pids)) == 1


def test_status_and_report_of_a_run_that_ended(faulty: Faulty) -> None:
    assert faulty.status.returncode == WmsStates.FAILED.value
    tables = [line.split() for line in faulty.report.splitlines()]
    names = next(words for words in tables if "PRUNED" in words)
    counts = {words[0]: dict(zip(names, words[1:], strict=True)) for words in tables if len(words) == 13}
    found = {name: counts[name] for name in ("TOTAL", "drillOne", "finalJob")}
    assert {name: (one["SUCCEEDED"], one["FAILED"], one["EXPECTED"]) for name, one in found.items()} == {
        "TOTAL": ("5", "5", "10"),
        "drillOne": ("3", "5", "8"),
        "finalJob": ("1", "0", "1"),
    }
    assert re.search(rf"FAILED +[0-9]+ +{faulty.folder} ", faulty.report)
    # Exit codes are science's; a signal is the infrastructure's.
    assert re.search(r"\ndrillOne +2 +1 +3 +-9\n", faulty.report), faulty.report


def test_report_without_an_id_lists_what_was_submitted(faulty: Faulty) -> None:
    service = LocalService({})
    assert str(faulty.folder) in {one.wms_id for one in service.report(hist=1.0)[0]}
    assert str(faulty.folder) not in {one.wms_id for one in service.report()[0]}, "it does not run"
    assert service.report(user="nobody at all", hist=1.0) == ([], "")
    assert service.list_submitted_jobs() == []


def test_what_is_not_there_is_said_in_one_message(faulty: Faulty, tmp_path: Path) -> None:
    service = LocalService({})
    for command in ("report", "restart"):
        done = faulty.drill.bps(command, "--id", str(tmp_path))
        said = done.stdout + done.stderr
        assert f"There is no run of the local service. Where: {tmp_path}" in said, (command, said)
        assert "Traceback" not in said
    assert "There is no run" in service.cancel(str(tmp_path))[1]
    assert service.get_status(str(tmp_path))[0] is WmsStates.UNKNOWN
    with pytest.raises(BadInputError):
        failures(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_each_try_has_its_log(faulty: Faulty) -> None:
    logs = sorted(path.relative_to(faulty.folder) for path in faulty.folder.glob("logs/drillOne/**/*.log"))
    name = job_of(faulty.folder, 5)
    assert [log.name for log in logs if name in log.name] == [f"{name}.{n}.log" for n in (1, 2, 3, 4)]
    assert {str(log.parent) for log in logs} == {f"logs/drillOne/{FIRST_VISIT}"}
    (log,) = [log for log in logs if job_of(faulty.folder, 3) in log.name]
    text = (faulty.folder / log).read_text()
    assert "ValueError: Drill: the number of visit 900001, detector 3 is wrong" in text
    assert "run-qbb" in text
    good = (
        faulty.folder / "logs" / "drillOne" / str(FIRST_VISIT) / f"{job_of(faulty.folder, 1)}.1.log"
    ).read_text()
    assert f"detector: {1}" in good
    assert not re.search("detector: [2-9]", good), "a job's log is its own"


def test_restart_runs_what_failed_and_nothing_else(faulty: Faulty) -> None:
    before = len(executions(faulty.drill.journal))
    faulty.drill.suffer(no_data=[2])
    done = faulty.drill.bps("restart", "--id", str(faulty.folder))
    assert done.returncode == 0, done.stderr[-1000:]
    assert f"Run Id: {faulty.folder}" in done.stdout
    until(lambda: not runner.is_running(faulty.folder), "the run to end")
    again = executions(faulty.drill.journal)[before:]
    assert sorted((e.detector, e.label) for e in again) == [
        (detector, label) for detector in (3, 4, 5, 6, 8) for label in ("drillOne", "drillTwo")
    ]
    missing = [f"{FIRST_VISIT}, detector 2"] * 2
    wrong = wrong_numbers(faulty.drill.repository, "detectors", "*")
    assert [re.search(r"\d+, detector \d+", line)[0] for line in wrong] == missing  # type: ignore[index]
    assert len(events(faulty.folder, "submitted")) == 1
    assert record(faulty.folder).failed == []
    assert faulty.drill.bps("status", "--id", str(faulty.folder)).returncode == WmsStates.SUCCEEDED.value


def test_cancel_leaves_no_process_and_restart_goes_on(tmp_path: Path) -> None:
    drill = Drill(tmp_path)
    make_drill_repository(drill.repository, detectors=6)
    drill.suffer(sleep={str(detector): 600.0 for detector in range(2, 7)})
    folder = drill.submit("cut")
    until(lambda: sum(execution.detector > 1 for execution in executions(drill.journal)) == 2, "the quanta")
    pids = {execution.pid for execution in executions(drill.journal)} | {runner_pid(folder)}
    service = LocalService({})
    assert service.get_status(str(folder)) == (WmsStates.RUNNING, "")
    (report,) = service.report(str(folder))[0]
    assert report.state is WmsStates.RUNNING
    assert report.job_state_counts[WmsStates.RUNNING] == 2
    # The one without a sleep may come first or last of them.
    succeeded = report.job_state_counts[WmsStates.SUCCEEDED]
    counts = report.job_summary["drillOne"]
    assert counts[WmsStates.READY] + counts[WmsStates.SUCCEEDED] == 4
    assert [one.wms_id for one in service.report()[0]] == [str(folder)]
    assert service.list_submitted_jobs() == [str(folder)]
    assert service.restart(str(folder)) == (None, None, "it still runs")

    done = drill.bps("cancel", "--id", str(folder))
    assert done.returncode == 0, done.stderr[-1000:]
    until(lambda: not any(map(process_started, pids)), "the processes to end")
    assert not runner.is_running(folder)
    assert service.get_status(str(folder))[0] is WmsStates.DELETED
    (report,) = service.report(str(folder))[0]
    assert report.job_state_counts[WmsStates.RUNNING] == 0
    assert report.job_state_counts[WmsStates.SUCCEEDED] == succeeded
    assert made(drill.repository, "*") == {}, "nothing is registered of a run that was cancelled"
    with Butler.from_config(str(drill.repository)) as butler:
        assert not butler.collections.query(f"{NIGHT}/*")

    drill.suffer()
    assert service.restart(str(folder))[0] == str(folder)
    until(lambda: not runner.is_running(folder), "the run to end")
    assert wrong_numbers(drill.repository, "detectors", "*") == []
    assert sum(execution.detector == 1 for execution in executions(drill.journal)) == 2
    # Nothing is left to do: the end of a run cannot be cancelled, and costs nothing to be restarted.
    assert service.cancel(str(folder))[0] is False
    assert service.get_status(str(folder))[0] is WmsStates.SUCCEEDED
    assert record(folder).jobs[FINAL].state == "done"
    log = folder / "logs" / "drillOne" / str(FIRST_VISIT) / f"{job_of(folder, 1)}.1.log"
    assert "Executed 2 quanta successfully" in log.read_text()
