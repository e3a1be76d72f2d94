"""What became of quanta that left no word: by the record of their jobs, and by the APDB."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from lsst.daf.butler import Butler
from lsst.dax.apdb.sql import ApdbSql

from tololo.engine.apdb_writers import may_run_again, retry_is_safe
from tololo.engine.graph import read_pipeline
from tololo.engine.judgement import judge
from tololo.engine.provenance import read_outcome
from tololo.facility.run import RunRequest
from tololo.reduction.apdb import open_apdb
from tololo.simulation.drill import FIRST_VISIT, drill_request, make_drill_repository
from tololo.simulation.drill_faults import write_faults

from .in_process import Ran, attempt, execute, quanta_of

INCLUDE = Path(__file__).resolve().parents[2] / "include"
KILLED = 2
LOST = "its process ended without a word (killed?)"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("three") / "repository"
    make_drill_repository(repository, detectors=3)
    return repository


@pytest.fixture(scope="module")
def killed(three: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRequest, Ran]:
    """A run of which one quantum's process was killed, and one raised."""
    folder = tmp_path_factory.mktemp("killed")
    repository = shutil.copytree(three, folder / "repository")
    faults = write_faults(folder / "faults", **{"kill": [KILLED], "raise": [3]})
    request = drill_request(repository, "all", faults)
    return request, execute(request, folder / "runs", fork=True)


def failure(quantum: str, **facts: object) -> dict[str, object]:
    known = {"quanta": [quantum], "label": "drillOne", "exit": None, "signal": None, "memory_mb": 600}
    return known | {"peak_mb": 0, "tries": 1} | facts


@pytest.mark.parametrize(
    ("facts", "reason", "kind"),
    [
        (None, LOST, "failed_retriable"),
        (
            {"reason": "memory", "signal": 9, "peak_mb": 812, "tries": 3},
            "killed for memory: 812 MB of 600 MB allowed, 3 tries",
            "failed_retriable",
        ),
        (
            {"reason": "lost", "signal": 9},
            "its worker was lost (killed by SIGKILL), 1 try",
            "failed_retriable",
        ),
        ({"reason": "lost"}, "its worker was lost, 1 try", "failed_retriable"),
        (
            {"reason": "lost", "signal": 11},
            "its worker was lost (killed by SIGSEGV), 1 try",
            "failed_retriable",
        ),
        ({"reason": "timeout", "signal": 15}, "stopped after its time limit, 1 try", "failed_retriable"),
        ({"reason": "cancelled", "signal": 15}, "cancelled before it had ended, 1 try", "failed_retriable"),
        ({"reason": "exit", "exit": 77}, "ended with exit code 77 without a word, 1 try", "failed_retriable"),
        (
            {"reason": "exit", "exit": 2},
            "its command line was refused (exit code 2), 1 try",
            "failed_permanent",
        ),
        (
            {"reason": "exit", "signal": 99},
            "was killed by signal 99 without a word, 1 try",
            "failed_retriable",
        ),
    ],
)
def test_the_record_of_its_job_says_why_a_quantum_left_no_word(
    killed: tuple[RunRequest, Ran], facts: dict[str, object] | None, reason: str, kind: str
) -> None:
    request, ran = killed
    quantum = quanta_of(ran.graph)["drillOne", KILLED]
    jobs = [failure(quantum, **facts)] if facts else []
    outcome = read_outcome(ran.provenance, ran.run, request.parent, ran.expected, 1.0, service_failures=jobs)
    found = {(q["label"], q["data_id"].get("detector")): q for q in outcome.quanta}
    assert found["drillOne", KILLED]["kind"] == kind
    assert found["drillOne", KILLED]["own"]
    assert found["drillOne", KILLED]["reason"].endswith(reason)
    # An exception that was recorded is what counts, whatever became of the job.
    assert found["drillOne", 3]["kind"] == "failed_permanent"
    assert found["drillOne", 3]["reason"].startswith("ValueError: Drill")
    assert [found["drillTwo", n]["own"] for n in (KILLED, 3)] == [False, False]
    assert {q["kind"] for q in outcome.quanta if q["label"] != "drillOne"} == {"blocked"}
    assert outcome.labels["drillTwo"][kind] == (2 if kind == "failed_permanent" else 1)
    assert outcome.labels["drillGather"][kind] == 1
    assert outcome.runnable == (kind == "failed_permanent")
    assert outcome.memory_failures == (reason.startswith("killed for memory"))


