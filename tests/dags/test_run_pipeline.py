"""The DAG run_pipeline by `dag.test`, with the real engine on a small repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG

from conftest import BAD_VISIT, DETECTOR, GOOD_VISITS, NIGHT
from operators.airflow_context import DagRun, context
from tololo.operators.bps import RunPipelineOperator

FILE = Path(__file__).parents[2] / "dags" / "run_pipeline.py"
GIVEN = {
    "pipeline": "embedded/nightly_decam.yaml#instcal",
    "inputs": f"refcats, skymaps, {NIGHT}/instcal/raw",
    "output": "u/someone/trial",
    "night": str(NIGHT),
    "site": "local",
}


@pytest.fixture(scope="module", autouse=True)
def _airflow() -> Iterator[None]:
    """A database for Airflow, which knows the folder of DAGs."""
    from airflow.utils.db import initdb

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(FILE.parent))
        monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        initdb()
        yield


@pytest.fixture
def dag() -> DAG:
    """The DAG, parsed anew: a run leaves its params in it."""
    return DagBag(str(FILE), collect_dags=True).dags["run_pipeline"]


def asked(dag: DAG, key: str | None = None, **params: Any) -> RunPipelineOperator:
    """Return the task with its templates filled in."""
    (task,) = dag.tasks
    defaults = {name: dag.params.get_param(name).value for name in dag.params}
    task.render_template_fields(context(**defaults | GIVEN | params) | {"dag_run": DagRun(key)})
    return task


@pytest.mark.parametrize(
    ("params", "key", "terms"),
    [
        ({"night": None}, None, []),
        ({}, None, ["instrument = 'DECam'", f"day_obs = {NIGHT}"]),
        ({}, "20190310", ["instrument = 'DECam'", "day_obs = 20190310"]),
        ({"night": None, "detectors": "25"}, None, ["instrument = 'DECam'"]),
        ({"night": None, "where": "visit = 5"}, None, ["instrument = 'DECam'"]),
        ({"night": None, "where": "instrument = 'HSC' AND visit = 5"}, None, []),
    ],
)
def test_what_narrows_a_run_down(dag: DAG, params: dict[str, Any], key: str | None, terms: list[str]) -> None:
    assert [term for term in asked(dag, key, **params).where_terms if term] == terms


def test_the_form_names_every_pipeline_and_subset(dag: DAG) -> None:
    examples = dag.params.get_param("pipeline").schema["examples"]
    assert {"embedded/nightly_decam.yaml", "embedded/template_coadds.yaml#warp"} <= set(examples)
    assert GIVEN["pipeline"] in examples


def run(dag: DAG, repository: Path, monkeypatch: pytest.MonkeyPatch, **params: Any) -> tuple[str, Any]:
    """Run the DAG; return the state of its task and what it returned."""
    butler = {"conn_type": "butler", "host": str(repository)}
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_DEFAULT", json.dumps(butler))
    (task,) = dag.test(run_conf=GIVEN | params).get_task_instances()
    return str(task.state), task.xcom_pull(task_ids="run")


def test_any_pipeline_runs_on_any_data(
    dag: DAG, own_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lsst.daf.butler import Butler

    state, summary = run(
        dag, own_repository, monkeypatch, detectors=str(DETECTOR), thresholds={"instcal": 0.6}
    )
    assert state == "success"
    assert (summary["chain"], summary["expected"]) == ("u/someone/trial", 6)
    assert summary["labels"]["calibrateInstcal"] == {
        "expected": 3,
        "done": 2,
        "failed_permanent": 1,
        "failed_retriable": 0,
        "no_data": 0,
    }
    with Butler.from_config(str(own_repository), instrument="DECam") as butler:
        found = butler.query_datasets("visit_image", "u/someone/trial")
    assert {ref.dataId["visit"] for ref in found} == set(GOOD_VISITS)
    assert BAD_VISIT not in GOOD_VISITS


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"pipeline": "embedded/nightly_dekam.yaml"}, "The pipeline file is not there"),
        ({"config": {"calibrateInstcal:nothing": 1}}, "has no attribute nothing"),
        ({"output": "u/some one"}, "'some one' cannot be part of a collection name"),
    ],
)
def test_a_mistake_in_the_form_is_one_clear_message(
    dag: DAG,
    ingested: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    params: dict[str, Any],
    says: str,
) -> None:
    state, summary = run(dag, ingested, monkeypatch, **params)
    assert (state, summary) == ("failed", None)
    out = capfd.readouterr().out
    assert says in out, [line for line in out.splitlines() if "Exception" in line]
