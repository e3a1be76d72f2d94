"""The page of injected sources in Airflow's real web application, from a real repository by the engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from lsst.daf.butler import Butler

from conftest import GOOD_VISITS, NIGHT, SPARE, SPARE_VISIT
from hooks.recovered_night import chain_of, plant
from reduction.recovered import Sky
from tololo.facility.recovery import HISTORY_PLOT, Limits
from tololo.hooks.recovery import RecoveryHook
from tololo.pages.views import PREFIX

Get = Callable[[str], Any]
CLEAR, POOR = chain_of(NIGHT), chain_of(SPARE)


@pytest.fixture(scope="module")
def measured(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights; the later one is less deep than its limit."""
    root = Path(shutil.copytree(ingested, tmp_path_factory.mktemp("recovery") / "repository"))
    plant(root, NIGHT, (GOOD_VISITS[0], Sky(seed=1)))
    plant(root, SPARE, (SPARE_VISIT, Sky(depth=22.0, seed=2)))
    hook = RecoveryHook(root)
    hook.measure(CLEAR, Limits(depth={"r": 22.7}))
    assert hook.measure(POOR, Limits(depth={"r": 22.7})).alarms
    return root


@pytest.fixture(autouse=True)
def _connection(measured: Path, viewer: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    butler = {"conn_type": "butler", "host": str(measured)}
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_DEFAULT", json.dumps(butler))


@pytest.fixture
def empty(ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository where nothing was injected yet."""
    root = shutil.copytree(ingested, tmp_path / "repository")
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_DEFAULT", json.dumps({"conn_type": "butler", "host": str(root)}))


def test_the_nights_stand_with_their_numbers_and_alarms_the_latest_first(viewer: Get) -> None:
    nights = viewer("recovery.json").json()["nights"]
    assert [(entry["night"], entry["chain"], len(entry["alarms"])) for entry in nights] == [
        (SPARE, POOR, 1),
        (NIGHT, CLEAR, 0),
    ]
    assert nights[1]["bands"]["r"]["depth"] == pytest.approx(23.0, abs=0.1)
    page = viewer("recovery").text
    assert page.index(f"{PREFIX}/recovery/{POOR}") < page.index(f"{PREFIX}/recovery/{CLEAR}")
    assert "half of the sources are recovered at 22.0" in page
    assert "None" not in page


def test_only_nights_before_one(viewer: Get) -> None:
    assert [entry["night"] for entry in viewer(f"recovery.json?before={SPARE}").json()["nights"]] == [NIGHT]
    assert "No night before 20190101" in viewer("recovery?before=20190101").text
    assert viewer("recovery?before=yesterday").status_code == 400


def test_a_night_has_its_numbers_and_both_plots(viewer: Get) -> None:
    page = viewer(f"recovery/{POOR}").text
    for text in (f"Recovery of night {SPARE}", "the limit is 22.70 mag", str(SPARE_VISIT), "600"):
        assert text in page
    told = viewer(f"recovery/{POOR}.json").json()
    assert told["plots"] == ["plot", "history"]
    assert told["summary"]["bands"]["r"]["injected"] == 600
    for name in told["plots"]:
        assert f"{PREFIX}/recovery/{POOR}/{name}.png" in page
        answer = viewer(f"recovery/{POOR}/{name}.png")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert answer.content.startswith(b"\x89PNG\r\n")


def test_the_newest_measurement_is_shown(viewer: Get, measured: Path) -> None:
    before = viewer(f"recovery/{CLEAR}.json").json()
    again = RecoveryHook(measured).measure(CLEAR, Limits(depth={"r": 22.8}))
    assert again.new
    after = viewer(f"recovery/{CLEAR}.json").json()
    assert (before["run"] != after["run"], after["run"]) == (True, again.run)
    assert len(viewer("recovery.json").json()["nights"]) == 2


def test_a_plot_that_is_not_there_is_said(viewer: Get, measured: Path) -> None:
    run = viewer(f"recovery/{CLEAR}.json").json()["run"]
    with Butler.from_config(str(measured), writeable=True) as butler:
        butler.pruneDatasets(butler.query_datasets(HISTORY_PLOT, run), unstore=True, purge=True)
    assert viewer(f"recovery/{CLEAR}.json").json()["plots"] == ["plot"]
    assert viewer(f"recovery/{CLEAR}/history.png").status_code == 404


@pytest.mark.parametrize(
    ("page", "status"),
    [
        ("recovery/20190401/2019/meanclip/diff_drp_injected", 404),
        ("recovery/20190401", 404),
        ("recovery/*/2019/meanclip/diff_drp_injected", 400),
        (f"recovery/{CLEAR}/other.png", 400),
    ],
)
def test_what_is_not_there_is_said(viewer: Get, page: str, status: int) -> None:
    answer = viewer(page)
    assert answer.status_code == status
    assert "wrong" not in answer.text


def test_where_nothing_was_injected_the_page_says_how(viewer: Get, empty: None) -> None:
    assert viewer("recovery.json").json()["nights"] == []
    assert "No night has injected sources yet" in viewer("recovery").text


def test_who_may_not_read_runs_sees_nothing(client: TestClient) -> None:
    for page in ("recovery", "recovery.json", f"recovery/{CLEAR}", f"recovery/{CLEAR}/plot.png"):
        answer = client.get(f"{PREFIX}/{page}")
        assert answer.status_code == 401
        assert str(NIGHT) not in answer.text
