"""The detached process that carries one attempt from the request to the outcome.

It is forked by the engine server. Every step leaves its mark in the attempt's folder before the next one
begins, so that another driver can go on wherever this one is killed; `docs/engine.md` has the table.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tololo.engine.attempt import ENDED, Attempt, AttemptState, process_started, this_process
from tololo.engine.locks import LockKeeper, from_ticket
from tololo.engine.progress import ProgressWatch, count_finished
from tololo.facility.errors import NothingToDoError, TololoError, UnavailableError
from tololo.facility.failures import is_retriable
from tololo.facility.locks import LockLostError
from tololo.facility.run import RunOutcome, RunRequest, empty_labels

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from tololo.engine.submission import Submission

_log = logging.getLogger("tololo.driver")


def drive(attempt: Attempt) -> AttemptState:
    """Run one attempt to its end, from wherever it stands, and return its last state."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stdout,
        force=True,
    )
    with attempt.claimed() as mine:
        if not mine:
            return attempt.state  # another driver is at it
        state = attempt.state
        _end_orphans(state)
        state.pid, state.pid_started = this_process()
        state.drivers += 1
        attempt.record(state)
        if attempt.is_cancelled:
            return state  # before there was a driver that could be ended
        try:
            _drive(attempt, state)
        except Exception as error:
            state.phase = "empty" if isinstance(error, NothingToDoError) else "error"
            state.error = _error(error, attempt.log)
        attempt.record(state)
        return state


def _drive(attempt: Attempt, state: AttemptState) -> None:
    from tololo.engine.submission import Submission

    began = time.monotonic()
    request = attempt.request
    submission = Submission(request, attempt.submit_path)
    locks = [from_ticket(ticket) for ticket in request.locks]
    # Whoever has lost a lock works on what is another's: the run is cut off.
    try:
        with LockKeeper(locks, on_lost=lambda _: submission.cancel()) as keeper:
            if state.phase in ("starting", "building"):
                for earlier in attempt.earlier():
                    settle(earlier)
                _build(attempt, request, state)
            keeper.check()
            if state.phase in ("built", "submitted"):
                _run(attempt, request, state, submission)
            keeper.check()
            if state.phase == "judging":
                _judge(attempt, request, state, submission)
                state.outcome["seconds"] = round(time.monotonic() - began, 2)
                state.phase = "done"
            keeper.check()
    except LockLostError:
        submission.cancel()  # lost before it was submitted, or while it had no driver
        raise


def settle(attempt: Attempt) -> None:
    """Bring an attempt to its end that will not be gone on with: what it has finished becomes the next one's.

    Nothing of it runs afterwards. An attempt that is being driven, or has been judged, is left alone.
    """
    from tololo.engine.submission import Submission

    with attempt.claimed() as mine:
        state = attempt.state
        # The database may have gone when the quanta were done: there is an error, and no outcome.
        unjudged = state.phase == "error" and attempt.submit_path.exists() and not state.outcome
        if not mine or (state.phase in ENDED and not unjudged):
            return
        _log.info("settling attempt %s, left in phase %s", attempt.folder.name, state.phase)
        if state.phase in ("starting", "building"):
            left = UnavailableError("It was left before it ran anything")
            state.phase, state.error = "error", _error(left, attempt.log)
        else:
            submission = Submission(attempt.request, attempt.submit_path)
            submission.cancel()
            try:
                _judge(attempt, attempt.request, state, submission)
                state.phase, state.error = "done", {}
            except Exception as error:
                state.phase, state.error = "error", _error(error, attempt.log)
                if is_retriable(f"{type(error).__name__}: {error}"):
                    raise
                # What cannot be read ever again holds nobody up: its quanta are run once more.
        attempt.record(state)


def _build(attempt: Attempt, request: RunRequest, state: AttemptState) -> None:
    from lsst.daf.butler import Butler

    from tololo.engine.graph import build_graph
    from tololo.facility import collections

    state.phase = "building"
    state.run = state.run or collections.run(
        request.parent, request.pipeline_name, request.step, datetime.now(UTC)
    )
    attempt.record(state)
    with Butler.from_config(request.repository, writeable=not request.dry_run) as butler:
        if not request.dry_run:
            take_up(butler, request)
        beside = attempt.graph.with_name(".graph.qg")
        state.expected = build_graph(request, butler, state.run, beside)
    if request.dry_run:
        outcome = RunOutcome(state.run, request.parent, 0.0, empty_labels(state.expected))
        state.outcome, state.phase = asdict(outcome), "planned"
        return
    if state.expected:
        beside.rename(attempt.graph)
    state.finished = dict.fromkeys(state.expected, 0)
    state.phase = "built" if state.expected else "judging"
    attempt.record(state)


def _run(attempt: Attempt, request: RunRequest, state: AttemptState, submission: Submission) -> None:
    folder = run_folder(request.repository, state.run)

    def report(finished: dict[str, int], failed: dict[str, int]) -> None:
        state.finished, state.failed = finished, failed
        attempt.record(state)

    if not submission.is_made:
        submission.make(state.run, attempt.graph)
        state.phase = "submitted"
        attempt.record(state)
    else:
        _log.info("taking up the run %s that an earlier driver submitted", state.run)
        state.phase = "submitted"
    with ProgressWatch(lambda: count_finished(folder, state.expected), report):
        submission.follow()
    state.phase = "judging"
    report(*count_finished(folder, state.expected))


def _judge(attempt: Attempt, request: RunRequest, state: AttemptState, submission: Submission) -> None:
    from lsst.daf.butler import Butler

    from tololo.engine.aggregation import aggregate
    from tololo.engine.judgement import judge
    from tololo.engine.outcomes import write_outcome
    from tololo.hooks.chains import write_chain

    provenance = submission.provenance
    if state.expected and not provenance.exists():
        # The final job did not run to its end: the run was cut off.
        provenance = attempt.folder / "provenance.qg"
        if run_folder(request.repository, state.run).exists():
            aggregate(attempt.graph, request.repository, provenance)
    with Butler.from_config(request.repository, writeable=True) as butler:
        outcome = judge(
            request,
            butler,
            state.run,
            provenance if provenance.exists() else None,
            state.expected,
            submission.failures(),
            graph=attempt.graph if state.expected else None,
        )
        if state.expected:
            write_outcome(butler, outcome)
            if outcome.total("done") + outcome.total("no_data") > outcome.earlier:
                write_chain(butler, request.parent, [state.run], request.inputs)
    state.outcome = asdict(outcome)


def take_up(butler: Butler, request: RunRequest) -> None:
    """Put the RUNs into the chain that an earlier attempt registered but did not live to chain."""
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    from tololo.hooks.chains import write_chain

    below = f"{request.parent}/{request.pipeline_name}/*"
    if runs := butler.collections.query(below, collection_types=CollectionType.RUN):
        write_chain(butler, request.parent, runs, request.inputs)


def run_folder(repository: str, run: str) -> Path:
    """Return the folder of a RUN's files."""
    root = Path(repository)
    return (root if root.is_dir() else root.parent) / run


def _end_orphans(state: AttemptState) -> None:
    """End what a dead driver has left in its process group, as the jobs of Parsl on this machine."""
    if state.pid and not process_started(state.pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(state.pid, signal.SIGKILL)


def _error(error: Exception, log: Path) -> dict[str, str]:
    if isinstance(error, TololoError):
        _log.error("%s", error)
        return error.told()
    _log.error("%s", traceback.format_exc())
    return {
        "what": f"{type(error).__name__}: {error}",
        "where": str(log),
        "remedy": "read the log; clear the task to try again",
    }
