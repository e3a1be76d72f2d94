"""The pages in Airflow's real web application; what they show comes from a real repository by the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from markupsafe import escape

from tololo.engine import client as engine
from tololo.pages.views import PREFIX

from .conftest import token
from .scored import CLOUDED, NIGHT

Get = Callable[[str], Any]
Run = Callable[..., str]

CARD = f"nights/{NIGHT}/drp/scorecard"
PAGES = ("nights", "nights.json", CARD, f"{CARD}.json", f"nights/{NIGHT}/drp/plot.png")


def of(run_id: str, dag_id: str = "nightly_decam", page: str = "scorecard") -> str:
    return f"runs/{dag_id}/{quote(run_id, safe='')}/{page}"


@pytest.fixture(scope="module")
def scored(run: Run, repository: Path) -> str:
    """A run that has scored NIGHT."""
    collection = f"{NIGHT}/drp/scorecard/20260101T000000Z"
    told = {"repository": str(repository), "night": str(NIGHT), "chain": f"{NIGHT}/drp", "run": collection}
    return run("nightly_decam", night=str(NIGHT), told=told)


@pytest.mark.parametrize("page", [*PAGES, of("any"), of("any", page="plot.png")])
def test_nobody_reads_without_a_login(client: TestClient, page: str) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Cookie": "_token=nonsense"}):
        answer = client.get(f"{PREFIX}/{page}", headers=headers)
        assert answer.status_code in (401, 403)
        assert str(NIGHT) not in answer.text.replace(page, "")
    refused = client.get(f"{PREFIX}/{page}", headers={"Authorization": f"Bearer {token(None)}"})
    assert refused.status_code == 403


def test_a_browser_is_told_to_log_in(client: TestClient) -> None:
    answer = client.get(f"{PREFIX}/nights")
    assert answer.status_code == 401
    assert "You are not logged in" in answer.text
    assert client.get(f"{PREFIX}/nights.json").json()["what"] == "You are not logged in"


@pytest.mark.parametrize("page", PAGES)
def test_the_login_of_airflow_opens_the_pages(client: TestClient, page: str) -> None:
    for headers in ({"Authorization": f"Bearer {token('viewer')}"}, {"Cookie": f"_token={token('viewer')}"}):
        answer = client.get(f"{PREFIX}/{page}", headers=headers)
        assert answer.status_code == 200
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
        assert "no-cache" in answer.headers["cache-control"]


def test_the_scorecard_of_a_night_has_its_numbers_and_reasons(viewer: Get) -> None:
    page = viewer(CARD).text
    reasons = [row["reasons"] for row in viewer(f"{CARD}.json").json()["visits"]]
    assert "no <b>stars</b> & nothing else" in reasons[2]
    for text in (
        f"Night {NIGHT}",
        '<span class="badge flagged">flagged</span>',
        '<span class="badge rejected">rejected</span>',
        str(escape(reasons[1])),
        str(escape(reasons[2])),
        "arcsec",
        "2 days earlier",
        "counts of amplifier A is 812, below 1000",
        "1 h 10 min",
        f"{PREFIX}/nights/{NIGHT}/drp/plot.png",
    ):
        assert text in page
    assert "<b>stars" not in page


def test_the_plot_is_a_png(viewer: Get) -> None:
    answer = viewer(f"nights/{NIGHT}/drp/plot.png")
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")


def test_a_page_as_json_says_the_same(viewer: Get, repository: Path) -> None:
    card = viewer(f"{CARD}.json").json()
    assert (card["night"], card["repository"], card["plot"]) == (NIGHT, str(repository), True)
    assert [row["verdict"] for row in card["visits"]] == ["accepted", "flagged", "rejected", "accepted"]


def test_a_run_shows_the_scorecard_that_it_has_made(viewer: Get, scored: str) -> None:
    card = viewer(of(scored, page="scorecard.json")).json()
    assert (card["night"], card["note"]) == (NIGHT, "")
    assert card["dag_run"] == {"dag_id": "nightly_decam", "run_id": scored, "state": "success"}
    assert f"Night {NIGHT}" in viewer(of(scored)).text
    assert viewer(of(scored, page="plot.png")).content.startswith(b"\x89PNG")


def test_a_run_that_has_not_scored_shows_what_was_there_before_and_says_so(viewer: Get, run: Run) -> None:
    card = viewer(of(run("nightly_decam", night=str(CLOUDED)), page="scorecard.json")).json()
    assert card["run"] == f"{CLOUDED}/drp/scorecard/20260101T000000Z"
    assert "has not scored the night" in card["note"]


def test_a_run_whose_scorecard_is_gone_says_so(viewer: Get, run: Run, repository: Path) -> None:
    told = {"repository": str(repository), "night": str(NIGHT), "chain": f"{NIGHT}/drp", "run": "gone"}
    card = viewer(of(run("nightly_decam", night=str(NIGHT), told=told), page="scorecard.json")).json()
    assert "is gone" in card["note"]
    assert card["current"]


def test_a_run_with_nothing_to_show_says_what_to_do(viewer: Get, run: Run) -> None:
    skipped = viewer(of(run("nightly_decam", night="20190405")))
    assert skipped.status_code == 404
    assert "Night 20190405 has not been scored" in skipped.text
    assert "which was skipped" in skipped.text
    failed = viewer(of(run("nightly_decam", night="20190405", told={"fail": True})))
    assert "read the log of scorecard, which failed" in failed.text


@pytest.mark.parametrize(
    ("params", "where"),
    [
        ({"source": "instcal"}, "20190405/instcal"),
        ({"injected": "auto"}, "20190405/drp"),
    ],
)
def test_the_params_say_where_a_scorecard_will_be(
    viewer: Get, run: Run, params: dict[str, Any], where: str
) -> None:
    error = viewer(of(run("nightly_decam", night="20190405", **params), page="scorecard.json")).json()
    assert error["where"] == f"collection {where}"


def test_other_dags_show_the_scorecard_of_the_visits_they_use(viewer: Get, run: Run) -> None:
    used = viewer(of(run("difference_imaging", night=str(NIGHT)), "difference_imaging"))
    assert "difference_imaging works on the visits of this scorecard" in used.text
    none = viewer(of(run("repo_bootstrap"), "repo_bootstrap"))
    assert none.status_code == 404
    assert "Runs of repo_bootstrap have no scorecard" in none.text


@pytest.mark.parametrize(
    ("params", "wrong"),
    [
        ({"night": "20190431"}, "no date of the calendar"),
        ({"night": str(NIGHT), "repo": "nowhere"}, "There is no such connection"),
    ],
)
def test_wrong_params_are_told(viewer: Get, run: Run, params: dict[str, str], wrong: str) -> None:
    answer = viewer(of(run("nightly_decam", **params)))
    assert answer.status_code == 400
    assert wrong in answer.text


def test_what_is_not_there_is_told(viewer: Get) -> None:
    for page, text in {
        of("nothing"): "There is no run nothing of nightly_decam",
        "nights/20190405/drp/scorecard": "Night 20190405 has not been scored",
        "nights/20190405/drp/plot.png": "Night 20190405 has no plot",
        "nowhere": "Not Found",
    }.items():
        answer = viewer(page)
        assert answer.status_code == 404
        assert text in answer.text


def test_the_board_lists_nights_that_were_scored_or_tried(viewer: Get, scored: str, run: Run) -> None:
    tried = run("nightly_decam", night="20190407", told={"fail": True})
    board = viewer("nights.json").json()
    nights = {entry["night"]: entry for entry in board["nights"]}
    assert list(nights) == sorted(nights, reverse=True)
    assert nights[20190407]["dag_run"] == {"run_id": tried, "state": "failed"}
    assert nights[20190407]["summary"] is None
    counted = nights[CLOUDED]["summary"]
    assert (counted["visits"], counted["accepted"], len(counted["flagged"])) == (4, 2, 1)
    assert "by_detector" not in counted["detectors"]
    page = viewer("nights").text
    assert f'href="{PREFIX}/nights/{CLOUDED}/drp/scorecard"' in page
    assert f'href="{PREFIX}/{of(tried)}"' in page.replace("%3A", quote(":")).replace("%2B", quote("+"))


def test_the_board_goes_back_in_time(viewer: Get) -> None:
    board = viewer(f"nights.json?before={CLOUDED}").json()
    assert [entry["night"] for entry in board["nights"]] == [NIGHT]
    assert "No night before 20000101" in viewer("nights?before=20000101").text
    assert viewer("nights?before=yesterday").status_code == 400


def test_a_repository_that_is_not_there_is_told(
    viewer: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_DEFAULT", f'{{"conn_type": "butler", "host": "{tmp_path}"}}')
    answer = viewer("nights")
    assert answer.status_code == 400
    assert "There is no Butler repository" in answer.text
    assert "Traceback" not in answer.text


def test_an_engine_that_does_not_start_is_told(
    viewer: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path))
    monkeypatch.setattr(engine, "SERVER", ["false"])
    answer = viewer(CARD)
    assert answer.status_code == 503
    assert "The engine server does not start" in answer.text
    assert viewer(f"{CARD}.json").json()["remedy"] == "read its log"
