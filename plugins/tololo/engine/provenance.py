"""What became of each quantum of a run, read from the provenance that bps's final job wrote."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from lsst.pipe.base import QuantumAttemptStatus, QuantumSuccessCaveats
from lsst.pipe.base.pipeline_graph import TaskImportMode
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph, ProvenanceQuantumGraphReader

from tololo.engine.apdb_writers import REMEDY, may_run_again
from tololo.engine.outcomes import DataId, as_record, describe
from tololo.facility.failures import BY_NAME, Rule, classify
from tololo.facility.run import RunOutcome, empty_labels

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DataCoordinate
    from lsst.pipe.base.pipeline_graph import TaskNode
    from lsst.pipe.base.quantum_graph import ProvenanceQuantumGraph

MOST_NOTES = 20
"""Quanta without data of which the reason is looked up."""

MOST_LETTERS = 500
"""Length of an exception's message in a reason."""

NOT_RUN = "not run, because"
BLOCKED = f"{NOT_RUN} what it needs failed"
RUNNABLE = f"{NOT_RUN} some of what it needs failed; another attempt runs it on what there is"

_NO_WORK = "exited early with no work found: "


def read_outcome(
    path: Path | None,
    run: str,
    chain: str,
    expected: dict[str, int],
    seconds: float,
    butler: Butler | None = None,
    service_failures: Iterable[Mapping[str, Any]] = (),
    graph: Path | None = None,
) -> RunOutcome:
    """Judge the quanta of a run by its provenance graph, never by an exit code.

    Parameters
    ----------
    path : `pathlib.Path` or `None`
        The provenance graph that ``butler aggregate-graph`` wrote; where there is none, no quantum is done.
    run, chain : `str`
        The run and the chain that it belongs to.
    expected : `dict` [`str`, `int`]
        Quanta expected for each label.
    seconds : `float`
        Wall time of the attempt.
    butler : `lsst.daf.butler.Butler`, optional
        The repository; the logs of quanta without data say why.
    service_failures : iterable of `dict`, optional
        What the compute site recorded of jobs that failed: ``quanta`` (their ids), ``label``, ``exit``,
        ``signal``, ``reason`` (``memory``, ``lost``, ``timeout``, ``exit``, ``cancelled``), ``memory_mb``,
        ``peak_mb``, ``tries``.
    graph : `pathlib.Path`, optional
        The graph that was run; names the quanta where there is no provenance.

    Returns
    -------
    outcome : `RunOutcome`
        Counts by label and a reason for each failed quantum. A quantum that left neither log nor metadata
        failed for a passing reason, unless it writes an APDB and may have done so.
    """
    outcome = RunOutcome(run, chain, seconds, empty_labels(expected))
    failures = list(service_failures)
    if path is None or not path.exists():
        _judge_without_provenance(outcome, failures, graph)
        return outcome
    mode = TaskImportMode.ASSUME_CONSISTENT_EDGES
    with ProvenanceQuantumGraphReader.open(str(path), import_mode=mode) as reader:
        reader.read_full_graph()
        provenance = reader.graph
    by_quantum = {uuid.UUID(quantum): failure for failure in failures for quantum in failure["quanta"]}
    outcome.reasons += [f"{f['label']}: {_verdict(f)[1]}" for f in failures if not f["quanta"]]
    _Judge(provenance, by_quantum, outcome, butler).judge()
    sort_reasons(outcome)
    return outcome


def sort_reasons(outcome: RunOutcome) -> None:
    """Put causes before consequences: a message shows the first few."""
    outcome.reasons.sort(key=lambda reason: f": {NOT_RUN} " in reason)


