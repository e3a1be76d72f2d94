"""The site slurm on a real Slurm with one node, which the tests set up and take down."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lsst.ctrl.bps import BPS_DEFAULTS, BpsConfig
from lsst.daf.butler import Butler
from parsl.app.errors import BashExitFailure
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

from conftest import GOOD_VISITS, NIGHT, Reduced, instcal_request
from slurm.node import fault, node, slurm, wait_until
from tololo.engine import slurm as blocks
from tololo.engine.attempt import Attempt
from tololo.engine.client import job_environment
from tololo.engine.driver import drive
from tololo.engine.parsl_failures import read_failures
from tololo.engine.slurm_site import SlurmBlocks, SlurmService
from tololo.facility.configuration import INCLUDE, facility
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.run import RunOutcome, RunRequest
from tololo.facility.sites import bps_config
from tololo.hooks.butler import ButlerHook
from tololo.simulation.drill import drill_request, make_drill_repository, wrong_numbers
from tololo.simulation.drill_faults import executions, write_faults


def on_a_node[Test: Callable[..., None]](test: Test) -> Test:
    """Mark a test that needs a Slurm."""
    return pytest.mark.long(pytest.mark.usefixtures("cluster")(test))


SETTINGS = {
    "cores_per_node": 2,
    "walltime": "00:20:00",
    "request_memory": 1000,
    "address": "127.0.0.1",
    "partition": "night",
}


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Slurm node, and a facility that offers it."""
    if reason := fault():
        pytest.skip(f"no Slurm: {reason}")
    folder = tmp_path_factory.mktemp("slurm")
    patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    for key, value in job_environment().items():
        patch.setenv(key, value)
    offer(folder, SETTINGS, patch)
    try:
        node("start", folder)
        yield folder
    finally:
        node("stop", folder)
        facility.cache_clear()


def offer(folder: Path, settings: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load((INCLUDE / "configs" / "facility.yaml").read_text())
    path = folder / "facility.yaml"
    path.write_text(yaml.safe_dump(content | {"sites": {"slurm": settings}}))
    patch.setenv("TOLOLO_FACILITY", str(path))
    facility.cache_clear()


@pytest.fixture(autouse=True)
def where_it_was() -> Iterator[None]:
    """A driver goes into its attempt's folder."""
    with contextlib.chdir(Path.cwd()):
        yield


def attempt_of(folder: Path, request: RunRequest) -> Attempt:
    attempt = Attempt(folder / "1")
    attempt.create(request)
    return attempt


@contextlib.contextmanager
def driven(attempt: Attempt) -> Iterator[subprocess.Popen[bytes]]:
    """A driver in a process of its own, as the engine has them."""
    code = "import sys; from pathlib import Path; from tololo.engine.attempt import Attempt; "
    code += "from tololo.engine.driver import drive; drive(Attempt(Path(sys.argv[1])))"
    with (
        open(attempt.log, "ab") as log,
        subprocess.Popen(
            [sys.executable, "-c", code, attempt.folder], stdout=log, stderr=log, start_new_session=True
        ) as driver,
    ):
        yield driver
        driver.kill()


def waiting_or_running() -> str:
    return slurm("squeue", "--noheader")


def states(run: str) -> list[str]:
    name = f"--name={blocks.job_name(run)}"
    return sorted(slurm("squeue", "--noheader", "--states=all", "--format=%T", name).split())


class Drill:
    """Quanta that sleep, fail or are killed, and the journal of their executions."""

    def __init__(self, folder: Path, detectors: int, subset: str, **faults: Any) -> None:
        self.repository, self.subset = folder / "repository", subset
        self.journal, self.faults = folder / "journal", folder / "faults.json"
        make_drill_repository(self.repository, detectors=detectors)
        self.suffer(**faults)
        request = drill_request(self.repository, subset, self.faults, self.journal, site="slurm")
        self.attempt = attempt_of(folder / "attempts", request)

    def suffer(self, **faults: Any) -> None:
        write_faults(self.faults, **faults)

    def runs(self, event: str = "began") -> Counter[tuple[str, int]]:
        return Counter((run.label, run.detector) for run in executions(self.journal, event))

    def wrong(self) -> list[str]:
        return wrong_numbers(self.repository, self.subset, collections=self.attempt.state.run)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@on_a_node
def test_the_nightly_step_runs_unchanged(own_repository: Path, reduced: Reduced, tmp_path: Path) -> None:
    attempt = attempt_of(tmp_path, instcal_request(own_repository, NIGHT, site="slurm"))
    state = drive(attempt)
    assert (state.phase, state.error) == ("done", {})
    here, there = RunOutcome(**state.outcome), RunOutcome(**reduced.state.outcome)
    assert (here.labels, sorted(here.reasons)) == (there.labels, sorted(there.reasons))
    products = ("visit_image", "single_visit_star", "detector_summary", "visit_summary")
    counts = ButlerHook(own_repository).counts(here.chain)
    assert {kind: counts[kind] for kind in products} == dict.fromkeys(products, len(GOOD_VISITS))
    tables = []
    for repository in (own_repository, reduced.repository):
        with Butler.from_config(str(repository)) as butler:
            assert butler.collections.get_info(here.chain).children[1:] == (
                "refcats",
                "skymaps",
                f"{here.chain}/raw",
            )
            found = butler.query_datasets("visit_summary", here.chain)
            tables.append({ref.dataId["visit"]: butler.get(ref).to_pandas() for ref in found})
    assert set(tables[0]) == set(tables[1]) == set(GOOD_VISITS)
    for visit in GOOD_VISITS:
        assert tables[0][visit].equals(tables[1][visit])
    asked = slurm(
        "squeue", "--noheader", "--states=all", f"--name=tololo.{here.run}", "--format=%P %C %m %l %T"
    )
    assert asked == "night 2 2G 20:00 CANCELLED"
    assert waiting_or_running() == ""


@on_a_node
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"partition": "nosuch"}, "Invalid partition"),
        ({"cores_per_node": 4096}, "node configuration is not available"),
        ({"mem_per_node": 10**6}, "node configuration is not available"),
        ({"scheduler_options": "#SBATCH --nosuch"}, "unrecognized option"),
    ],
)
def test_what_slurm_would_refuse_is_refused_before_anything_is_run(
    own_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    says: str,
) -> None:
    before = ButlerHook(own_repository).collections()
    with monkeypatch.context() as patch:
        offer(tmp_path, SETTINGS | settings, patch)
        state = drive(attempt_of(tmp_path, instcal_request(own_repository, NIGHT, site="slurm")))
    facility.cache_clear()
    assert state.phase == "error"
    assert says in state.error["what"]
    assert "sites.slurm" in state.error["where"]
    assert ButlerHook(own_repository).collections() == before
    assert waiting_or_running() == ""


