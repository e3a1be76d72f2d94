"""Airflow's real web application with the pages in it, on a database of its own, and runs of nights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from fastapi.testclient import TestClient

from tololo.pages.views import APPS, PREFIX

from .scored import CLOUDED, NIGHT, build

DAGS = """
from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowSkipException

for name, params in {
    "nightly_decam": {"source": "raw", "injected": False},
    "difference_imaging": {"proc_type": "drp"},
    "repo_bootstrap": {},
}.items():
    params |= {"repo": "butler_default", "night": "", "told": {}}
    with DAG(name, schedule=None, params=params) as dag:

        @task(task_id="scorecard" if name == "nightly_decam" else "work")
        def work(params):
            if "fail" in params["told"]:
                raise ValueError("as it was told")
            if not params["told"]:
                raise AirflowSkipException
            return params["told"]

        work()
    globals()[name] = dag
"""


@pytest.fixture(scope="package")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("pages") / "repository", NIGHT, CLOUDED)


@pytest.fixture(scope="package")
def run(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Run a DAG of a name that the facility has, and return the run's id; its task returns what is told."""
    from airflow.utils.db import initdb

    file = tmp_path_factory.mktemp("dags") / "nights.py"
    file.write_text(DAGS)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(file.parent))
        monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        butler = {"conn_type": "butler", "host": str(repository)}
        monkeypatch.setenv("AIRFLOW_CONN_BUTLER_DEFAULT", json.dumps(butler))
        initdb()

        def run(dag_id: str, **conf: Any) -> str:
            dag = DagBag(str(file), collect_dags=True).dags[dag_id]  # a test changes the params of its DAG
            return str(dag.test(run_conf=conf).run_id)

        yield run


@pytest.fixture(scope="package")
def client(run: Callable[..., str]) -> Iterator[TestClient]:
    """A browser that is not logged in."""
    from airflow.api_fastapi.app import create_app, purge_cached_app

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret of these tests " * 3)
        monkeypatch.setattr("airflow.plugins_manager.get_fastapi_plugins", lambda: (APPS, []))
        yield TestClient(create_app(apps="core"), base_url="http://testserver")
        purge_cached_app()


@pytest.fixture
def viewer(client: TestClient) -> Callable[[str], Any]:
    """Get a page as a user who may only look."""
    headers = {"Authorization": f"Bearer {token('viewer')}"}
    return lambda path: client.get(f"{PREFIX}/{path}", headers=headers)


def token(role: str | None) -> str:
    """A login of Airflow's."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    user = SimpleAuthManagerUser(username="someone", role=role)
    return str(get_auth_manager().generate_jwt(user))
