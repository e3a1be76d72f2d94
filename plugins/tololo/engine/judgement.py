"""What came of a request, over all of its attempts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.engine.graph import read_pipeline
from tololo.engine.outcomes import DataId, Key, Past, describe, history, key_of
from tololo.engine.provenance import BLOCKED, read_data_ids, read_outcome, sort_reasons
from tololo.facility.run import RunOutcome, RunRequest, empty_labels

if TYPE_CHECKING:
    from lsst.daf.butler import Butler


def judge(
    request: RunRequest,
    butler: Butler,
    run: str,
    provenance: Path | None,
    expected: dict[str, int],
    service_failures: Iterable[Mapping[str, Any]] = (),
    *,
    graph: Path | None = None,
    seconds: float = 0.0,
) -> RunOutcome:
    """Judge an attempt together with those before it.

    Parameters
    ----------
    request : `RunRequest`
        What was asked.
    butler : `lsst.daf.butler.Butler`
        The repository, with the outputs of the attempt in its registry.
    run : `str`
        The RUN of the attempt.
    provenance : `pathlib.Path` or `None`
        Provenance graph of the attempt; `None` if it ran nothing.
    expected : `dict` [`str`, `int`]
        What `tololo.engine.graph.build_graph` returned.
    service_failures : iterable of `dict`, optional
        As for `tololo.engine.provenance.read_outcome`.
    graph : `pathlib.Path`, optional
        The graph that was run, where something was.
    seconds : `float`, optional
        Wall time of the attempt.

    Returns
    -------
    outcome : `RunOutcome`
        Its counts are of all quanta of the request: what earlier attempts did is done, what failed
        permanently in one and was left out is a permanent failure. ``quanta`` is of this attempt alone.
    """
    outcome = RunOutcome(run, request.parent, seconds, {})
    data_ids: dict[str, list[DataId]] | None = {}
    if expected:
        outcome = read_outcome(
            provenance, run, request.parent, expected, seconds, butler, service_failures, graph
        )
        data_ids = read_data_ids(graph, provenance)
    present = {label: set(map(key_of, found)) for label, found in (data_ids or {}).items()}
    pipeline = read_pipeline(request)
    for label, quanta in history(butler, request, pipeline, run).items():
        for key, past in quanta.items():
            left_out = past.good or (past.failed_for_good and not request.retry_failed)
            if key not in present.get(label, ()) and (left_out or data_ids is not None):
                _count(outcome, label, key, past)
    sort_reasons(outcome)
    outcome.labels = {label: outcome.labels[label] for label in pipeline.tasks if label in outcome.labels}
    return outcome


def _count(outcome: RunOutcome, label: str, key: Key, past: Past) -> None:
    """Add what an earlier attempt made of a quantum that is not in the present one."""
    counts = outcome.labels.setdefault(label, empty_labels({label: 0})[label])
    counts["expected"] += 1
    if past.good:
        counts[past.kind] += 1
        outcome.earlier += 1
        return
    # What was blocked would be in the graph again, had it not lost its inputs for good.
    kind = past.kind if past.own else "failed_permanent"
    counts[kind] += 1
    reason = past.reason if past.own else BLOCKED
    how = "permanently " if kind == "failed_permanent" and past.own else ""
    outcome.reasons.append(
        f"{label} ({describe(dict(key))}): {reason} (failed {how}in an earlier attempt, run {past.run})"
    )
