"""Where the scorecard of a DagRun is: its task ``scorecard`` says so; until it has, the run's params do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from sqlalchemy import select

from tololo.facility.errors import NothingToDoError
from tololo.pages.engine import ask, repository
from tololo.params import night_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

TASK = "scorecard"
PROC_TYPES = {"raw": "drp", "instcal": "instcal"}
"""Kinds of processing by the param ``source`` of nightly_decam."""


@dataclass(frozen=True)
class Place:
    """Where the scorecard of a run is.

    ``run`` is the collection that the run's task has written; empty while it has not, and of a run that has
    no such task but works on a night that may have been scored.
    """

    repository: str
    night: str
    proc_type: str
    run: str = ""


def scorecard(session: Session, dag_id: str, run_id: str) -> dict[str, Any]:
    """Return the scorecard of a run.

    Parameters
    ----------
    session : `sqlalchemy.orm.Session`
        Of Airflow's database.
    dag_id, run_id : `str`
        The run.

    Returns
    -------
    content : `dict`
        What `tololo.engine.night_questions.night_scorecard` answers, and ``repository``; ``dag_run``
        (``dag_id``, ``run_id``, ``state``); ``note``, what is to be known of a scorecard that is not this
        run's or not the night's latest; ``address`` of the page below that of all pages.

    Raises
    ------
    NothingToDoError
        If there is no such run, or nothing was scored yet; the message says how far the run is.
    BadInputError, UnavailableError
        If the repository is not there, or the engine does not answer.
    """
    dag_run = dag_run_of(session, dag_id, run_id)
    place = find(session, dag_run)
    try:
        answer: dict[str, Any] = ask(
            "night_scorecard",
            place.repository,
            night=place.night,
            proc_type=place.proc_type,
            run=place.run,
        )
    except NothingToDoError as error:
        raise NothingToDoError(error.what, error.where, _progress(dag_run)) from None
    told = {"dag_id": dag_id, "run_id": run_id, "state": str(dag_run.state)}
    address = f"runs/{quote(dag_id, safe='')}/{quote(run_id, safe='')}"
    note = _note(dag_run, place, answer)
    return answer | {"repository": place.repository, "dag_run": told, "note": note, "address": address}


def plot(session: Session, dag_id: str, run_id: str) -> str:
    """Return the plot of a run's night as base64 of a PNG."""
    place = find(session, dag_run_of(session, dag_id, run_id))
    return str(
        ask("night_plot", place.repository, night=place.night, proc_type=place.proc_type, run=place.run)
    )


def find(session: Session, dag_run: DagRun) -> Place:
    """Tell where the scorecard of a run is, or will be.

    Raises
    ------
    NothingToDoError
        If the run is of a DAG that works on no night's visits.
    BadInputError
        If its params name no night or no repository.
    """
    told = returned(session, dag_run, TASK)
    if told.get("run"):
        night, _, proc_type = told["chain"].partition("/")
        return Place(told["repository"], night, proc_type, told["run"])
    params = params_of(session, dag_run)
    proc_type = PROC_TYPES.get(str(params.get("source"))) or str(params.get("proc_type") or "")
    if not proc_type or "repo" not in params:
        raise NothingToDoError(
            f"Runs of {dag_run.dag_id} have no scorecard",
            remedy="open a run of nightly_decam, or the night board in the navigation",
        )
    night = night_of({"dag_run": dag_run, "params": params})
    return Place(repository(params["repo"]), night, proc_type)


def dag_run_of(session: Session, dag_id: str, run_id: str) -> DagRun:
    """Return a run.

    Raises
    ------
    NothingToDoError
        If there is no such run.
    """
    query = select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    dag_run: DagRun | None = session.scalar(query)
    if dag_run is None:
        raise NothingToDoError(f"There is no run {run_id} of {dag_id}")
    return dag_run


def returned(session: Session, dag_run: DagRun, task: str) -> Mapping[str, Any]:
    """Return what a task of a run has returned; empty if it has not run, or returned no mapping."""
    query = XComModel.get_many(
        run_id=dag_run.run_id, dag_ids=dag_run.dag_id, task_ids=task, key="return_value", limit=1
    )
    entry = session.scalar(query)
    value = XComModel.deserialize_value(entry) if entry else None
    return value if isinstance(value, dict) else {}


def params_of(session: Session, dag_run: DagRun) -> dict[str, Any]:
    """Return the params of a run: those of its DAG, with what it was given."""
    dag = DBDagBag(load_op_links=False).get_dag_for_run(dag_run, session)
    defaults = dag.params.dump() if dag else {}
    return {**defaults, **(dag_run.conf or {})}


def _progress(dag_run: DagRun) -> str:
    """Say what to do about a run that has nothing to show yet."""
    states = {task.task_id: str(task.state) for task in dag_run.get_task_instances()}
    if TASK not in states:
        return "run nightly_decam for this night"
    if dag_run.state in ("queued", "running"):
        busy = [f"{name} is {state}" for name, state in sorted(states.items()) if state in _BUSY]
        return f"wait, the run is {dag_run.state}" + (f": {', '.join(busy)}" if busy else "")
    failed = [name for name, state in sorted(states.items()) if state == "failed"]
    if failed:
        return f"read the log of {' and of '.join(failed)}, which failed; mend the cause and clear the task"
    return f"read the log of {TASK}, which was {states[TASK]}"


_BUSY = ("running", "deferred", "up_for_retry", "up_for_reschedule", "awaiting_input")


def _note(dag_run: DagRun, place: Place, answer: Mapping[str, Any]) -> str:
    """Say what has to be known of a scorecard that is not this run's, or not the night's latest."""
    if place.run:
        if answer["run"] != place.run:
            return f"What this run wrote ({place.run}) is gone; this is the night's present scorecard."
        if not answer["current"]:
            return "A later run has scored this night again; this is what this run found."
        return ""
    if any(task.task_id == TASK for task in dag_run.get_task_instances()):
        return f"This run ({dag_run.state}) has not scored the night; this is an earlier run's scorecard."
    return f"{dag_run.dag_id} works on the visits of this scorecard."