def test_a_slurm_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    run = "20190401/drill/nothing"
    for ask in (lambda: blocks.check([]), lambda: blocks.cancel(run), lambda: blocks.blocks(run)):
        with pytest.raises(UnavailableError, match="Slurm does not answer") as caught:
            ask()
        assert caught.value.remedy
    assert blocks.endings(run, tmp_path) == []


@on_a_node
def test_a_controller_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "nowhere.conf"))
    with pytest.raises(UnavailableError, match=r"Slurm does not answer: .*onfig"):
        blocks.check([])


def test_what_a_block_said_is_known_also_when_slurm_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words are slurmstepd's, as the long test has them from Slurm itself."""
    monkeypatch.setenv("PATH", "")
    scripts = tmp_path / "runinfo" / "000" / "submit_scripts"
    scripts.mkdir(parents=True)
    said = {
        "0": "slurmstepd-n: error: *** JOB 70 ON n CANCELLED AT 2026-11-21T12:27:34 DUE TO TIME LIMIT ***",
        "1": "slurmstepd-n: error: StepId=71.batch exceeded memory limit (3 > 2), being killed",
        "2": "slurmstepd-n: error: Detected 1 oom_kill event in StepId=72.batch.",
        "3": "slurmstepd-n: error: *** JOB 73 ON n CANCELLED AT 2026-11-21T12:36:53 ***",
    }
    for block, text in said.items():
        path = scripts / f"parsl.slurm.block-{block}.1795264592.28.stderr"
        path.write_text(f"Slurm job 7{block} on n\n{text}\n")
    manager = tmp_path / "runinfo" / "000" / "slurm" / "block-1" / "8c7fba7acfcf"
    manager.mkdir(parents=True)
    found = blocks.endings("a/run", tmp_path)
    assert [(lost.job, lost.state) for lost in found] == [
        ("70", "TIMEOUT"),
        ("71", "OUT_OF_MEMORY"),
        ("72", "OUT_OF_MEMORY"),
    ]
    assert [lost.block for lost in found if lost.block == blocks.block_of("8c7fba7acfcf", tmp_path)] == [
        "000/block-1"
    ]
    assert blocks.block_of("nobody", tmp_path) == ""


