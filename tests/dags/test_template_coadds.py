"""The DAG template_coadds by `dag.test`, with the real engine: planned, accepted, put to a person."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pytest
from airflow.dag_processing.dagbag import DagBag

from conftest import GOOD_VISITS, Reduced
from pages.conftest import token
from tololo.engine.template_versions import TemplateVersion
from tololo.hooks.butler import ButlerHook
from tololo.hooks.template import TemplateHook

FILE = Path(__file__).parents[2] / "dags" / "template_coadds.py"
CHAIN = "2019/meanclip/coadd"
ONE = {"where": f"visit = {GOOD_VISITS[0]}"}


@pytest.fixture(scope="module")
def repository(reduced: Reduced, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reduced.copy(tmp_path_factory.mktemp("template_coadds"))


@pytest.fixture(scope="module", autouse=True)
def _airflow(repository: Path) -> Iterator[None]:
    """A database for Airflow, which knows the folder of DAGs and the repository."""
    from airflow.utils.db import initdb

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(FILE.parent))
        monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        butler = {"conn_type": "butler", "host": str(repository)}
        monkeypatch.setenv("AIRFLOW_CONN_BUTLER_DEFAULT", json.dumps(butler))
        monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret of these tests " * 3)
        monkeypatch.setattr("airflow.plugins_manager.get_fastapi_plugins", lambda: ([], []))
        initdb()
        yield


class Run:
    """A run of the DAG."""

    def __init__(self, **params: Any) -> None:
        dag = DagBag(str(FILE), collect_dags=True).dags["template_coadds"]
        found = dag.test(run_conf={"site": "local", **params}).get_task_instances()
        self.instances = {instance.task_id: instance for instance in found}
        self.states = {name: str(instance.state) for name, instance in self.instances.items()}

    def returned(self, task: str) -> Any:
        return self.instances[task].xcom_pull(task_ids=task)


def versions(repository: Path) -> list[TemplateVersion]:
    return TemplateHook(ButlerHook(repository), "2019", "meanclip").versions()


def test_planned_then_accepted_by_the_limits_then_put_to_a_person(repository: Path) -> None:
    before = ButlerHook(repository).collections()
    planned = Run(**ONE, dry_run=True)
    assert planned.states == {
        "select": "success",
        "coadd": "success",
        "judge": "skipped",
        "approve": "skipped",
        "accept": "success",
        "template": "skipped",
    }
    assert planned.returned("coadd")["labels"]["measureTemplate"]["expected"] >= 1
    assert ButlerHook(repository).collections() == before

    made = Run(**ONE)
    tasks = ("select", "coadd", "judge", "accept", "template")
    assert made.states == dict.fromkeys(tasks, "success") | {"approve": "skipped"}
    assert made.returned("accept")["state"] == "accepted"
    told = made.returned("template")
    assert (told["chain"], told["version"], told["visits"]) == (CHAIN, f"{CHAIN}/v1", 1)
    assert [(item.name, item.state) for item in versions(repository)] == [(f"{CHAIN}/v1", "accepted")]

    # More visits, and a person: the run waits, the chain does not move.
    with Answer("Approve", "sharper", repository) as answer:
        asked = Run(acceptance="approval")
    assert asked.states == dict.fromkeys((*tasks, "approve"), "success")
    assert answer.detail["subject"] == f"Accept template {CHAIN}/v2?"
    assert "| r |" in answer.detail["body"]
    assert "The limits accept it" in answer.detail["body"]
    assert (answer.detail["options"], list(answer.detail["params"])) == (["Approve", "Reject"], ["reason"])
    assert answer.states == ["accepted", "candidate"]
    assert [item.state for item in versions(repository)] == ["superseded", "accepted"]
    latest = versions(repository)[1].latest
    assert (latest.who, latest.why) == ("someone", "sharper")


class Answer:
    """Somebody who answers what a run asks, through Airflow's own API, while the run waits."""

    def __init__(self, option: str, reason: str, repository: Path) -> None:
        from airflow.api_fastapi.app import create_app
        from fastapi.testclient import TestClient

        self.given = {"chosen_options": [option], "params_input": {"reason": reason}}
        self.repository = repository
        self.client = TestClient(create_app(apps="core"), base_url="http://testserver")
        self.thread = threading.Thread(target=self._answer, daemon=True)
        self.detail: dict[str, Any] = {}
        self.states: list[str] = []

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        from airflow.api_fastapi.app import purge_cached_app

        self.thread.join(60)
        purge_cached_app()

    def _answer(self) -> None:
        headers = {"Authorization": f"Bearer {token('admin')}"}
        # Other DAGs' tests may have asked before, in the same database.
        everything = "/api/v2/dags/template_coadds/dagRuns/~/hitlDetails?response_received=false"
        while not (found := self.client.get(everything, headers=headers).json()["hitl_details"]):
            time.sleep(0.5)
        (self.detail,) = found
        self.states = [item.state for item in versions(self.repository)]
        run = quote(self.detail["task_instance"]["dag_run_id"], safe="")
        place = f"/api/v2/dags/template_coadds/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
        self.client.patch(place, headers=headers, json=self.given).raise_for_status()
