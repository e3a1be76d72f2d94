"""What goes to HTCondor: ctrl_bps_htcondor's DAG and submit files, read by HTCondor's own parsers."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from lsst.ctrl.bps.drivers import prepare_driver
from lsst.daf.butler import Butler
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

from conftest import NIGHT, instcal_request
from tololo.engine import submission
from tololo.engine.client import job_environment
from tololo.engine.graph import build_graph
from tololo.engine.submission import Submission
from tololo.facility.configuration import INCLUDE, facility
from tololo.facility.run import RunRequest
from tololo.simulation.drill import drill_request, make_drill_repository

classad2 = pytest.importorskip("classad2")
htcondor2 = pytest.importorskip("htcondor2")

SETTINGS = {
    "accounting_group": "decam",
    "commands": {"requirements": 'Machine == "n1"', "+Night": NIGHT},
    "retries": 2,
    "memory_limit": 20000,
}
FIRST, FINAL = "pipetaskInit", "finalJob"


@dataclass
class Dag:
    """A prepared workflow: jobs, the arcs between them, and their submit files."""

    folder: Path
    quanta: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Ids of the quanta of the graph by task label."""
    files: dict[str, Path] = field(default_factory=dict)
    arcs: set[tuple[str, str]] = field(default_factory=set)
    final: str = ""

    def of(self, name: str) -> dict[str, str]:
        """The submit file of a job, as HTCondor reads it."""
        return dict(htcondor2.Submit(self.files[name].read_text()))

    def quanta_of(self, name: str) -> set[str]:
        words = shlex.split(self.of(name)["arguments"].strip('"'))
        return set(words[words.index("--qgraph-node-id") + 1].split(","))

    @property
    def payload(self) -> list[str]:
        return [name for name in self.files if name not in (FIRST, FINAL)]

    def labels(self, name: str) -> set[str]:
        return {label for label, quanta in self.quanta.items() if quanta & self.quanta_of(name)}


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module", autouse=True)
def configured(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A facility that offers HTCondor, and a process with the environment of a driver."""
    content = yaml.safe_load((INCLUDE / "configs" / "facility.yaml").read_text())
    path = tmp_path_factory.mktemp("htcondor") / "facility.yaml"
    path.write_text(yaml.safe_dump(content | {"sites": {"htcondor": SETTINGS}}))
    patch.setenv("TOLOLO_FACILITY", str(path))
    patch.setenv("PATH", job_environment()["PATH"])
    patch.setattr(submission, "submit_driver", prepare_driver)
    facility.cache_clear()
    yield
    facility.cache_clear()


def prepare(request: RunRequest, folder: Path) -> Dag:
    """Do all that a driver does for HTCondor up to where a pool is needed."""
    run, graph = f"{request.parent}/r/{request.step}/20260101T000000Z", folder / "graph.qg"
    with Butler.from_config(request.repository) as butler:
        build_graph(request, butler, run, graph)
    with contextlib.chdir(folder):
        Submission(request, folder / "submit").make(run, graph)
    dag = Dag(folder / "submit")
    with PredictedQuantumGraph.open(str(graph)) as reader:
        reader.read_thin_graph()
        for label, quanta in reader.finish().quanta_by_task.items():
            dag.quanta[label] = {str(quantum) for quantum in quanta.values()}
    (path,) = dag.folder.glob("*.dag")
    for line in path.read_text().splitlines():
        match shlex.split(line):
            case ["JOB" | "FINAL" as kind, name, file, "DIR", place]:
                dag.files[name] = dag.folder / place / file
                dag.final = name if kind == "FINAL" else dag.final
            case ["PARENT", *names]:
                cut = names.index("CHILD")
                dag.arcs |= {(parent, child) for parent in names[:cut] for child in names[cut + 1 :]}
    return dag


@pytest.fixture(scope="module")
def night(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Dag:
    """The step instcal of three visits of one detector."""
    return prepare(instcal_request(ingested, NIGHT, site="htcondor"), tmp_path_factory.mktemp("night"))


def test_every_quantum_has_its_job_and_waits_for_those_that_it_needs(night: Dag) -> None:
    assert {label: len(quanta) for label, quanta in night.quanta.items()} == {
        "calibrateInstcal": 3,
        "summarizeVisit": 3,
    }
    in_jobs = [quantum for name in night.payload for quantum in night.quanta_of(name)]
    assert sorted(in_jobs) == sorted(set().union(*night.quanta.values()))
    calibrate = [name for name in night.payload if night.labels(name) == {"calibrateInstcal"}]
    summarize = [name for name in night.payload if night.labels(name) == {"summarizeVisit"}]

    def visit(name: str) -> str:
        return str(re.findall(r"_(8\d{5})_", name)[0])

    after_first = {(FIRST, name) for name in calibrate}
    assert night.arcs == after_first | {
        (one, other) for one in calibrate for other in summarize if visit(one) == visit(other)
    }
    assert night.final == FINAL
    assert all(path.is_file() for path in night.files.values())


def test_jobs_run_our_graph_with_our_commands(night: Dag, ingested: Path) -> None:
    graph = night.folder / "graph.qg"
    assert graph.is_file()
    for name in night.payload:
        job = night.of(name)
        assert Path(job["executable"]).name == "pipetask"
        assert Path(job["executable"]).is_absolute()
        assert f"run-qbb {ingested} {graph} --qgraph-node-id" in job["arguments"]
    assert f"pre-exec-init-qbb {ingested} {graph}" in night.of(FIRST)["arguments"]


def test_the_final_job_asks_for_one_core_and_writes_no_chain(night: Dag, ingested: Path) -> None:
    final = night.of(FINAL)
    assert (final["request_cpus"], final["retry_until"]) == ("1", "2")
    assert "2048" in final["request_memory"]
    script = Path(final["executable"]).read_text()
    assert "aggregate-graph" in script
    assert f"{night.folder}/provenance.qg" in script
    assert "chain" not in script
    assert final["arguments"].strip('"').split() == [str(night.folder / "graph.qg"), str(ingested)]


def test_a_job_is_tried_again_unless_the_science_failed(night: Dag) -> None:
    for name in [FIRST, *night.payload]:
        job = night.of(name)
        assert (job["max_retries"], job["request_cpus"]) == ("2", "1")
        stop = classad2.ExprTree(job["retry_until"])
        codes = {code: bool(stop.eval(classad2.ClassAd({"ExitCode": code}))) for code in (1, 2, 3, 127)}
        assert codes == {1: True, 2: True, 3: False, 127: False}


HELD = {"LastJobStatus": 5, "LastHoldReasonCode": 3, "LastHoldReasonSubCode": 34}


@pytest.mark.parametrize(
    ("job", "memory"),
    [
        ({"NumJobStarts": 0}, 2048),
        ({"NumJobStarts": 1, "MemoryUsage": 3000}, 3000),
        ({"NumJobStarts": 1, **HELD}, 4096),
        ({"NumJobStarts": 2, **HELD}, 8192),
        ({"NumJobStarts": 2, **HELD, "LastHoldReasonCode": 34, "LastHoldReasonSubCode": 0}, 8192),
        ({"NumJobStarts": 9, **HELD}, 20000),
        ({"NumJobStarts": 2, **HELD, "LastHoldReasonCode": 12}, 2048),
    ],
)
def test_memory_grows_where_it_was_too_little_up_to_the_limit(
    night: Dag, job: dict[str, int], memory: int
) -> None:
    for name in night.payload:
        expression = classad2.ExprTree(night.of(name)["request_memory"])
        assert expression.eval(classad2.ClassAd(job)) == memory


@pytest.mark.parametrize(
    ("ended", "held"),
    [
        ({"ExitBySignal": False, "ExitCode": 0}, False),
        ({"ExitBySignal": False, "ExitCode": 1}, False),
        ({"ExitBySignal": False, "ExitCode": 137}, True),
        ({"ExitBySignal": True, "ExitSignal": 9}, True),
    ],
)
def test_a_killed_job_is_held_for_memory(night: Dag, ended: dict[str, int], held: bool) -> None:
    for name in night.payload:
        job = night.of(name)
        assert bool(classad2.ExprTree(job["on_exit_hold"]).eval(classad2.ClassAd(ended))) is held
        assert job["on_exit_hold_subcode"] == "34"


def test_the_settings_of_the_facility_are_in_every_job(night: Dag) -> None:
    for name in night.files:
        job = night.of(name)
        assert job["accounting_group"] == "decam"
        assert job["requirements"] == 'Machine == "n1"'
        assert f"+Night = {NIGHT}" in night.files[name].read_text()
    assert 'bps_runsite= "htcondor"' in next(night.folder.glob("*.dag")).read_text()


def test_an_attempt_after_a_memory_failure_begins_with_more(ingested: Path, tmp_path: Path) -> None:
    dag = prepare(instcal_request(ingested, NIGHT, site="htcondor", memory_factor=2.0), tmp_path)
    expression = classad2.ExprTree(dag.of(dag.payload[0])["request_memory"])
    assert expression.eval(classad2.ClassAd({"NumJobStarts": 0})) == 4096


def test_eight_detectors_of_a_visit_share_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clusters of the real pipelines, on quanta that cost nothing to make."""
    clusters = yaml.safe_load((INCLUDE / "pipelines" / "bps" / "clusters" / "batch.yaml").read_text())
    assert {"calibrateInstcal", "makeDirectWarp", "differenceDetector", "forcedPhotDiaObject"} == {
        cluster["pipetasks"] for cluster in clusters["cluster"].values()
    }
    own = tmp_path / "include"
    shutil.copytree(INCLUDE / "pipelines" / "bps", own / "pipelines" / "bps")
    batch = own / "pipelines" / "bps" / "clusters" / "batch.yaml"
    batch.write_text(batch.read_text().replace("calibrateInstcal", "drillOne"))
    monkeypatch.setattr(submission, "INCLUDE", own)
    make_drill_repository(tmp_path / "repository", detectors=10, visits=2)
    request = drill_request(tmp_path / "repository", "all", site="htcondor")
    dag = prepare(request, tmp_path)
    sizes = sorted(len(dag.quanta_of(name)) for name in dag.payload if dag.labels(name) == {"drillOne"})
    assert sizes == [2, 2, 8, 8]
    assert all(len(dag.quanta_of(name)) == 1 for name in dag.payload if "drillOne" not in dag.labels(name))
    needs = defaultdict(set)
    for parent, child in dag.arcs:
        needs[child].add(parent)
    for name in dag.payload:
        kinds = {label for parent in needs[name] if parent != FIRST for label in dag.labels(parent)}
        assert (
            kinds
            == {"drillOne": set(), "drillTwo": {"drillOne"}, "drillGather": {"drillTwo"}}[
                next(iter(dag.labels(name)))
            ]
        )