@on_a_node
def test_a_preempted_block_is_replaced_and_its_quanta_run_again(tmp_path: Path) -> None:
    drill = Drill(tmp_path, 3, "all", sleep={"1": 15}, times={"sleep": 1})
    with driven(drill.attempt) as driver:
        wait_until(lambda: drill.runs()["drillOne", 1])
        urgent = "sbatch --partition=urgent --exclusive --time=1 --output=/dev/null --wrap=true"
        slurm(*urgent.split())
        assert driver.wait(300) == 0
    state = drill.attempt.state
    outcome = RunOutcome(**state.outcome)
    assert (state.phase, outcome.reasons, drill.wrong()) == ("done", [], [])
    assert outcome.total("done") == outcome.total("expected") == 7
    assert drill.runs()["drillOne", 1] == 2
    assert set(drill.runs("ended").values()) == {1}
    assert states(state.run) == ["CANCELLED", "PREEMPTED"]
    (lost,) = blocks.endings(state.run, drill.attempt.folder)
    assert (lost.state, lost.for_memory) == ("PREEMPTED", False)
    assert read_failures(drill.attempt.submit_path) == []


@on_a_node
def test_failures_say_whether_it_was_memory_a_signal_or_the_science(tmp_path: Path) -> None:
    """Detector 1 takes its block down twice; 2 kills itself, 3 raises: these two are not tried again."""
    faults: dict[str, Any] = {"raise": [3], "kill": {"2": signal.SIGSEGV}}
    drill = Drill(tmp_path, 4, "one", memory={"1": 3000}, sleep={"1": 15}, **faults)
    state = drive(drill.attempt)
    assert state.phase == "done"
    assert drill.runs()["drillOne", 1] == 2
    assert set(drill.runs("ended")) == {("drillOne", 4)}
    found = {failure["reason"]: failure for failure in read_failures(drill.attempt.submit_path)}
    by_signal = [f for f in read_failures(drill.attempt.submit_path) if f["signal"]]
    assert len(read_failures(drill.attempt.submit_path)) == 3
    assert found["memory"]["tries"] == 2
    assert "OUT_OF_MEMORY" in found["memory"]["said"]
    assert [failure["signal"] for failure in by_signal] == [signal.SIGSEGV]
    assert [f["exit"] for f in read_failures(drill.attempt.submit_path) if f["exit"]] == [1]
    assert all(len(failure["quanta"]) == 1 for failure in found.values())
    assert {ending.state for ending in blocks.endings(state.run, drill.attempt.folder)} == {"OUT_OF_MEMORY"}
    assert waiting_or_running() == ""


@on_a_node
def test_a_killed_driver_leaves_blocks_that_can_be_cancelled_and_a_run_that_can_be_gone_on_with(
    tmp_path: Path,
) -> None:
    drill = Drill(tmp_path, 3, "all", sleep={"2": 3, "1": 600, "3": 600})
    with driven(drill.attempt) as driver:
        wait_until(lambda: len(drill.runs()) >= 2)
        run, submit = drill.attempt.state.run, str(drill.attempt.submit_path)
        group = slurm("ps", "-o", "pid=", "-s", str(driver.pid)).split()
        assert len(group) > 1
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        # Parsl's interchange goes with it, so that no queued job is handed out any more.
        wait_until(lambda: not any(is_running(int(pid)) for pid in group), 20)
    service = SlurmService({})
    assert service.list_submitted_jobs(submit) == [submit]
    assert blocks.blocks(run)
    assert service.cancel(submit) == (True, "")
    assert (blocks.blocks(run), waiting_or_running()) == ({}, "")
    assert not any(is_running(execution.pid) for execution in executions(drill.journal))
    assert service.cancel(submit) == (False, "it has no block in Slurm")
    assert service.list_submitted_jobs(submit) == []

    ended = drill.runs("ended")
    drill.suffer()
    assert service.restart(submit)[2] == ""
    assert drill.wrong() == []
    assert set(drill.runs("ended").values()) == {1}
    assert all(drill.runs()[quantum] == 1 for quantum in ended)
    assert waiting_or_running() == ""


@on_a_node
def test_a_restart_cancels_what_the_dead_driver_left(tmp_path: Path) -> None:
    drill = Drill(tmp_path, 2, "one", sleep={"*": 600})
    with driven(drill.attempt) as driver:
        wait_until(lambda: len(drill.runs()) == 2)
        submit = str(drill.attempt.submit_path)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    drill.suffer()
    assert SlurmService({}).restart(submit)[2] == ""
    assert (drill.wrong(), waiting_or_running()) == ([], "")
    assert set(drill.runs("ended").values()) == {1}


@pytest.mark.parametrize(
    ("exception", "label", "again"),
    [
        (ManagerLost(b"8c7f", "n1"), "visit", True),
        (WorkerLost(0, "n1"), "visit", True),
        (BashExitFailure("visit", 1), "visit", False),
        (BashExitFailure("visit", 137), "visit", False),
        (ManagerLost(b"8c7f", "n1"), "associateApdb", False),
    ],
)
def test_what_was_lost_is_tried_again_once_but_no_failure_and_nothing_that_writes_an_apdb(
    exception: Exception, label: str, again: bool
) -> None:
    file = INCLUDE / "pipelines" / "bps" / "slurm.yaml"
    config = BpsConfig(str(file), defaults=BPS_DEFAULTS)
    config["computeSite"] = "slurm"
    config[".pipetask.associateApdb.numberOfRetries"] = 0
    cost = SlurmBlocks(config).retry_cost(exception, {"func_name": label})
    assert (cost <= config[".site.slurm.retries"] == 1) is again


