"""What a DagRun of photometry_to_tom made of its datasets: light curves, plots, and what was published."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.models.xcom import XComModel

from tololo.facility.errors import NothingToDoError
from tololo.pages.runs import dag_run_of, params_of

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

REDUCE, PUBLISH = "reduce", "publish_datasets"
"""The mapped tasks of photometry_to_tom."""

SUMMARY = "reduction_summary.json"
PLOTS = ("light_curve", "scatter", "apertures")


def datasets(session: Session, dag_id: str, run_id: str) -> dict[str, Any]:
    """Return the datasets of a run.

    Parameters
    ----------
    session : `sqlalchemy.orm.Session`
        Of Airflow's database.
    dag_id, run_id : `str`
        The run.

    Returns
    -------
    content : `dict`
        ``datasets``: of each ``index``, ``name``, ``state`` of its task, ``made`` (what the task returned),
        ``summary`` (of the reduction, as it stands in the folder), ``plots`` (names), ``published`` (what the
        TOM has); ``dag_run`` (``dag_id``, ``run_id``, ``state``); ``address`` of the page below that of all
        pages.

    Raises
    ------
    NothingToDoError
        There is no such run, or it has no datasets (yet).
    """
    dag_run = dag_run_of(session, dag_id, run_id)
    tasks = [task for task in dag_run.get_task_instances() if task.task_id == REDUCE and task.map_index >= 0]
    if not tasks:
        raise NothingToDoError(
            f"This run of {dag_id} has no datasets{_why(session, dag_run)}",
            remedy="run photometry_to_tom with source datasets, or read the log of its task select",
        )
    made = _returned(session, dag_run, REDUCE)
    # What is published is mapped over what was reduced, in its order.
    order = sorted(made)
    published = {order[n]: told for n, told in _returned(session, dag_run, PUBLISH).items() if n < len(order)}
    rows = [
        {
            "index": task.map_index,
            "name": task.rendered_map_index or str(task.map_index),
            "state": str(task.state or "waiting"),
            "made": made.get(task.map_index),
            "published": published.get(task.map_index),
            **_in_folder(made.get(task.map_index)),
        }
        for task in sorted(tasks, key=lambda task: task.map_index)
    ]
    return {
        "datasets": rows,
        "dag_run": {"dag_id": dag_id, "run_id": run_id, "state": str(dag_run.state)},
        "address": f"runs/{quote(dag_id, safe='')}/{quote(run_id, safe='')}",
    }


def file(session: Session, dag_id: str, run_id: str, index: int, name: str) -> Path:
    """Return the path of a plot (``scatter.png``) or the light curve (``light_curve.csv``) of a dataset.

    Raises
    ------
    NothingToDoError
        There is no such run, dataset or file.
    """
    made = _returned(session, dag_run_of(session, dag_id, run_id), REDUCE).get(index)
    names = {f"{plot}.png": Path((made or {}).get("folder", "/")) / f"{plot}.png" for plot in PLOTS}
    names["light_curve.csv"] = Path((made or {}).get("light_curve", "/"))
    if not made or name not in names or not names[name].is_file():
        raise NothingToDoError(f"There is no {name} of dataset {index} of this run", remedy="look at the run")
    return names[name]


def _in_folder(made: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what stands in the folder of a dataset now: a later run may have written it."""
    if not made:
        return {"summary": None, "plots": []}
    folder = Path(made["folder"])
    try:
        summary = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError):
        summary = None
    return {"summary": summary, "plots": [name for name in PLOTS if (folder / f"{name}.png").is_file()]}


def _returned(session: Session, dag_run: DagRun, task: str) -> dict[int, dict[str, Any]]:
    """Return what the mapped instances of a task have returned, by index."""
    query = XComModel.get_many(
        run_id=dag_run.run_id, dag_ids=dag_run.dag_id, task_ids=task, key="return_value"
    )
    entries: Iterable[Any] = session.scalars(query)
    found = {entry.map_index: XComModel.deserialize_value(entry) for entry in entries}
    return {index: value for index, value in found.items() if index >= 0 and isinstance(value, dict)}


def _why(session: Session, dag_run: DagRun) -> str:
    source = params_of(session, dag_run).get("source")
    return f": its source is {source}" if source and source != "datasets" else ""
