"""The DAG photometry_to_tom by `dag.test` on datasets of frames, up to a real TOM."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from airflow.dag_processing.dagbag import DagBag

from hooks.datasets import FRAMES, make_root, manager
from pages.conftest import token
from tololo.facility.locks import LOCK_FILE
from tololo.services import tom as service
from tololo.services.home import Home
from tololo.services.tom import TomInfo

FILE = Path(__file__).parents[2] / "dags" / "photometry_to_tom.py"


@pytest.fixture(scope="module")
def tom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TomInfo]:
    home = Home(tmp_path_factory.mktemp("home"))
    try:
        yield service.start(home)
    finally:
        service.stop(home)


def in_tom(tom: TomInfo, what: str) -> list[dict[str, Any]]:
    """All that a TOM has of one kind."""
    headers = {"Authorization": f"Token {tom.token}"}
    answer = requests.get(f"{tom.url}/api/{what}/", params={"limit": 1000}, headers=headers, timeout=60)
    answer.raise_for_status()
    return list(answer.json()["results"])


@pytest.fixture(scope="module", autouse=True)
def _airflow(tom: TomInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A database for Airflow, which knows the folder of DAGs and the TOM."""
    from airflow.utils.db import initdb

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(FILE.parent))
        monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        connection = {"conn_type": "tom", "host": tom.url, "password": tom.token}
        monkeypatch.setenv("AIRFLOW_CONN_TOM_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("TOLOLO_HOME", str(tmp_path_factory.mktemp("tololo")))
        monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret of these tests " * 3)
        monkeypatch.setattr("airflow.plugins_manager.get_fastapi_plugins", lambda: ([], []))
        initdb()
        yield


class Run:
    """A run of the DAG with the source datasets."""

    def __init__(self, **params: Any) -> None:
        dag = DagBag(str(FILE), collect_dags=True).dags["photometry_to_tom"]
        for task in dag.tasks:
            task.retries = 0
        self.run = dag.test(run_conf={"source": "datasets", **params})
        found = self.run.get_task_instances()
        self.states: dict[str, list[str]] = {}
        for instance in sorted(found, key=lambda instance: instance.map_index):
            self.states.setdefault(instance.task_id, []).append(str(instance.state))
        self.instances = {(instance.task_id, instance.map_index): instance for instance in found}

    def returned(self, task: str, index: int = -1) -> Any:
        return self.instances[task, index].xcom_pull(task_ids=task, map_indexes=index)


def test_one_dataset_is_broken_one_locked_the_others_are_published(tmp_path: Path, tom: TomInfo) -> None:
    root = tmp_path / "root"
    good, broken, quiet, locked = make_root(root, "Good", "Broken", "Quiet", "Xlocked")
    config = broken / "reduction_config.yaml"
    config.write_text(config.read_text().replace("aperture_arcsec: 2.0", "aperture_arcsec: -2.0"))
    config = quiet / "reduction_config.yaml"
    config.write_text(config.read_text().replace("upload: True", "upload: False"))
    (locked / LOCK_FILE).write_text("2024-05-01T00:00:00")
    path = manager(root, max_parallel=2)

    done = Run(manager=str(path))
    assert done.states["select"] == ["success"]
    assert done.returned("select") == [str(folder) for folder in (broken, good, quiet)]
    assert done.states["reduce"] == ["failed", "success", "success"]
    assert done.returned("reduce", 1) == {
        "folder": str(good),
        "target": "Good",
        "filter": "ip",
        "light_curve": str(good / "Good_ip_lc.csv"),
        "frames": FRAMES,
        "measured": FRAMES,
        "set_aside": {},
        "upload": True,
    }
    assert done.instances["reduce", 1].rendered_map_index == "Good/sinistro/ip"
    assert done.states["publish_datasets"] == ["success", "skipped"]
    assert done.instances["publish_datasets", 0].rendered_map_index == "Good/sinistro/ip"
    assert done.states["publish"] == ["skipped"]
    assert done.states["download"] == ["skipped"]
    # what failed shows in the state of the run
    assert done.states["report"] == ["failed"]
    assert done.run.state == "failed"

    targets = {target["name"]: target["id"] for target in in_tom(tom, "targets")}
    assert "Good" in targets
    assert not {"Broken", "Quiet", "Xlocked"} & set(targets)
    points = in_tom(tom, "reduceddatums")
    assert [point["target"] for point in points] == [targets["Good"]] * FRAMES

    (broken / "reduction_config.yaml").write_text((good / "reduction_config.yaml").read_text())
    again = Run(manager=str(path), publish="no")
    assert again.run.state == "success"
    assert [again.returned("reduce", n)["measured"] for n in range(3)] == [FRAMES, 0, 0]
    assert again.returned("report")["measured"] == FRAMES
    assert again.states["publish_datasets"] == ["skipped"] * 3
    assert in_tom(tom, "reduceddatums") == points


@contextmanager
def somebody_answers(option: str) -> Iterator[dict[str, Any]]:
    """Answer what a run asks, through Airflow's own API; what was asked comes into the dict."""
    from airflow.api_fastapi.app import create_app, purge_cached_app
    from fastapi.testclient import TestClient

    client = TestClient(create_app(apps="core"), base_url="http://testserver")
    headers = {"Authorization": f"Bearer {token('admin')}"}
    asked: dict[str, Any] = {}

    def answer() -> None:
        # Other DAGs' tests may have asked before, in the same database.
        everything = "/api/v2/dags/photometry_to_tom/dagRuns/~/hitlDetails?response_received=false"
        while not (found := client.get(everything, headers=headers).json()["hitl_details"]):
            time.sleep(0.5)
        asked.update(found[0])
        run = quote(asked["task_instance"]["dag_run_id"], safe="")
        place = f"/api/v2/dags/photometry_to_tom/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
        given = {"chosen_options": [option], "params_input": {"reason": "looks good"}}
        client.patch(place, headers=headers, json=given).raise_for_status()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield asked
    thread.join(60)
    purge_cached_app()


def test_a_person_is_asked_before_one_dataset_is_published(tmp_path: Path, tom: TomInfo) -> None:
    root = tmp_path / "root"
    make_root(root, "Asked")
    before = len(in_tom(tom, "reduceddatums"))
    with somebody_answers("Approve") as asked:
        done = Run(manager=str(manager(root)), publish="after approval")
    assert "Asked" in asked["body"]
    assert done.run.state == "success"
    assert done.states["publish_datasets"] == ["success"]
    assert done.returned("report")["datasets"] == 1
    assert len(in_tom(tom, "reduceddatums")) == before + FRAMES


def test_nothing_to_do_and_mistakes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (folder,) = make_root(root, "A")
    (folder / LOCK_FILE).write_text("2024-05-01T00:00:00")
    path = manager(root)
    done = Run(manager=str(path))
    assert {task: states for task, states in done.states.items() if states != ["skipped"]} == {}
    assert done.run.state == "success"

    (folder / LOCK_FILE).unlink()
    done = Run(manager=str(path), dry_run=True)
    assert done.states["reduce"] == ["skipped"]
    assert [item.name for item in folder.iterdir() if item.suffix != ".fits"] == ["reduction_config.yaml"]

    path.write_text(path.read_text().replace("group: all", "group: some"))
    done = Run(manager=str(path))
    assert done.states["select"] == ["failed"]
    assert done.run.state == "failed"