@pytest.mark.parametrize(
    ("settings", "block", "worker"),
    [
        ({}, None, 2.0),
        ({"cores_per_node": 3}, 6, 2.0),
        ({"cores_per_node": 3, "mem_per_node": 5}, 5, 2.0),
        ({"cores_per_node": 3, "request_memory": 700}, 3, 700 / 1024),
        ({"mem_per_node": 5, "request_memory": 8192}, 5, 5),
    ],
)
def test_a_block_has_memory_for_the_jobs_that_are_in_it_at_a_time(
    tmp_path: Path, settings: dict[str, int], block: int | None, worker: float
) -> None:
    file = INCLUDE / "pipelines" / "bps" / "slurm.yaml"
    path = tmp_path / "bps.yaml"
    own = {
        "includeConfigs": [str(file)],
        "computeSite": "slurm",
        "operator": "o",
        "payload": {"outputRun": "a/run"},
    }
    path.write_text(yaml.safe_dump(own | bps_config("slurm", settings | {"address": "127.0.0.1"})))
    (executor,) = SlurmBlocks(BpsConfig(str(path), defaults=BPS_DEFAULTS)).get_executors()
    assert (executor.provider.mem_per_node, executor.mem_per_worker) == (block, worker)
    assert "--exclusive" not in executor.provider.scheduler_options
    assert f"--job-name={blocks.job_name('a/run')}\n" in executor.provider.scheduler_options


def test_a_folder_that_is_no_submit_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="not a submit folder"):
        SlurmService({}).restart(str(tmp_path))


@on_a_node
def test_how_blocks_end_is_known_from_slurm(cluster: Path, tmp_path: Path) -> None:
    """Jobs that end in each way, with output where Parsl has it."""
    run, scripts = "20190401/drill/endings", tmp_path / "runinfo" / "000" / "submit_scripts"
    scripts.mkdir(parents=True)
    jobs: dict[str, str] = {}

    def submit(name: str, command: str, *options: str) -> None:
        number = len(jobs)
        script = scripts / f"parsl.slurm.block-{number}.{number}"
        script.write_text(f"#!/bin/bash\n{blocks.ANNOUNCEMENT}\n{command}\n")
        where = [
            f"--error={script}.stderr",
            f"--output={script}.stdout",
            f"--job-name={blocks.job_name(run)}",
        ]
        jobs[name] = slurm("sbatch", "--parsable", "--no-requeue", "--mem=500", *where, *options, str(script))

    def state(name: str) -> str:
        return slurm("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={jobs[name]}")

    greedy = f"{sys.executable} -c 'held = b\"1\" * (2 * 10**9); import time; time.sleep(30)'"
    submit("time", "exec sleep 600", "--time=1")
    submit("memory", greedy)
    submit("command", "no_such_worker_pool")
    submit("good", "true")
    submit("cancelled", "exec sleep 600")
    wait_until(lambda: state("memory") == "FAILED" and state("good") == "COMPLETED")
    wait_until(lambda: state("cancelled") == "RUNNING")
    slurm("scancel", jobs["cancelled"])
    wait_until(lambda: state("time") == "TIMEOUT")
    submit("preempted", "exec sleep 600", "--exclusive")
    wait_until(lambda: state("preempted") == "RUNNING")
    slurm("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true")
    wait_until(lambda: state("preempted") == "PREEMPTED" and not waiting_or_running())
    submit("node", "exec sleep 600")
    wait_until(lambda: state("node") == "RUNNING")
    try:
        os.kill(int((cluster / "slurmd.pid").read_text()), signal.SIGKILL)
        wait_until(lambda: state("node") == "NODE_FAIL")
    finally:
        node("start", cluster)

    found = {ending.job: ending for ending in blocks.endings(run, tmp_path)}
    assert {name: found[job].state for name, job in jobs.items() if job in found} == {
        "time": "TIMEOUT",
        "memory": "OUT_OF_MEMORY",
        "command": "FAILED",
        "preempted": "PREEMPTED",
        "node": "NODE_FAIL",
    }
    assert "no_such_worker_pool: command not found" in str(found[jobs["command"]])
    assert [ending.job for ending in found.values() if ending.for_memory] == [jobs["memory"]]
    assert found[jobs["memory"]].block == "000/block-1"
