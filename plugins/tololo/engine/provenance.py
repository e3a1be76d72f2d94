"""What became of each quantum, read from the provenance that bps's final job wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsst.pipe.base import QuantumAttemptStatus, QuantumSuccessCaveats
from lsst.pipe.base.quantum_graph import ProvenanceQuantumGraphReader

from tololo.facility.failures import is_retriable
from tololo.facility.run import RunOutcome, empty_labels

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DataCoordinate

MOST_NOTES = 20
"""Quanta without data of which the reason is looked up."""

_NO_WORK = "exited early with no work found: "


def read_outcome(
    path: Path,
    run: str,
    chain: str,
    expected: dict[str, int],
    seconds: float,
    butler: Butler | None = None,
) -> RunOutcome:
    """Judge a run by its provenance graph, never by an exit code.

    Parameters
    ----------
    path : `pathlib.Path`
        The provenance graph that ``butler aggregate-graph`` wrote; where there is none, no quantum is done.
    run, chain : `str`
        The run and the chain that it belongs to.
    expected : `dict` [`str`, `int`]
        Quanta expected for each label.
    seconds : `float`
        Wall time of the attempt.
    butler : `lsst.daf.butler.Butler`, optional
        The repository; the logs of quanta without data say why.

    Returns
    -------
    outcome : `RunOutcome`
        Counts by label and a reason for each failed quantum. A quantum that left neither log nor metadata,
        and one that was blocked by such, counts as failed and retriable.
    """
    outcome = RunOutcome(run, chain, seconds, empty_labels(expected))
    if not path.exists():
        for counts in outcome.labels.values():
            counts["failed_retriable"] = counts["expected"]
        outcome.reasons.append("the run left no provenance: its final job did not end")
        return outcome
    with ProvenanceQuantumGraphReader.open(str(path)) as reader:
        reader.read_full_graph()
        graph = reader.graph
    quantum_graph = graph.quantum_only_xgraph
    failed_permanent: set[Any] = set()
    for label, quanta in graph.quanta_by_task.items():
        counts = outcome.labels.setdefault(label, empty_labels({label: len(quanta)})[label])
        for data_id, quantum_id in quanta.items():
            info = quantum_graph.nodes[quantum_id]
            status, caveats = info["status"], info["caveats"]
            exception = info["exception"]
            text = f"{exception.type_name}: {exception.message}" if exception else ""
            where = ", ".join(
                f"{k}={v}" for k, v in data_id.required.items() if k not in ("instrument", "skymap")
            )
            if status.has_metadata:
                no_work = caveats is not None and bool(caveats & QuantumSuccessCaveats.NO_WORK)
                counts["no_data" if no_work else "done"] += 1
                if no_work and butler is not None and len(outcome.notes) < MOST_NOTES:
                    outcome.notes += _no_work_reason(butler, run, label, data_id)
                continue
            if status is QuantumAttemptStatus.BLOCKED:
                hopeless = not failed_permanent.isdisjoint(quantum_graph.predecessors(quantum_id))
                kind = "failed_permanent" if hopeless else "failed_retriable"
                text = "not run, because what it needs failed"
            elif status is QuantumAttemptStatus.FAILED:
                kind = "failed_retriable" if is_retriable(text) else "failed_permanent"
            else:
                kind, text = "failed_retriable", "its process ended without a word (killed?)"
            if kind == "failed_permanent":
                failed_permanent.add(quantum_id)
            counts[kind] += 1
            outcome.reasons.append(f"{label} ({where}): {text or status.name}")
    return outcome


def _no_work_reason(butler: Butler, run: str, label: str, data_id: DataCoordinate) -> list[str]:
    """Return why a quantum had no data, by its log; nothing for one whose inputs were not made."""
    ref = butler.find_dataset(f"{label}_log", data_id, collections=run)
    messages = [record.message for record in butler.get(ref)] if ref is not None else []
    found = [message.partition(_NO_WORK)[2] for message in messages if _NO_WORK in message]
    return [f"{label}: {reason}" for reason in found[:1] if reason]
