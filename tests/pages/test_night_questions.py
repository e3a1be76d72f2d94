from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler

from hooks.curated import build_empty
from tololo.engine.questions import QUESTIONS
from tololo.facility.errors import BadInputError, NothingToDoError

from .scored import CLOUDED, NIGHT, add, build

PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NIGHT and CLOUDED, the latter also from InstCal and with injected sources; NIGHT was scored twice."""
    root = build(tmp_path_factory.mktemp("scored") / "repository", NIGHT, CLOUDED)
    with Butler.from_config(str(root), writeable=True) as butler:
        add(butler, NIGHT, hour=5, bands="gg")
        add(butler, CLOUDED, "instcal")
        add(butler, CLOUDED, "drp_injected")
    return root


def ask(question: str, repository: Path, **arguments: Any) -> Any:
    answer = QUESTIONS[question](repository=str(repository), **arguments)
    json.dumps(answer, allow_nan=False)  # it goes to another process
    return answer


def test_a_scorecard_is_the_table_and_the_summary(repository: Path) -> None:
    card = ask("night_scorecard", repository, night=CLOUDED, proc_type="drp")
    assert (card["night"], card["proc_type"], card["current"], card["plot"]) == (CLOUDED, "drp", True, True)
    assert card["run"] == f"{CLOUDED}/drp/scorecard/20260101T000000Z"
    assert [row["verdict"] for row in card["visits"]] == ["accepted", "flagged", "rejected", "accepted"]
    assert card["summary"]["rejected"] == [card["visits"][2]["visit"]]
    assert card["visits"][0]["seeing"] == pytest.approx(0.9)
    assert card["visits"][2]["seeing"] is None
    assert card["visits"][2]["detectors"] == 0


def test_the_newest_is_shown_unless_a_run_asks_for_its_own(repository: Path) -> None:
    newest = ask("night_scorecard", repository, night=str(NIGHT), proc_type="drp")
    assert (newest["run"][-16:], len(newest["visits"]), newest["current"]) == ("20260101T050000Z", 2, True)
    run = f"{NIGHT}/drp/scorecard/20260101T000000Z"
    older = ask("night_scorecard", repository, night=NIGHT, proc_type="drp", run=run)
    assert (older["run"], len(older["visits"]), older["current"]) == (run, 4, False)


def test_of_a_run_that_is_gone_the_newest_is_shown(repository: Path) -> None:
    card = ask("night_scorecard", repository, night=NIGHT, proc_type="drp", run=f"{NIGHT}/drp/scorecard/gone")
    assert card["run"].endswith("20260101T050000Z")


def test_a_plot_is_the_file(repository: Path) -> None:
    for run in ("", f"{NIGHT}/drp/scorecard/20260101T000000Z"):
        content = ask("night_plot", repository, night=NIGHT, proc_type="drp", run=run)
        assert base64.b64decode(content).startswith(PNG)


def test_nights_are_listed_with_what_their_chains_show(repository: Path) -> None:
    found = ask("scored_nights", repository)
    assert [(entry["night"], entry["proc_type"]) for entry in found["nights"]] == [
        (CLOUDED, "drp"),
        (CLOUDED, "drp_injected"),
        (CLOUDED, "instcal"),
        (NIGHT, "drp"),
    ]
    assert found["earlier"] is False
    latest = found["nights"][-1]
    assert (latest["run"][-16:], latest["summary"]["visits"]) == ("20260101T050000Z", 2)


def test_a_page_of_nights_goes_on_where_the_last_one_ended(repository: Path) -> None:
    first = ask("scored_nights", repository, limit=1)
    assert ({entry["night"] for entry in first["nights"]}, first["earlier"]) == ({CLOUDED}, True)
    second = ask("scored_nights", repository, limit=1, before=str(CLOUDED))
    assert ([entry["night"] for entry in second["nights"]], second["earlier"]) == ([NIGHT], False)


def test_what_was_removed_from_the_chain_is_not_listed(tmp_path: Path) -> None:
    root = build(tmp_path / "repository", NIGHT)
    with Butler.from_config(str(root), writeable=True) as butler:
        butler.collections.remove_from_chain(f"{NIGHT}/drp", [f"{NIGHT}/drp/scorecard/20260101T000000Z"])
    assert ask("scored_nights", root)["nights"] == []
    with pytest.raises(NothingToDoError, match="has not been scored"):
        ask("night_scorecard", root, night=NIGHT, proc_type="drp")


def test_a_night_whose_file_is_lost_does_not_hide_the_others(tmp_path: Path) -> None:
    root = build(tmp_path / "repository", NIGHT, CLOUDED)
    for path in (root / str(NIGHT)).rglob("night_summary*.yaml"):
        path.unlink()
    found = {entry["night"]: entry["summary"] for entry in ask("scored_nights", root)["nights"]}
    assert found[NIGHT] is None
    assert found[CLOUDED]["visits"] == 4


def test_a_repository_without_scorecards_has_none(tmp_path: Path) -> None:
    root = build_empty(tmp_path / "repository")
    assert ask("scored_nights", root) == {"nights": [], "earlier": False}
    for question in ("night_scorecard", "night_plot"):
        with pytest.raises(NothingToDoError, match=str(NIGHT)):
            ask(question, root, night=NIGHT, proc_type="drp")


@pytest.mark.parametrize(
    ("night", "proc_type", "wrong"),
    [
        ("20190431", "drp", "calendar"),
        ("*", "drp", "not a night|cannot be part"),
        (NIGHT, "../drp", "proc_type"),
    ],
)
def test_what_is_no_night_is_refused(repository: Path, night: str, proc_type: str, wrong: str) -> None:
    with pytest.raises(BadInputError, match=wrong):
        ask("night_scorecard", repository, night=night, proc_type=proc_type)


def test_there_has_to_be_a_repository(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no Butler repository"):
        ask("scored_nights", tmp_path)
