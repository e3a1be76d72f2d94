from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lsst.ctrl.bps import (
    BPS_DEFAULTS,
    BpsConfig,
    GenericWorkflow,
    GenericWorkflowExec,
    GenericWorkflowFile,
    GenericWorkflowJob,
    GenericWorkflowNoopJob,
)

from tololo.engine.local.clustering import _one_before
from tololo.engine.local.workflow import FINAL, Job, Workflow
from tololo.facility.errors import BadInputError

FINAL_SCRIPT = """#!/bin/bash

set -e
set -x
qgraphFile=$1
butlerConfig=$2
butler aggregate-graph ${qgraphFile} ${butlerConfig} -j 1 --output /o.qg
mv /a /b
"""


def config(**changes: Any) -> BpsConfig:
    own = {"computeSite": "local", "subDirTemplate": "{label}/{tract}/{visit}"}
    return BpsConfig(own | changes, defaults=BPS_DEFAULTS)


def payload(name: str, arguments: str, executable: str = "pipetask", **changes: Any) -> GenericWorkflowJob:
    job = GenericWorkflowJob(name, changes.pop("label", "one"))
    job.executable = GenericWorkflowExec(executable, executable, False)
    job.arguments = arguments
    for key, value in changes.items():
        setattr(job, key, value)
    return job


def taken(*jobs: GenericWorkflowJob, settings: BpsConfig | None = None, **changes: Any) -> Workflow:
    generic = GenericWorkflow("run")
    for job in jobs:
        generic.add_job(job)
    for attribute, value in changes.items():
        getattr(generic, attribute)(value)
    return Workflow.from_generic(settings or config(), generic, Path("/submit"))


def test_jobs_come_by_data_id_and_parents_first() -> None:
    named = {
        name: payload(name, "run", label=label, tags={"visit": visit, "detector": detector})
        for name, label, visit, detector in (
            ("x", "one", 7, 10),
            ("c", "one", 7, 9),
            ("a", "two", 7, 9),
            ("b", "one", 70, 1),
        )
    }
    assert list(taken(*named.values()).jobs) == ["c", "a", "x", "b"]
    generic = GenericWorkflow("run")
    for job in named.values():
        generic.add_job(job)
    generic.add_job_relationships("x", "c")
    assert list(Workflow.from_generic(config(), generic, Path("/submit")).jobs) == ["a", "x", "c", "b"]


def test_what_it_takes_from_bps() -> None:
    job = payload(
        "a",
        "run-qbb --qgraph-node-id {qgraphNodeId} {rest}",
        cmdvals={"qgraphNodeId": "u-1,u-2", "rest": "-x <ENV:HERE>/y"},
        tags={"visit": 7},
        quanta_counts={"one": 1, "two": 1},
        request_cpus=2,
        request_memory=100,
        request_memory_max=900,
        memory_multiplier=2.0,
        number_of_retries=4,
        retry_unless_exit=[1, 2],
        request_walltime=1.5,
        abort_on_value=9,
        environment={"A": "b", "N": 1},
    )
    taken_over = taken(job, settings=config(site={"local": {"cores": 5}}))
    assert taken_over.cores == 5
    assert taken_over.jobs == {
        "a": Job(
            name="a",
            label="one",
            commands=["pipetask run-qbb --qgraph-node-id u-1,u-2 -x ${HERE}/y"],
            log="/submit/logs/one/7/a",
            quanta=["u-1", "u-2"],
            counts={"one": 1, "two": 1},
            cpus=2,
            memory=100,
            memory_max=900,
            multiplier=2.0,
            retries=4,
            no_retry=[1, 2],
            walltime=90.0,
            abort_on=9,
            environment={"A": "b", "N": "1"},
        )
    }


def test_what_bps_leaves_out_is_no_limit() -> None:
    job = taken(payload("a", "run-qbb")).jobs["a"]
    assert (job.cpus, job.memory, job.multiplier, job.retries, job.no_retry) == (1, 0, 1.0, 0, [])
    assert (job.walltime, job.abort_on, job.environment, job.quanta) == (0.0, None, {}, [])
    # But for the memory: there bps has one for every site, which a site or a task can lower.
    assert job.memory_max == 491520
    lower = config(site={"local": {"memoryLimit": 1000}})
    assert taken(payload("a", ""), settings=lower).jobs["a"].memory_max == 1000
    assert taken(payload("a", "", retry_unless_exit=3)).jobs["a"].no_retry == [3]


