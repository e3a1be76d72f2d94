"""The drill's numbers are what its truth says, and each fault does what it says, to whom it says."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from lsst.ctrl.mpexec.cli.pipetask import cli
from lsst.daf.butler import Butler
from lsst.pipe.base import NoWorkFound, Pipeline
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor
from sqlalchemy.exc import OperationalError

from tololo.engine.attempt import Attempt
from tololo.engine.driver import drive
from tololo.facility.errors import BadInputError
from tololo.facility.run import RunOutcome
from tololo.simulation.drill import (
    FIRST_VISIT,
    INPUTS,
    PARENT,
    detector_ids,
    drill_request,
    made,
    make_drill_repository,
    truth,
    wrong_numbers,
)
from tololo.simulation.drill_faults import executions, note, suffer, write_faults

VISIT = FIRST_VISIT


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("drill") / "repository"
    make_drill_repository(repository, detectors=3, visits=2)
    return repository


@pytest.fixture
def repository(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "repository"))


def execute(repository: Path, subset: str, **files: Path) -> str:
    """Run the drill in this process and return the RUN."""
    request = drill_request(repository, subset, **files)
    pipeline = Pipeline.from_uri(request.pipeline)
    for key, value in request.config.items():
        label, _, name = key.partition(":")
        pipeline.addConfigOverride(label, name, value)
    run = f"{PARENT}/here"
    with Butler.from_config(str(repository), writeable=True, collections=[INPUTS], run=run) as butler:
        executor = SimplePipelineExecutor.from_pipeline(pipeline, where=request.where, butler=butler)
        executor.run(register_dataset_types=True)
    return run


def test_the_truth_is_what_the_pipeline_promises(pristine: Path) -> None:
    numbers = truth(pristine)
    assert len(numbers) == 14
    assert numbers["drillOne", VISIT, 3] == 4
    assert numbers["drillTwo", VISIT, 3] == 8
    assert numbers["drillGather", VISIT, -1] == 2 * (2 + 3 + 4)
    assert numbers["drillGather", VISIT + 1, -1] == 2 * (1002 + 1003 + 1004)
    assert {label for label, *_ in truth(pristine, "one")} == {"drillOne"}


def test_every_quantum_once_and_every_number_right(repository: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    assert len(wrong_numbers(repository)) == 14
    run = execute(repository, "all", journal=journal)
    assert wrong_numbers(repository, "all", run) == []
    began = Counter((e.label, e.visit, e.detector) for e in executions(journal))
    assert began == dict.fromkeys(truth(repository), 1)
    assert len(executions(journal, "ended")) == 14
    assert {e.pid for e in executions(journal)} == {os.getpid()}


def test_missing_doubled_and_wrong_numbers_are_told(repository: Path) -> None:
    run = execute(repository, "one")
    assert wrong_numbers(repository, "one", run) == []
    key = {"instrument": "DECam", "visit": VISIT, "detector": 2}
    with Butler.from_config(str(repository), writeable=True) as butler:
        butler.collections.register(f"{PARENT}/again")
        butler.put({"number": 7}, "drill_one", key, run=f"{PARENT}/again")
        ref = butler.find_dataset("drill_one", key | {"detector": 1}, collections=run)
        assert ref is not None
        butler.pruneDatasets([ref], purge=True, unstore=True, disassociate=True)
    missing, doubled = wrong_numbers(repository, "one", f"{PARENT}/*")
    assert missing == f"drillOne of visit {VISIT}, detector 1: expected 2, found nothing"
    assert doubled.startswith(f"drillOne of visit {VISIT}, detector 2: expected 3, found [")
    assert sorted(made(repository, f"{PARENT}/*")["drillOne", VISIT, 2]) == [3, 7]


def test_pipetask_runs_it(repository: Path) -> None:
    request = drill_request(repository, "detectors")
    run = f"{PARENT}/pipetask"
    command = (
        f"run -b {repository} -p {request.pipeline} -i {INPUTS} --output-run {run} --register-dataset-types"
    )
    answer = CliRunner().invoke(cli, [*command.split(), "-d", f"{request.where} AND detector IN (1, 3)"])
    assert answer.exit_code == 0, answer.output
    assert {key for key in made(repository, run)} == {
        (label, visit, detector)
        for label in ("drillOne", "drillTwo")
        for visit in (VISIT, VISIT + 1)
        for detector in (1, 3)
    }


@pytest.mark.long
def test_faults_are_judged_for_what_they_are(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One detector raises, one has no data, the database leaves one, one is killed; the next try mends it."""
    monkeypatch.chdir(tmp_path)  # back from where the driver goes
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    journal, faults = tmp_path / "journal", tmp_path / "faults"
    write_faults(faults, **{"raise": [f"{VISIT}/1"]}, no_data=[2], database=[f"{VISIT + 1}/1"], kill=[3])
    request = drill_request(repository, "one", faults, journal, site="parsl")
    attempt = Attempt(tmp_path / "attempts" / "1")
    attempt.create(request)
    outcome = RunOutcome(**drive(attempt).outcome)
    counts = {"expected": 6, "done": 0, "failed_permanent": 1, "failed_retriable": 3, "no_data": 2}
    assert outcome.labels == {"drillOne": counts}
    assert "ValueError: Drill: the number of visit 900001, detector 1 is wrong" in "".join(outcome.reasons)
    assert "server closed the connection" in "".join(outcome.reasons)
    assert len(executions(journal)) == 6
    assert executions(journal, "ended") == []
    write_faults(faults)
    again = Attempt(tmp_path / "attempts" / "2")
    again.create(request)
    drive(again)
    ended = {(e.visit, e.detector) for e in executions(journal, "ended")}
    assert ended >= {(VISIT + 1, 1), (VISIT, 3), (VISIT + 1, 3)}


