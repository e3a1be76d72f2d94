"""What the pages know of nights: their scorecards in the Butler, and their runs in Airflow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from sqlalchemy import select

from tololo.facility.errors import BadInputError
from tololo.facility.nights import parse_night
from tololo.pages.engine import ask, repository
from tololo.params import night_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

SHOWN = 60
"""Nights on one page."""

RUNS = 500
"""How many of the latest runs are looked through for those of the nights shown."""

NIGHTLY = "nightly_decam"


def board(session: Session, before: str = "") -> dict[str, Any]:
    """Return the latest nights that were scored or tried, each with its counts and its latest run.

    Parameters
    ----------
    session : `sqlalchemy.orm.Session`
        Of Airflow's database.
    before : `str`, optional
        Only nights earlier than this one.

    Returns
    -------
    content : `dict`
        ``repository``; ``nights``: a list of ``night``, ``proc_type``, ``run`` (the collection of the
        scorecard), ``summary`` and ``dag_run`` (``run_id`` and ``state``), the last or the three before it
        null where there is none; ``before`` and ``earlier``, the night before which there are more, or null.
    """
    if before:
        parse_night(before)
    root = repository()
    found = ask("scored_nights", root, limit=SHOWN, before=before)
    runs = _latest_runs(session)
    scored = [entry | {"dag_run": runs.get(entry["night"])} for entry in found["nights"]]
    return {
        "repository": root,
        "nights": _with_unscored(scored, runs, before, complete=not found["earlier"]),
        "before": before,
        "earlier": min(entry["night"] for entry in scored) if found["earlier"] else None,
    }


def scorecard(night: str, proc_type: str) -> dict[str, Any]:
    """Return the scorecard that the chain of a night shows; see `tololo.pages.runs.scorecard`."""
    root = repository()
    content: dict[str, Any] = ask("night_scorecard", root, night=night, proc_type=proc_type)
    place = f"nights/{content['night']}/{proc_type}"
    return content | {"repository": root, "dag_run": None, "note": "", "address": place}


def plot(night: str, proc_type: str) -> str:
    """Return the plot of a night as base64 of a PNG."""
    return str(ask("night_plot", repository(), night=night, proc_type=proc_type))


def _latest_runs(session: Session) -> dict[int, dict[str, str]]:
    """Return the latest run of each night, of the runs that were made last."""
    query = select(DagRun).where(DagRun.dag_id == NIGHTLY).order_by(DagRun.id.desc()).limit(RUNS)
    latest: dict[int, dict[str, str]] = {}
    for run in session.scalars(query):
        try:
            night = int(night_of({"dag_run": run, "params": run.conf or {}}))
        except BadInputError:
            continue  # the run itself says what is wrong with its night
        latest.setdefault(night, {"run_id": run.run_id, "state": str(run.state)})
    return latest


def _with_unscored(
    scored: list[dict[str, Any]], runs: dict[int, dict[str, str]], before: str, *, complete: bool
) -> list[dict[str, Any]]:
    """Add the nights that have a run and no scorecard, as far back as the scored ones on the page go."""
    there = {entry["night"] for entry in scored}
    last = int(before) if before else 99999999
    first = 0 if complete else min(there)
    empty = {"proc_type": None, "run": None, "summary": None}
    missing: Iterable[dict[str, Any]] = (
        {"night": night, **empty, "dag_run": run}
        for night, run in runs.items()
        if night not in there and first <= night < last
    )
    return sorted([*scored, *missing], key=lambda entry: (-entry["night"], entry["proc_type"] or ""))
