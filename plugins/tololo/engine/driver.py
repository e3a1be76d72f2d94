"""The detached process that carries one attempt from the request to the outcome.

``python -m tololo.engine.driver FOLDER``: builds the graph, submits it, waits, judges, writes the chain.
It holds the stack imported, so that none of these steps starts a process of its own for it.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tololo.engine.attempt import Attempt, AttemptState, this_process
from tololo.facility.errors import NothingToDoError, TololoError
from tololo.facility.run import RunOutcome, RunRequest, empty_labels

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

_log = logging.getLogger("tololo.driver")


def drive(attempt: Attempt) -> AttemptState:
    """Run one attempt to its end and return its last state."""
    pid, started = this_process()
    state = AttemptState(pid=pid, pid_started=started)
    attempt.record(state)
    try:
        _drive(attempt, state)
    except TololoError as error:
        state.phase = "empty" if isinstance(error, NothingToDoError) else "error"
        state.error = {"what": error.what, "where": error.where, "remedy": error.remedy}
        _log.error("%s", error)
    except Exception as error:
        _log.error("%s", traceback.format_exc())
        state.phase = "error"
        state.error = {
            "what": f"{type(error).__name__}: {error}",
            "where": str(attempt.log),
            "remedy": "read the log; clear the task to try again",
        }
    attempt.record(state)
    return state


def _drive(attempt: Attempt, state: AttemptState) -> None:
    from lsst.daf.butler import Butler

    from tololo.engine.graph import build_graph, count_done
    from tololo.engine.progress import ProgressWatch, count_finished
    from tololo.engine.provenance import read_outcome
    from tololo.engine.submission import submit
    from tololo.facility import collections
    from tololo.hooks.chains import write_chain

    began = time.monotonic()
    request = attempt.request
    state.phase = "building"
    attempt.record(state)
    with Butler.from_config(request.repository, writeable=not request.dry_run) as butler:
        if not request.dry_run:
            take_up(butler, request)
        root = Path(next(root.ospath for root in butler.get_datastore_roots().values() if root is not None))
        state.run = collections.run(request.parent, request.pipeline_name, request.step, datetime.now(UTC))
        graph_path = attempt.folder / "graph.qg"
        state.expected = build_graph(request, butler, state.run, graph_path)
        earlier = count_done(request, butler)
    state.finished = dict.fromkeys(state.expected, 0)
    if request.dry_run:
        outcome = RunOutcome(state.run, request.parent, 0.0, empty_labels(state.expected))
        state.outcome, state.phase = asdict(outcome), "planned"
        return
    state.phase = "submitted"
    attempt.record(state)

    def report(counts: dict[str, int]) -> None:
        state.finished = counts
        attempt.record(state)

    def count() -> dict[str, int]:
        return count_finished(root / state.run, state.expected)

    with ProgressWatch(count, report):
        provenance = submit(request, state.run, graph_path, attempt.submit_path)
    state.phase = "aggregating"
    report(count())
    with Butler.from_config(request.repository, writeable=True) as butler:
        outcome = read_outcome(provenance, state.run, request.parent, state.expected, 0.0, butler)
        if outcome.total("done") + outcome.total("no_data"):
            write_chain(butler, request.parent, [state.run], request.inputs)
    outcome.earlier = earlier
    outcome.seconds = round(time.monotonic() - began, 2)
    state.outcome = asdict(outcome)
    state.phase = "done"


def take_up(butler: Butler, request: RunRequest) -> None:
    """Put the RUNs into the chain that an earlier attempt registered but did not live to chain."""
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    from tololo.hooks.chains import write_chain

    below = f"{request.parent}/{request.pipeline_name}/*"
    if runs := butler.collections.query(below, collection_types=CollectionType.RUN):
        write_chain(butler, request.parent, runs, request.inputs)


def main() -> int:
    """Run the attempt named on the command line."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout
    )
    return 0 if drive(Attempt(Path(sys.argv[1]))).phase != "error" else 1


if __name__ == "__main__":
    sys.exit(main())