def in_child(faults: Path, journal: Path | None, megabytes: int) -> None:
    if megabytes:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20,) * 2)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever an earlier test's process made of it
    try:
        suffer(faults, journal, "drillOne", VISIT, 3)
    except MemoryError:
        os._exit(42)
    os._exit(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 300 * 2**10)


def child_exit(faults: Path, journal: Path | None = None, megabytes: int = 0) -> int | None:
    """Suffer in a fresh process; return its exit code, 1 for one that used more than 300 MB."""
    process = multiprocessing.get_context("fork").Process(target=in_child, args=(faults, journal, megabytes))
    process.start()
    process.join(60)
    return process.exitcode


def test_a_killed_quantum_dies_of_the_signal(tmp_path: Path) -> None:
    faults = write_faults(tmp_path / "faults", kill=[3])
    assert child_exit(faults) == -signal.SIGKILL
    assert child_exit(write_faults(faults, kill={"3": 15})) == -signal.SIGTERM
    assert child_exit(write_faults(faults, kill=[4])) is not None
    assert child_exit(faults) != -signal.SIGKILL


def test_memory_is_touched_and_its_limit_is_felt(tmp_path: Path) -> None:
    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss

    faults = write_faults(tmp_path / "faults")
    child_exit(faults)
    before = peak()
    write_faults(faults, memory={"3": before // 2**10 + 200})
    assert child_exit(faults) == 1
    assert peak() > before + 190 * 2**10
    assert child_exit(write_faults(faults, memory={"3": 60000}), megabytes=50000) == 42


def struck(faults: Path, visit: int, detector: int, journal: Path | None = None) -> str:
    try:
        suffer(faults, journal, "drillOne", visit, detector)
    except (ValueError, NoWorkFound, OperationalError) as error:
        return type(error).__name__
    return ""


@pytest.mark.parametrize(
    ("selection", "selected"),
    [
        ([3], [(1, 3), (2, 3)]),
        (["3", 2], [(1, 2), (1, 3), (2, 2), (2, 3)]),
        (["*"], [(1, 2), (1, 3), (2, 2), (2, 3)]),
        ([str(FIRST_VISIT + 1)], [(2, 2), (2, 3)]),
        ([f"{FIRST_VISIT}/2"], [(1, 2)]),
        ([], []),
    ],
)
def test_whom_a_fault_strikes(tmp_path: Path, selection: list[Any], selected: list[tuple[int, int]]) -> None:
    faults = write_faults(tmp_path / "faults", no_data=selection)
    quanta = [(visit, detector) for visit in (1, 2) for detector in (2, 3)]
    found = [quantum for quantum in quanta if struck(faults, FIRST_VISIT + quantum[0] - 1, quantum[1])]
    assert found == selected


def test_each_kind_raises_what_it_says_and_sleep_comes_first(tmp_path: Path) -> None:
    faults = write_faults(
        tmp_path / "faults", sleep={"2": 0.3}, no_data=[1], database=[2], **{"raise": ["2", "3"]}
    )
    began = time.monotonic()
    assert struck(faults, VISIT, 2) == "OperationalError"
    assert time.monotonic() - began >= 0.3
    assert struck(faults, VISIT, 1) == "NoWorkFound"
    assert struck(faults, VISIT, 3) == "ValueError"
    assert struck(faults, VISIT, 4) == ""


def test_only_the_first_executions_suffer(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    faults = write_faults(tmp_path / "faults", **{"raise": ["*"]}, times={"raise": 2})
    found = []
    for _ in range(3):
        note(journal, "began", "drillOne", VISIT, 3)
        note(journal, "began", "drillTwo", VISIT, 3)
        found.append(struck(faults, VISIT, 3, journal))
    assert found == ["ValueError", "ValueError", ""]


def test_wrong_faults_are_refused(tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    with pytest.raises(BadInputError, match="Unknown faults explode"):
        write_faults(faults, explode=[3])
    assert not faults.exists()
    with pytest.raises(BadInputError, match="cannot be read"):
        struck(faults, VISIT, 3)
    faults.write_text("{")
    with pytest.raises(BadInputError, match="cannot be read"):
        struck(faults, VISIT, 3)
    with pytest.raises(BadInputError, match="needs a journal"):
        struck(write_faults(faults, kill=[3], times={"kill": 1}), VISIT, 3)


def test_there_are_62_detectors() -> None:
    assert len(detector_ids(62)) == len(set(detector_ids(62))) == 62
    for count in (0, 63):
        with pytest.raises(ValueError, match="62 science detectors"):
            detector_ids(count)


def test_a_journal_keeps_every_line_of_many_writers(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_lines, args=(journal, detector)) for detector in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert Counter(e.detector for e in executions(journal)) == dict.fromkeys(range(4), 200)


def write_lines(journal: Path, detector: int) -> None:
    for _ in range(200):
        note(journal, "began", "drillOne", VISIT, detector)


@pytest.mark.services
def test_the_registry_can_be_postgres(tmp_path: Path, registry_url: str) -> None:
    repository = tmp_path / "repository"
    make_drill_repository(repository, detectors=2, registry=registry_url, namespace="drill")
    run = execute(repository, "all")
    assert wrong_numbers(repository, "all", run) == []
    assert not list(repository.glob("*.sqlite3"))
