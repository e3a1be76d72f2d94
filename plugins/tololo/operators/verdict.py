"""What the end of an attempt means to Airflow, and the record of what was made of it."""

from __future__ import annotations

import json
from pathlib import Path

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from tololo.engine.attempt import Attempt, AttemptState
from tololo.facility.errors import BadInputError, TololoError, UnavailableError, retold
from tololo.facility.failures import is_retriable
from tololo.facility.run import RunOutcome, write_json

VERDICT = "verdict.json"


def judge(state: AttemptState, threshold: float) -> RunOutcome:
    """Return the outcome of an attempt that ended well enough.

    Parameters
    ----------
    state : `~tololo.engine.attempt.AttemptState`
        Last state of the attempt.
    threshold : `float`
        Fraction of the quanta that must be good.

    Raises
    ------
    AirflowSkipException
        There was nothing to do, or nothing had data; the message says why.
    UnavailableError
        Too little is good, but another attempt can reach the threshold.
    AirflowFailException
        Too little is good, and trying again does not mend it.
    """
    if state.phase in ("empty", "error"):
        raise _of_error(state)
    outcome = RunOutcome(**state.outcome)
    if state.phase == "planned":
        return outcome
    if outcome.total("no_data") == outcome.total("expected"):
        shown = "; ".join(dict.fromkeys(outcome.notes[:5])) or "no reason was recorded"
        raise AirflowSkipException(
            str(TololoError(f"Nothing had data: {shown}", f"run {outcome.run}", "see the inputs"))
        )
    try:
        outcome.check(threshold)
    except BadInputError as error:
        if may_reach(outcome, threshold):
            raise UnavailableError(error.what, error.where, "the task is tried again") from None
        raise AirflowFailException(str(error)) from None
    return outcome


def may_reach(outcome: RunOutcome, threshold: float) -> bool:
    """Tell whether another attempt can reach the threshold: not all that is missing failed permanently."""
    possible = outcome.good + outcome.total("failed_retriable") + outcome.runnable
    return possible > outcome.good and possible >= threshold * outcome.total("expected")


def can_go_on(attempt: Attempt, state: AttemptState, try_number: int) -> int:
    """Return how many quanta another attempt can run at once, because they can do without what failed.

    It records that the attempt is continued, so that a task that loses its worker now does not judge it.
    """
    if state.phase != "done" or is_judged(attempt):
        return 0
    outcome = RunOutcome(**state.outcome)
    before = [verdict for _, verdict in verdicts(attempt.folder.parent, try_number - 1)].count("continued")
    if (
        outcome.runnable == 0
        or outcome.total("failed_retriable")  # the next try runs all of it
        or before >= len(outcome.labels)  # each attempt comes at least one task further down
        or not may_reach(outcome, attempt.request.threshold)
    ):
        return 0
    record_verdict(attempt, "continued", try_number)
    return outcome.runnable


def gave_up(error: UnavailableError, failed: int) -> AirflowFailException:
    """Return what ends a task of which so many attempts failed, each for a passing reason."""
    what = f"Gave up after {failed} attempt{'s' if failed > 1 else ''}: {error.what}"
    return AirflowFailException(str(UnavailableError(what, error.where, "find out why, then clear the task")))


def _of_error(state: AttemptState) -> Exception:
    error, kind = retold(state.error), state.error.get("kind", "")
    if state.phase == "empty":
        return AirflowSkipException(str(error))
    if is_retriable(f"{kind}: {error.what}" if kind else error.what):
        return UnavailableError(error.what, error.where, error.remedy)
    return AirflowFailException(str(error))


def record_verdict(attempt: Attempt, verdict: str, try_number: int) -> None:
    """Note what a try of the task made of an attempt; what comes next is another attempt.

    Parameters
    ----------
    attempt : `~tololo.engine.attempt.Attempt`
        The attempt.
    verdict : `str`
        ``success``, ``skipped``, ``failed``, ``retriable``, or ``continued`` by another attempt at once.
    try_number : `int`
        The try.
    """
    write_json(attempt.folder / VERDICT, {"verdict": verdict, "try_number": try_number})


def is_judged(attempt: Attempt) -> bool:
    """Tell whether a try of the task has said what the attempt's end means."""
    return (attempt.folder / VERDICT).exists()


def verdicts(folder: Path, after: int) -> list[tuple[Attempt, str]]:
    """Return the attempts below a folder that tries later than ``after`` have judged, and what they said."""
    found = [
        (Attempt(path.parent), json.loads(path.read_text())) for path in folder.glob(f"[0-9]*/{VERDICT}")
    ]
    return [(attempt, entry["verdict"]) for attempt, entry in found if entry["try_number"] > after]