def read_data_ids(graph: Path | None, provenance: Path | None = None) -> dict[str, list[DataId]] | None:
    """Return the data IDs (required values) of the quanta of a run by task label.

    Parameters
    ----------
    graph : `pathlib.Path` or `None`
        The graph that was run, if it is there.
    provenance : `pathlib.Path` or `None`, optional
        Its provenance graph, which is read otherwise.

    Returns
    -------
    data_ids : `dict` [`str`, `list` [`dict`]] or `None`
        `None` if neither is there.
    """
    if graph is not None and graph.exists():
        with PredictedQuantumGraph.open(str(graph), import_mode=TaskImportMode.DO_NOT_IMPORT) as predicted:
            predicted.read_thin_graph()
            quanta = predicted.finish().quanta_by_task
    elif provenance is not None and provenance.exists():
        with ProvenanceQuantumGraphReader.open(str(provenance)) as reader:
            reader.read_quanta()
            quanta = reader.graph.quanta_by_task
    else:
        return None
    return {label: [dict(data_id.required) for data_id in found] for label, found in quanta.items() if found}


def _judge_without_provenance(
    outcome: RunOutcome, failures: list[Mapping[str, Any]], graph: Path | None
) -> None:
    for counts in outcome.labels.values():
        counts["failed_retriable"] = counts["expected"]
    said = "; ".join(f"{failure['label']}: {_verdict(failure)[1]}" for failure in failures[:5])
    reason = "the run left no provenance: its final job did not end" + (f" ({said})" if said else "")
    outcome.reasons.append(reason)
    outcome.memory_failures = sum(failure["reason"] == "memory" for failure in failures)
    for label, data_ids in (read_data_ids(graph) or {}).items():
        for data_id in data_ids:
            outcome.quanta.append(as_record(label, data_id, "failed_retriable", reason, own=True))


def _verdict(failure: Mapping[str, Any] | None) -> tuple[Rule, str]:
    """Say what became of a quantum that left no word of its own, by the record of its job."""
    if failure is None:
        return BY_NAME["lost worker"], "its process ended without a word (killed?)"
    tries = f"{failure['tries']} tries" if failure["tries"] != 1 else "1 try"
    sign, code = failure["signal"], failure["exit"]
    killed = f"killed by {_signal_name(sign)}" if sign else ""
    ended = f"was {killed}" if killed else f"ended with exit code {code}"
    rule, text = "lost worker", f"its process {ended} without a word"
    match failure["reason"]:
        case "memory":
            peak, allowed = failure["peak_mb"], failure["memory_mb"]
            rule, text = "memory", f"killed for memory: {peak} MB of {allowed} MB allowed"
        case "timeout":
            rule, text = "time-out", "stopped after its time limit"
        case "cancelled":
            rule, text = "cancelled", "cancelled before it had ended"
        case "lost":
            why = killed or failure.get("said")
            rule, text = "lost worker", f"its worker was lost{f' ({why})' if why else ''}"
        case "exit" if code == 2:
            rule, text = "configuration", "its command line was refused (exit code 2)"
    return BY_NAME[rule], f"{text}, {tries}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass
