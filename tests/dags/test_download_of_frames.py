"""The DAG photometry_to_tom by `dag.test`, from an archive's frames to light curves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from hooks.datasets import FRAMES, make_root, manager
from hooks.lco_archive import TOKEN, Fault, LcoArchive
from tololo.facility.dataset_folders import frames

FILE = Path(__file__).parents[2] / "dags" / "photometry_to_tom.py"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LcoArchive]:
    """An archive that a connection leads to, and a database for Airflow."""
    from airflow.utils.db import initdb

    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(FILE.parent))
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "home"))
    initdb()
    server = LcoArchive()
    connection = {"conn_type": "lco", "host": server.url, "password": TOKEN}
    monkeypatch.setenv("AIRFLOW_CONN_LCO_ARCHIVE", json.dumps(connection))
    yield server
    server.shutdown()
    server.server_close()


def run(**params: Any) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Return the states of the tasks of a run, and what `reduce` returned."""
    dag = DagBag(str(FILE), collect_dags=True).dags["photometry_to_tom"]
    for task in dag.tasks:
        task.retries = 0
    conf = {"source": "datasets", "publish": "no", "proposals": ["LCO2024A-001"], "end": "2024-05-30"}
    done = dag.test(run_conf=conf | {"start": "2024-05-01"} | params)
    states: dict[str, list[str]] = {}
    returned: dict[str, Any] = {}
    for instance in done.get_task_instances():
        states.setdefault(instance.task_id, []).append(str(instance.state))
        if instance.task_id == "reduce":
            returned = instance.xcom_pull(task_ids="reduce", map_indexes=instance.map_index)
    return states, returned


def test_what_came_is_reduced_although_one_frame_failed(archive: LcoArchive, tmp_path: Path) -> None:
    (made,) = make_root(tmp_path / "made", "A")
    for path in frames(made):
        archive.add(path.read_bytes(), filename=path.name, target_name="A")
    root = tmp_path / "root"
    root.mkdir()
    # the template of configurations; its target does not count
    (root / "reduction_config.yaml").write_text((made / "reduction_config.yaml").read_text())
    archive.faults = [Fault("/files/1000/", "status", times=2, status=404)]

    states, returned = run(manager=str(manager(root)), download="yes")
    assert states["download"] == ["failed"]  # and names it; what came is reduced all the same
    assert (states["select"], states["reduce"]) == (["success"], ["success"])
    assert (returned["target"], returned["frames"]) == ("A", FRAMES - 1)
    assert Path(returned["light_curve"]).is_relative_to(root / "A" / "sinistro" / "ip")