def test_a_job_without_quanta_gives_the_cause_first(killed: tuple[RunRequest, Ran]) -> None:
    request, ran = killed
    jobs = [failure("", quanta=[], label="pipetaskInit", reason="exit", exit=1)]
    with Butler.from_config(request.repository) as butler:
        outcome = judge(request, butler, ran.run, ran.provenance, ran.expected, jobs)
    assert outcome.reasons[0] == "pipetaskInit: its process ended with exit code 1 without a word, 1 try"


def test_memory_that_is_not_to_be_had_is_memory_in_an_exception_too(three: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(three, tmp_path / "repository")
    faults = write_faults(tmp_path / "faults", memory={"2": 10**7}, database=[3])
    outcome = attempt(drill_request(repository, "one", faults), tmp_path / "runs")
    assert (outcome.memory_failures, outcome.labels["drillOne"]["failed_retriable"]) == (1, 2)


def test_notes_say_why_there_was_no_data(
    three: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # as bps sets it
    repository = shutil.copytree(three, tmp_path / "repository")
    faults = write_faults(tmp_path / "faults", no_data=["*"])
    outcome = attempt(drill_request(repository, "one", faults), tmp_path / "runs")
    assert outcome.labels["drillOne"]["no_data"] == 3
    assert sorted(outcome.notes)[0] == f"drillOne: Drill: visit {FIRST_VISIT}, detector 1 has no data"
    assert {(q["kind"], q["own"]) for q in outcome.quanta} == {("no_data", True)}


@pytest.fixture
def apdb_config(tmp_path: Path) -> Path:
    path = tmp_path / "apdb.yaml"
    ApdbSql.init_database(f"sqlite:///{tmp_path}/apdb.db").save(str(path))
    return path


def test_a_killed_writer_runs_again_only_if_the_apdb_holds_nothing(
    three: Path, tmp_path: Path, apdb_config: Path
) -> None:
    repository = shutil.copytree(three, tmp_path / "repository")
    pipeline = tmp_path / "store.yaml"
    pipeline.write_text("description: s\ntasks:\n  store: {class: engine.small_tasks.StoreTask}\n")
    config = {"apdb_config": str(apdb_config), "killed_before": "1", "killed_after": "2"}
    request = drill_request(
        repository, pipeline=str(pipeline), config={f"store:{name}": value for name, value in config.items()}
    )
    first = attempt(request, tmp_path / "runs", fork=True)
    kinds = {q["data_id"]["detector"]: (q["kind"], q["reason"]) for q in first.quanta}
    assert kinds[1] == ("failed_retriable", LOST)
    assert kinds[2][0] == "failed_permanent"
    assert kinds[2][1].startswith(f"{LOST}; it may have written the APDB: ask the APDB what it holds")
    assert 3 not in kinds
    assert open_apdb(apdb_config).containsVisitDetector(FIRST_VISIT, 2)
    # An APDB that cannot be asked may hold anything.
    apdb_config.rename(tmp_path / "elsewhere.yaml")
    with Butler.from_config(request.repository) as butler:
        ran = sorted((tmp_path / "runs").glob("*.provenance.qg"))[0]
        blind = judge(request, butler, first.run, ran, {"store": 3})
    assert {q["kind"] for q in blind.quanta} == {"failed_permanent"}


def test_which_tasks_may_always_run_again(tmp_path: Path) -> None:
    """Ours asks the APDB for each detector of each visit before it stores it."""
    pipeline = f"{INCLUDE}/pipelines/embedded/difference_imaging.yaml"
    tasks = read_pipeline(RunRequest("", pipeline, "n/diff", "s", [])).tasks
    assert set(tasks) == {"differenceDetector", "associateApdb", "forcedPhotDiaObject", "packageAlerts"}
    for task in tasks.values():
        assert retry_is_safe(task)
        assert may_run_again(task, {"instrument": "DECam", "day_obs": 20190401})
    (tmp_path / "store.yaml").write_text(
        "description: s\ntasks:\n  store: {class: engine.small_tasks.StoreTask}\n"
    )
    store = read_pipeline(RunRequest("", str(tmp_path / "store.yaml"), "n/diff", "s", [])).tasks["store"]
    assert not retry_is_safe(store)
    assert not may_run_again(store, {"instrument": "DECam", "day_obs": 20190401})