class _Judge:
    """One pass over a provenance graph, producers before consumers."""

    provenance: ProvenanceQuantumGraph
    failures: dict[uuid.UUID, Mapping[str, Any]]
    outcome: RunOutcome
    butler: Butler | None
    waiting: set[uuid.UUID] = field(default_factory=set)
    """Quanta that failed for a passing reason, and those that wait for one of these."""
    runnable: set[uuid.UUID] = field(default_factory=set)
    """Quanta that can do without what is lost."""

    def judge(self) -> None:
        """Fill the outcome."""
        quanta = self.provenance.quantum_only_xgraph
        for label, by_data_id in self.provenance.quanta_by_task.items():
            if not by_data_id:
                continue
            counts = self.outcome.labels.setdefault(label, empty_labels({label: len(by_data_id)})[label])
            counts["expected"] = len(by_data_id)
            for data_id, quantum in by_data_id.items():
                info = quanta.nodes[quantum]
                if info["status"].has_metadata:
                    self._count_success(counts, label, data_id, info["caveats"])
                elif info["status"] is QuantumAttemptStatus.BLOCKED:
                    self._count_blocked(counts, label, data_id, quantum)
                else:
                    self._count_failure(counts, label, data_id, quantum)

    def _count_success(
        self, counts: dict[str, int], label: str, data_id: DataCoordinate, caveats: Any
    ) -> None:
        if caveats is None or not caveats & QuantumSuccessCaveats.NO_WORK:
            counts["done"] += 1
            return
        counts["no_data"] += 1
        notes = []
        if self.butler is not None and len(self.outcome.notes) < MOST_NOTES:
            notes = _no_work_reason(self.butler, self.outcome.run, label, data_id)
            self.outcome.notes += [f"{label}: {note}" for note in notes]
        reason = notes[0] if notes else "no data"
        self.outcome.quanta.append(as_record(label, data_id.required, "no_data", reason, own=True))

    def _count_failure(
        self, counts: dict[str, int], label: str, data_id: DataCoordinate, quantum: uuid.UUID
    ) -> None:
        info = self.provenance.quantum_only_xgraph.nodes[quantum]
        # The aggregator says FAILED also of a quantum that was killed and has left neither log nor metadata.
        if exception := info["exception"]:
            text = f"{exception.type_name}: {exception.message}"
            rule = classify(text)
        else:
            rule, text = _verdict(self.failures.get(quantum))
        kind, text = f"failed_{rule.kind}", shorten(text, MOST_LETTERS, placeholder=" ...")
        if rule.kind == "retriable" and not may_run_again(self._task(label), data_id.required):
            kind, text = "failed_permanent", f"{text}; it may have written the APDB: {REMEDY}"
        if kind == "failed_retriable":
            self.waiting.add(quantum)
        counts[kind] += 1
        self.outcome.memory_failures += rule.name == "memory"
        self.outcome.reasons.append(f"{label} ({describe(data_id.required)}): {text}")
        self.outcome.quanta.append(as_record(label, data_id.required, kind, text, own=True))

    def _count_blocked(
        self, counts: dict[str, int], label: str, data_id: DataCoordinate, quantum: uuid.UUID
    ) -> None:
        needed = self.provenance.quantum_only_xgraph.predecessors(quantum)
        kind, reason = "failed_permanent", BLOCKED
        if self._can_have_enough(quantum, self._task(label)):
            if self.waiting.isdisjoint(needed):
                self.runnable.add(quantum)
                self.outcome.runnable += 1
                reason = RUNNABLE
            else:
                self.waiting.add(quantum)
                kind = "failed_retriable"
        counts[kind] += 1
        self.outcome.reasons.append(f"{label} ({describe(data_id.required)}): {reason}")
        self.outcome.quanta.append(as_record(label, data_id.required, "blocked", reason, own=False))

    def _can_have_enough(self, quantum: uuid.UUID, task: TaskNode) -> bool:
        """Tell whether each connection has, or can still get, as many inputs as it needs."""
        datasets = self.provenance.bipartite_xgraph
        to_come = self.waiting | self.runnable
        left: dict[str, int] = {}
        for dataset in datasets.predecessors(quantum):
            makers = list(datasets.predecessors(dataset))
            # What a quantum wrote before it failed is not used.
            good = all(datasets.nodes[maker]["status"].has_metadata for maker in makers)
            if (good and datasets.nodes[dataset]["produced"]) or not to_come.isdisjoint(makers):
                for edge in datasets.edges[dataset, quantum]["pipeline_edges"]:
                    left[edge.connection_name] = left.get(edge.connection_name, 0) + 1
        connections = task.get_connections()
        return all(left.get(name, 0) >= getattr(connections, name).minimum for name in connections.inputs)

    def _task(self, label: str) -> TaskNode:
        return self.provenance.pipeline_graph.tasks[label]


def _no_work_reason(butler: Butler, run: str, label: str, data_id: DataCoordinate) -> list[str]:
    """Return why a quantum had no data, by its log; nothing for one whose inputs were not made."""
    ref = butler.find_dataset(f"{label}_log", data_id, collections=run)
    messages = [record.message for record in butler.get(ref)] if ref is not None else []
    found = [message.partition(_NO_WORK)[2].rstrip(".") for message in messages if _NO_WORK in message]
    return [reason for reason in found[:1] if reason]