def test_files_are_named_by_where_they_are() -> None:
    job = payload("a", "run {inner} <FILE:other> {kept}", cmdvals={"inner": "<FILE:graph>", "kept": "{kept}"})
    generic = GenericWorkflow("run")
    generic.add_job(job)
    generic.add_file(GenericWorkflowFile("other", "/there/other.yaml"))
    generic.add_job_inputs("a", [GenericWorkflowFile("graph", "/there/graph.qg")])
    made = Workflow.from_generic(config(), generic, Path("/submit"))
    assert made.jobs["a"].commands == ["pipetask run /there/graph.qg /there/other.yaml {kept}"]


def test_parents_come_first_and_nodes_that_only_order_others_are_kept() -> None:
    generic = GenericWorkflow("run")
    for name in ("c", "b", "a"):
        generic.add_job(payload(name, "x"))
    generic.add_job(GenericWorkflowNoopJob("between", "order"))
    generic.add_job_relationships(["a", "b"], "between")
    generic.add_job_relationships("between", "c")
    generic.add_final(payload("lastJob", "x", label="finalJob"))
    made = Workflow.from_generic(config(), generic, Path("/submit"))
    names = list(made.jobs)
    assert names[-1] == FINAL
    assert sorted(names[:2]) == ["a", "b"]
    assert names[2:4] == ["between", "c"]
    assert (made.jobs["between"].parents, made.jobs["between"].commands) == (["a", "b"], [])
    assert (made.jobs["c"].parents, made.jobs[FINAL].parents) == (["between"], [])
    assert (made.jobs[FINAL].name, made.jobs[FINAL].label) == (FINAL, "finalJob")


def test_the_script_of_the_final_job_is_taken_apart(tmp_path: Path) -> None:
    script = tmp_path / "final_job.bash"
    script.write_text(FINAL_SCRIPT)
    job = payload("last", "/g.qg /repository", executable=str(script))
    assert taken(job).jobs["last"].commands == [
        "butler aggregate-graph /g.qg /repository -j 1 --output /o.qg",
        "mv /a /b",
    ]
    # One that is not as bps writes it is left to the shell.
    script.write_text(FINAL_SCRIPT.replace("set -x", "cd /elsewhere"))
    assert taken(job).jobs["last"].commands == [f"{script} /g.qg /repository"]


def test_groups_of_jobs_are_refused(tmp_path: Path) -> None:
    generic = GenericWorkflow("run")
    inner = GenericWorkflow("inner")
    inner.add_job(payload("a", "x"))
    generic.add_final(inner)
    with pytest.raises(BadInputError, match="'inner' is a workflow") as caught:
        Workflow.from_generic(config(), generic, tmp_path)
    assert "finalJob.implementation" in caught.value.where


def test_written_and_read(tmp_path: Path) -> None:
    job = Job("a", "one", ["x"], "log", ["b"], ["u"], {"one": 1}, 1, 2, 3, 4.0, 5, [6], 7.0, 8, {"k": "v"})
    workflow = Workflow("run", {"b": Job("b", "two", [], ""), "a": job}, 3, {"operator": "me"})
    workflow.write(tmp_path)
    assert Workflow.read(tmp_path) == workflow
    assert list(Workflow.read(tmp_path).jobs) == ["b", "a"]
    assert [path.name for path in tmp_path.iterdir()] == ["workflow.json"]


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", '{"jobs": 3}', '{"name": "x", "jobs": {"a": {"no": 1}}}']
)
def test_a_folder_without_a_run_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "workflow.json").write_text(content)
    with pytest.raises(BadInputError) as caught:
        Workflow.read(tmp_path)
    assert caught.value.where == str(tmp_path)
    assert "There is no run of the local service" in caught.value.what


def test_which_quantum_joins_the_job_of_another() -> None:
    from networkx import DiGraph

    graph = DiGraph(
        [("one1", "two1"), ("two1", "sum"), ("one2", "two2"), ("two2", "sum"), ("one2", "other2")]
    )
    graph.add_edges_from([("two1", "plot1")])
    for name in graph.nodes:
        graph.nodes[name]["data_id"] = name[-1]
    joins = {name: _one_before(graph, name) for name in graph.nodes}
    assert joins == {
        "one1": None,
        "two1": "one1",
        # Of other data.
        "sum": None,
        "one2": None,
        # What else waits for one2 need not wait for two2.
        "two2": None,
        "other2": None,
        "plot1": None,
    }
