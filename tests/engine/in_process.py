"""Attempts on a drill's repository in this very process, or a fork of it: bps is not what is tested here."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lsst.ctrl.mpexec.cli.script import pre_exec_init_qbb, run_qbb
from lsst.daf.butler import Butler
from lsst.pipe.base import TaskFactory
from lsst.pipe.base.mp_graph_executor import MPGraphExecutorError
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph
from lsst.pipe.base.quantum_graph.aggregator import AggregatorConfig, aggregate_graph

from tololo.engine.graph import build_graph
from tololo.engine.judgement import judge
from tololo.engine.outcomes import write_outcome
from tololo.facility import collections
from tololo.facility.run import RunOutcome, RunRequest

FIRST = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class Ran:
    """One attempt: its RUN, its graph and provenance, and what was expected of it."""

    run: str
    graph: Path
    provenance: Path
    expected: dict[str, int]


def execute(request: RunRequest, folder: Path, fork: bool = False) -> Ran:
    """Build, run and aggregate an attempt; with ``fork``, each quantum in a process that faults may kill."""
    folder.mkdir(exist_ok=True)
    number = len(list(folder.glob("*.graph.qg"))) + 1
    run = collections.run(
        request.parent, request.pipeline_name, request.step, FIRST + timedelta(minutes=number)
    )
    ran = Ran(run, folder / f"{number}.graph.qg", folder / f"{number}.provenance.qg", {})
    with Butler.from_config(request.repository, writeable=True) as butler:
        ran.expected = build_graph(request, butler, run, ran.graph)
    if not ran.expected:
        ran.graph.touch()
        return ran
    pre_exec_init_qbb(request.repository, str(ran.graph), qgraph_id=None, config_search_path=None)
    if fork:
        run_forked(request, ran.graph)
    else:
        run_quanta(request.repository, ran.graph)
    config = AggregatorConfig(
        output_path=str(ran.provenance), update_output_chain=False, worker_sleep=0.001, zstd_dict_size=0
    )
    aggregate_graph(str(ran.graph), request.repository, config)
    return ran


def attempt(
    request: RunRequest, folder: Path, fork: bool = False, failures: Iterable[dict[str, Any]] = ()
) -> RunOutcome:
    """Execute an attempt, judge it and record the outcome, as the driver does, with its level of the log."""
    logging.getLogger().setLevel(logging.INFO)
    ran = execute(request, folder, fork)
    with Butler.from_config(request.repository, writeable=True) as butler:
        provenance = ran.provenance if ran.expected else None
        outcome = judge(request, butler, ran.run, provenance, ran.expected, failures, graph=ran.graph)
        if ran.expected:
            write_outcome(butler, outcome)
    return outcome


def run_quanta(repository: str, graph: Path, quanta: Iterable[str] | None = None) -> bool:
    """Run quanta of a graph; returns whether all of them are good."""
    try:
        run_qbb(
            task_factory=TaskFactory(),
            butler_config=repository,
            qgraph=str(graph),
            config_search_path=None,
            qgraph_id=None,
            qgraph_node_id=list(quanta) if quanta is not None else None,
            processes=1,
            pdb=None,
            profile=None,
            debug=False,
            start_method=None,
            timeout=None,
            fail_fast=False,
            summary=None,
            enable_implicit_threading=False,
            cores_per_quantum=1,
            memory_per_quantum="",
            raise_on_partial_outputs=False,
            no_existing_outputs=True,
        )
    except MPGraphExecutorError:
        return False
    return True


def quanta_of(graph: Path) -> dict[tuple[str, int], str]:
    """Ids of a graph's quanta by label and detector (-1 where there is none)."""
    with PredictedQuantumGraph.open(str(graph)) as reader:
        reader.read_thin_graph()
        found = reader.finish().quanta_by_task
    return {
        (label, int(data_id.get("detector", -1))): str(quantum)
        for label, quanta in found.items()
        for data_id, quantum in quanta.items()
    }


def run_forked(request: RunRequest, graph: Path) -> None:
    """Run each quantum in a fork, but for those that need one that was not good."""
    with PredictedQuantumGraph.open(str(graph)) as reader:
        reader.read_thin_graph()
        order = reader.finish().quantum_only_xgraph
    bad: set[Any] = set()
    for label in reader.pipeline_graph.tasks:
        for quantum in [node for node in order if order.nodes[node]["task_label"] == label]:
            if not bad.isdisjoint(order.predecessors(quantum)):
                bad.add(quantum)
                continue
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = 0 if run_quanta(request.repository, graph, [str(quantum)]) else 1
                finally:
                    os._exit(code)
            if os.waitpid(pid, 0)[1] != 0:
                bad.add(quantum)
