"""The page of a run's datasets in Airflow's real web application."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow.dag_processing.dagbag import DagBag
from fastapi.testclient import TestClient

from tololo.pages.views import PREFIX

Get = Callable[[str], Any]
DAG = """
from airflow.sdk import DAG, task

with DAG("photometry_to_tom", schedule=None, params={"source": "datasets", "made": []}) as photometry_to_tom:

    @task
    def select(params):
        return params["made"]

    @task(map_index_template="{{ task.op_kwargs['made']['name'] }}")
    def reduce(made):
        if "folder" not in made:
            raise ValueError("as it was told")
        return made

    @task(trigger_rule="all_done")
    def publish_datasets(made):
        return {"target": made["target"], "status": "created", "points": 11}

    publish_datasets.expand(made=reduce.expand(made=select()))
"""


@pytest.fixture(scope="module")
def address(run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run a DAG photometry_to_tom that makes what it is told, and return the address of the run's pages."""
    file = tmp_path_factory.mktemp("datasets_dags") / "datasets.py"
    file.write_text(DAG)

    def go(*made: dict[str, Any], **conf: Any) -> str:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(file.parent))
            dag = DagBag(str(file), collect_dags=True).dags["photometry_to_tom"]
            done = dag.test(run_conf={"made": list(made), **conf})
            return f"runs/photometry_to_tom/{quote(str(done.run_id), safe='')}"

    return go


def reduced(folder: Path, target: str) -> dict[str, Any]:
    """A dataset as a reduction leaves it, and what its task returns."""
    folder.mkdir(parents=True)
    for name in ("light_curve", "scatter", "apertures"):
        (folder / f"{name}.png").write_bytes(b"\x89PNG" + target.encode())
    (folder / "curve.csv").write_text("time,filter\n")
    (folder / "secret.png").write_bytes(b"\x89PNG")
    summary = {"reduced": "2026-01-01T02:03:04+00:00", "method": "aperture", "calibrated": True, "stars": 51}
    summary |= {"zero_point": 23.1, "zero_point_error": 0.008, "detections": 11, "limits": 1}
    (folder / "reduction_summary.json").write_text(json.dumps(summary))
    return {
        "name": f"{target}/sinistro/ip",
        "folder": str(folder),
        "target": target,
        "filter": "ip",
        "light_curve": str(folder / "curve.csv"),
        "frames": 12,
        "measured": 5,
        "set_aside": {"frame-7": "its <astrometric> fit failed (WCSERR 4)"},
        "upload": True,
    }


def test_the_datasets_of_a_run(viewer: Get, address: Callable[..., str], tmp_path: Path) -> None:
    here = address(
        reduced(tmp_path / "A", "OGLE-A"), {"name": "B/sinistro/ip"}, reduced(tmp_path / "C", "OGLE-C")
    )
    content = viewer(f"{here}/datasets.json").json()
    assert [(row["name"], row["state"]) for row in content["datasets"]] == [
        ("OGLE-A/sinistro/ip", "success"),
        ("B/sinistro/ip", "failed"),
        ("OGLE-C/sinistro/ip", "success"),
    ]
    assert [(row["published"] or {}).get("target") for row in content["datasets"]] == [
        "OGLE-A",
        None,
        "OGLE-C",
    ]
    assert content["datasets"][0]["summary"]["stars"] == 51
    page = viewer(f"{here}/datasets")
    assert page.status_code == 200
    assert "23.100 ± 0.008" in page.text
    assert "11 points, created" in page.text
    assert "its &lt;astrometric&gt; fit failed" in page.text
    for name in ("light_curve", "scatter", "apertures"):
        assert f'/{here}/datasets/2/{name}.png"' in page.text
        assert viewer(f"{here}/datasets/2/{name}.png").content == b"\x89PNGOGLE-C"
    assert viewer(f"{here}/datasets/0/light_curve.csv").text == "time,filter\n"
    for other in ("0/secret.png", "0/reduction_summary.json", "1/scatter.png", "7/scatter.png"):
        assert viewer(f"{here}/datasets/{other}").status_code == 404


def test_a_dataset_whose_folder_is_gone(viewer: Get, address: Callable[..., str], tmp_path: Path) -> None:
    made = reduced(tmp_path / "A", "OGLE-A") | {"folder": str(tmp_path / "gone")}
    here = address(made)
    (row,) = viewer(f"{here}/datasets.json").json()["datasets"]
    assert (row["summary"], row["plots"]) == (None, [])
    assert "OGLE-A" in viewer(f"{here}/datasets").text


def test_runs_without_datasets_say_so(
    viewer: Get, address: Callable[..., str], run: Callable[..., str]
) -> None:
    answer = viewer(f"{address(source='apdb')}/datasets.json")
    assert answer.status_code == 404
    assert "its source is apdb" in answer.json()["what"]
    other = viewer(f"runs/repo_bootstrap/{quote(run('repo_bootstrap'), safe='')}/datasets.json")
    assert (other.status_code, "has no datasets" in other.json()["what"]) == (404, True)


def test_nobody_reads_without_a_login(client: TestClient) -> None:
    for page in ("datasets", "datasets.json", "datasets/0/scatter.png"):
        assert client.get(f"{PREFIX}/runs/photometry_to_tom/any/{page}").status_code in (401, 403)
