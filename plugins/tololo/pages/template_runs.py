"""Which version of a template a DagRun is about: what it chose, made or used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tololo.facility import collections
from tololo.facility.errors import NothingToDoError
from tololo.pages.engine import ask, repository
from tololo.pages.runs import dag_run_of, params_of, returned

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

MADE_BY = "select"
"""The task of template_coadds that knows the version."""


def template(session: Session, dag_id: str, run_id: str) -> dict[str, Any]:
    """Return the template of a run.

    Parameters
    ----------
    session : `sqlalchemy.orm.Session`
        Of Airflow's database.
    dag_id, run_id : `str`
        The run.

    Returns
    -------
    content : `dict`
        What `tololo.engine.template_questions.template_versions` answers, and ``repository``; ``dag_run``
        (``dag_id``, ``run_id``, ``state``); ``note``, whose version this is; ``address`` of the page below
        that of all pages.

    Raises
    ------
    NothingToDoError
        If there is no such run, it has nothing to do with templates, or there is none yet.
    BadInputError, UnavailableError
        If the repository is not there, or the engine does not answer.
    """
    dag_run = dag_run_of(session, dag_id, run_id)
    root, chain, version = find(session, dag_run)
    answer: dict[str, Any] = ask("template_versions", root, chain=chain, version=version)
    return answer | {
        "repository": root,
        "dag_run": {"dag_id": dag_id, "run_id": run_id, "state": str(dag_run.state)},
        "note": ""
        if version
        else "This run has made no version: this is the one in use, or else the newest.",
        "address": f"runs/{quote(dag_id, safe='')}/{quote(run_id, safe='')}",
    }


def plot(session: Session, dag_id: str, run_id: str) -> str:
    """Return the plot of a run's template as base64 of a PNG."""
    root, chain, version = find(session, dag_run_of(session, dag_id, run_id))
    return str(ask("template_plot", root, chain=chain, version=version))


def find(session: Session, dag_run: DagRun) -> tuple[str, str, str]:
    """Return the repository, the chain of the template, and the version that a run has chosen, if it has.

    Raises
    ------
    NothingToDoError
        If the run's DAG has no params that name a template.
    """
    params = params_of(session, dag_run)
    if not params.get("coadd_subset") or not params.get("template_type") or "repo" not in params:
        raise NothingToDoError(
            f"Runs of {dag_run.dag_id} have no template", remedy="open a run of template_coadds"
        )
    chain = collections.coadd(params["coadd_subset"], params["template_type"])
    told = returned(session, dag_run, MADE_BY)
    # What a dry run names was never made.
    version = "" if params.get("dry_run") else str(told.get("version", ""))
    return repository(params["repo"]), chain, version if version.startswith(f"{chain}/") else ""
