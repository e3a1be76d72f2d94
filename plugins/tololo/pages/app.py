"""The pages' web application, below ``/tololo`` of Airflow's web server.

Who may read runs in Airflow may read these pages, with the same login; nobody else. Every page is there as
JSON too, at its address with ``.json``. What they show comes from the Butler through the engine's process of
open Butlers: this process never imports the stack.
"""

from __future__ import annotations

import base64
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from tololo.facility.errors import BadInputError, NothingToDoError, TololoError, UnavailableError
from tololo.pages import candidates, datasets, nights, recovery, runs, template_runs
from tololo.pages.rendering import render

NIGHTLY = "nightly_decam"
"""Who may read the runs of this DAG may read the nights."""

IMAGING = "difference_imaging"
"""Who may read the runs of this DAG may read the candidates and the recovery of injected sources."""

FILES = {"parquet": "application/vnd.apache.parquet", "csv": "text/csv; charset=utf-8"}
"""Media types of light curves."""

HEADERS = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
}
STATUS = {
    BadInputError: HTTPStatus.BAD_REQUEST,
    NothingToDoError: HTTPStatus.NOT_FOUND,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}

app = FastAPI(title="Tololo", docs_url=None, redoc_url=None, openapi_url=None)
app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))

of_nights = [Depends(requires_access_dag("GET", DagAccessEntity.RUN, NIGHTLY))]
of_differences = [Depends(requires_access_dag("GET", DagAccessEntity.RUN, IMAGING))]
of_runs = [
    Depends(requires_access_dag("GET", DagAccessEntity.RUN)),
    Depends(requires_access_dag("GET", DagAccessEntity.XCOM)),
]


@app.get("/nights", dependencies=of_nights)
@app.get("/nights.json", dependencies=of_nights)
def board(request: Request, session: SessionDep, before: Annotated[str, Query()] = "") -> Response:
    """Show the latest nights, or those before one."""
    return _page(request, "nights.html", nights.board(session, before))


@app.get("/nights/{night}/{proc_type}/scorecard", dependencies=of_nights)
@app.get("/nights/{night}/{proc_type}/scorecard.json", dependencies=of_nights)
def scorecard_of_night(request: Request, night: str, proc_type: str) -> Response:
    """Show the scorecard of a night."""
    return _page(request, "scorecard.html", nights.scorecard(night, proc_type))


@app.get("/nights/{night}/{proc_type}/plot.png", dependencies=of_nights)
def plot_of_night(night: str, proc_type: str) -> Response:
    """Return the plot of a night."""
    return _png(nights.plot(night, proc_type))


@app.get("/runs/{dag_id}/{run_id}/scorecard", dependencies=of_runs)
@app.get("/runs/{dag_id}/{run_id}/scorecard.json", dependencies=of_runs)
def scorecard_of_run(request: Request, dag_id: str, run_id: str, session: SessionDep) -> Response:
    """Show the scorecard that a run has made, or what there is until it has."""
    return _page(request, "scorecard.html", runs.scorecard(session, dag_id, run_id))


@app.get("/runs/{dag_id}/{run_id}/plot.png", dependencies=of_runs)
def plot_of_run(dag_id: str, run_id: str, session: SessionDep) -> Response:
    """Return the plot that a run has made."""
    return _png(runs.plot(session, dag_id, run_id))


@app.get("/candidates", dependencies=of_differences)
@app.get("/candidates.json", dependencies=of_differences)
def board_of_candidates(
    request: Request,
    apdb: Annotated[str, Query()] = "",
    order: Annotated[str, Query()] = "newest",
    after: Annotated[int, Query()] = 0,
) -> Response:
    """Show the candidates of an APDB, the newest or the most significant first."""
    return _page(request, "candidates.html", candidates.board(apdb, order, after))


@app.get("/candidates/{number}/light_curve.{kind}", dependencies=of_differences)
def light_curve_of_candidate(number: int, kind: str, apdb: Annotated[str, Query()] = "") -> Response:
    """Return the light curve of a candidate as a file."""
    content = base64.b64decode(candidates.light_curve(number, kind, apdb))
    name = {"Content-Disposition": f'attachment; filename="diaObject_{number}.{kind}"'}
    return Response(content, media_type=FILES[kind], headers=HEADERS | name)


@app.get("/candidates/{number}/plot.png", dependencies=of_differences)
def plot_of_candidate(number: int, apdb: Annotated[str, Query()] = "") -> Response:
    """Return the plot of the light curve of a candidate."""
    return _png(candidates.plot(number, apdb))


@app.get("/candidates/{number}/cutouts/{source}.png", dependencies=of_differences)
def cutouts_of_candidate(number: int, source: int, apdb: Annotated[str, Query()] = "") -> Response:
    """Return the cutouts of a detection of a candidate."""
    return _png(candidates.cutouts(number, source, apdb))


