"""What the end of an attempt means to Airflow, and the record of what was made of it."""

from __future__ import annotations

import json
from pathlib import Path

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from tololo.engine.attempt import Attempt, AttemptState
from tololo.facility.errors import BadInputError, TololoError, UnavailableError
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


def _of_error(state: AttemptState) -> Exception:
    what, where, remedy = (state.error.get(key, "") for key in ("what", "where", "remedy"))
    kind = state.error.get("kind", "")
    if state.phase == "empty":
        return AirflowSkipException(str(TololoError(what, where, remedy)))
    if is_retriable(f"{kind}: {what}" if kind else what):
        return UnavailableError(what, where, remedy)
    return AirflowFailException(str(TololoError(what, where, remedy)))


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


def count_verdicts(folder: Path, verdict: str, after: int) -> int:
    """Count the attempts below a folder of which a try later than ``after`` said this."""
    found = [json.loads(path.read_text()) for path in folder.glob(f"[0-9]*/{VERDICT}")]
    return sum(entry["verdict"] == verdict and entry["try_number"] > after for entry in found)
