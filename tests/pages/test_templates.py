"""The page of a template in Airflow's real web application, from a real repository by the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from airflow.dag_processing.dagbag import DagBag
from astropy.table import Table
from fastapi.testclient import TestClient
from lsst.daf.butler import Butler, CollectionType, DatasetType

from tololo.engine.template_versions import Record
from tololo.facility.templates import ACCEPTED, CANDIDATE
from tololo.hooks.butler import ButlerHook
from tololo.hooks.template import TemplateHook
from tololo.hooks.template_records import put_record, register_run
from tololo.hooks.template_score import score_version
from tololo.pages.views import PREFIX

Get = Callable[[str], Any]
CHAIN = "2019/min/coadd"
DAG = """
from airflow.sdk import DAG, task

params = {"repo": "butler_default", "coadd_subset": "2019", "template_type": "min", "told": {}}
with DAG("template_coadds", schedule=None, params=params) as template_coadds:

    @task(task_id="select")
    def select(params):
        return params["told"]

    select()
"""


def row(patch: int, seeing: float) -> Table:
    values: dict[str, Any] = dict.fromkeys(("inputs", "noise", "noise_ratio", "background", "clipped"), 0.9)
    values |= {"ra": 150.0 + patch, "dec": 2.0, "size": 0.15, "coverage": 1.0, "seeing": seeing}
    values |= {"depth": np.nan, "clipped": 0.0, "visits": 3, "tract": 0, "patch": patch, "band": "r"}
    return Table([values])


@pytest.fixture(scope="module")
def versions(repository: Path) -> list[str]:
    """Two versions, the first accepted, the second with a patch of bad seeing."""
    names = [f"{CHAIN}/v1", f"{CHAIN}/v2"]
    with Butler.from_config(str(repository), writeable=True) as butler:
        (skymap,) = butler.query_dimension_records("skymap", limit=None, explain=False) or [None]
        name = skymap.name if skymap else _sky(butler)
        dimensions = ("skymap", "tract", "patch", "band")
        for kind, storage_class in (
            ("template_coadd", "StructuredDataDict"),
            ("template_metrics", "ArrowAstropy"),
        ):
            butler.registry.registerDatasetType(
                DatasetType(kind, dimensions, storage_class, universe=butler.dimensions)
            )
        for version, seeing in zip(names, (1.0, 3.0), strict=True):
            run = f"{version}/template_coadds/coadd/20260101T000000Z"
            butler.collections.register(run)
            butler.collections.register(f"{version}/inputs", CollectionType.TAGGED)
            butler.collections.register(version, CollectionType.CHAINED)
            butler.collections.redefine_chain(version, [run])
            for patch in (0, 1):
                where = {"skymap": name, "tract": 0, "patch": patch, "band": "r"}
                butler.put({}, "template_coadd", where, run=run)
                butler.put(row(patch, seeing), "template_metrics", where, run=run)
            put_record(
                butler, register_run(butler, version), Record(CANDIDATE, "selection", "", {"warp": "direct"})
            )
            score_version(butler, CHAIN, version, name)
    TemplateHook(ButlerHook(repository), "2019", "min").accept(names[0], who="ana", why="<b>sharp</b>")
    return names


def _sky(butler: Butler) -> str:
    """A sky map of two patches."""
    butler.registry.insertDimensionData(
        "skymap", {"name": "small", "hash": b"x" * 20, "tract_max": 1, "patch_nx_max": 2, "patch_ny_max": 1}
    )
    butler.registry.insertDimensionData("tract", {"skymap": "small", "id": 0})
    for patch in (0, 1):
        butler.registry.insertDimensionData(
            "patch", {"skymap": "small", "tract": 0, "id": patch, "cell_x": patch, "cell_y": 0}
        )
    return "small"


@pytest.fixture(scope="module")
def template_run(run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run a DAG template_coadds whose task returns what is told, and return the address of its pages."""
    file = tmp_path_factory.mktemp("template_dags") / "templates.py"
    file.write_text(DAG)

    def go(**conf: Any) -> str:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(file.parent))
            dag = DagBag(str(file), collect_dags=True).dags["template_coadds"]
            return f"runs/template_coadds/{quote(str(dag.test(run_conf=conf).run_id), safe='')}"

    return go


def test_the_version_that_a_run_has_made(
    viewer: Get, versions: list[str], template_run: Callable[..., str]
) -> None:
    address = template_run(told={"version": versions[1]})
    content = viewer(f"{address}/template.json").json()
    assert (content["shown"], content["note"]) == (versions[1], "")
    assert [(item["number"], item["state"]) for item in content["versions"]] == [
        (2, "candidate"),
        (1, "accepted"),
    ]
    assert content["versions"][1]["history"][-1]["state"] == ACCEPTED
    assert content["summary"]["poor"] == {f"r 0/{patch}": ["seeing 3 arcsec, above 2.5"] for patch in (0, 1)}
    assert [(item["patch"], item["depth"]) for item in content["rows"]] == [(0, None), (1, None)]
    page = viewer(f"{address}/template").text
    assert "seeing 3 arcsec, above 2.5" in page
    assert "&lt;b&gt;sharp&lt;/b&gt;" in page
    assert viewer(f"{address}/template.png").content.startswith(b"\x89PNG")


def test_a_run_that_made_none_shows_the_one_in_use(
    viewer: Get, versions: list[str], template_run: Callable[..., str]
) -> None:
    content = viewer(f"{template_run()}/template.json").json()
    assert content["shown"] == versions[0]
    assert "made no version" in content["note"]
    dry = template_run(told={"version": f"{CHAIN}/v3"}, dry_run=True)
    assert viewer(f"{dry}/template.json").json()["shown"] == versions[0]


def test_what_has_no_template_says_so(
    viewer: Get, versions: list[str], template_run: Callable[..., str], run: Callable[..., str]
) -> None:
    absent = viewer(f"{template_run(coadd_subset='1999')}/template.json")
    assert (absent.status_code, absent.json()["remedy"]) == (404, "run template_coadds")
    other = viewer(f"runs/repo_bootstrap/{quote(run('repo_bootstrap'), safe='')}/template.json")
    assert other.status_code == 404
    assert "have no template" in other.json()["what"]


def test_nobody_reads_without_a_login(client: TestClient) -> None:
    for page in ("template", "template.json", "template.png"):
        assert client.get(f"{PREFIX}/runs/template_coadds/any/{page}").status_code in (401, 403)