@app.get("/candidates/{number}", dependencies=of_differences)
@app.get("/candidates/{number}.json", dependencies=of_differences)
def candidate(request: Request, number: int, apdb: Annotated[str, Query()] = "") -> Response:
    """Show a candidate."""
    return _page(request, "candidate.html", candidates.candidate(number, apdb))


@app.get("/recovery", dependencies=of_differences)
@app.get("/recovery.json", dependencies=of_differences)
def board_of_recovery(request: Request, before: Annotated[str, Query()] = "") -> Response:
    """Show the latest nights with injected sources, or those before one."""
    return _page(request, "recovery.html", recovery.board(before))


@app.get("/recovery/{chain:path}/{name}.png", dependencies=of_differences)
def plot_of_recovery(chain: str, name: str) -> Response:
    """Return a plot of a night with injected sources."""
    return _png(recovery.plot(chain, name))


@app.get("/recovery/{chain:path}", dependencies=of_differences)
@app.get("/recovery/{chain:path}.json", dependencies=of_differences)  # the lower one is asked first
def recovery_of_night(request: Request, chain: str) -> Response:
    """Show what became of the injected sources of a night."""
    return _page(request, "recovery_night.html", recovery.night(chain))


@app.get("/runs/{dag_id}/{run_id}/template", dependencies=of_runs)
@app.get("/runs/{dag_id}/{run_id}/template.json", dependencies=of_runs)
def template_of_run(request: Request, dag_id: str, run_id: str, session: SessionDep) -> Response:
    """Show the version of a template that a run has made, or uses."""
    return _page(request, "template.html", template_runs.template(session, dag_id, run_id))


@app.get("/runs/{dag_id}/{run_id}/template.png", dependencies=of_runs)
def template_plot_of_run(dag_id: str, run_id: str, session: SessionDep) -> Response:
    """Return the plot of the template of a run."""
    return _png(template_runs.plot(session, dag_id, run_id))


@app.get("/runs/{dag_id}/{run_id}/datasets", dependencies=of_runs)
@app.get("/runs/{dag_id}/{run_id}/datasets.json", dependencies=of_runs)
def datasets_of_run(request: Request, dag_id: str, run_id: str, session: SessionDep) -> Response:
    """Show the light curves that a run has made of datasets of frames."""
    return _page(request, "datasets.html", datasets.datasets(session, dag_id, run_id))


@app.get("/runs/{dag_id}/{run_id}/datasets/{index}/{name}", dependencies=of_runs)
def file_of_dataset(dag_id: str, run_id: str, index: int, name: str, session: SessionDep) -> Response:
    """Return a plot of a dataset of a run, or its light curve."""
    path = datasets.file(session, dag_id, run_id, index, name)
    media = "image/png" if path.suffix == ".png" else FILES["csv"]
    return Response(path.read_bytes(), media_type=media, headers=HEADERS)


@app.exception_handler(TololoError)
def say_error(request: Request, error: TololoError) -> Response:
    """Show what is wrong, where, and what to do."""
    content = {"what": error.what, "where": error.where, "remedy": error.remedy}
    return _page(request, "message.html", content, STATUS.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR))


@app.exception_handler(RequestValidationError)
def say_mistake(request: Request, error: RequestValidationError) -> Response:
    """Show which part of the address is wrong."""
    fault = error.errors()[0]
    told = BadInputError(f"{fault['input']!r} cannot be: {fault['msg']}", f"address, {fault['loc'][-1]}")
    return say_error(request, told)


@app.exception_handler(HTTPException)
def say_refusal(request: Request, error: HTTPException) -> Response:
    """Show why Airflow refuses."""
    told = {
        HTTPStatus.UNAUTHORIZED: ("You are not logged in", "log in to Airflow and come back"),
        HTTPStatus.FORBIDDEN: ("You may not see this page", "ask for the right to read the DAG's runs"),
    }
    what, remedy = told.get(HTTPStatus(error.status_code), (str(error.detail), ""))
    return _page(request, "message.html", {"what": what, "where": "", "remedy": remedy}, error.status_code)


@app.exception_handler(Exception)
def say_failure(request: Request, error: Exception) -> Response:
    """Say that the page itself is at fault; the traceback goes to the web server's log."""
    told = TololoError(f"This page cannot be shown ({type(error).__name__})", "", "read the api-server's log")
    return say_error(request, told)


def _page(request: Request, template: str, content: dict[str, Any], status: int = HTTPStatus.OK) -> Response:
    if request.url.path.endswith(".json"):
        return JSONResponse(content, int(status), HEADERS)
    return HTMLResponse(render(template, request.scope["root_path"], content), int(status), HEADERS)


def _png(content: str) -> Response:
    return Response(base64.b64decode(content), media_type="image/png", headers=HEADERS)
