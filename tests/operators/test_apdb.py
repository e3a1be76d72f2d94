from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from lsst.daf.butler import Butler

from conftest import GOOD_VISITS, NIGHT, SPARE, Reduced
from operators.airflow_context import TEMPLATE, connect, context
from operators.conftest import Templated
from tololo.facility.configuration import facility
from tololo.facility.scorecard import read_limits
from tololo.hooks.apdb import ApdbHook
from tololo.hooks.scorecard import score_night
from tololo.operators.apdb import PrepareApdbOperator

PARAMS = {**TEMPLATE, "proc_type": None, "apdb": None, "apdb_policy": "use"}


def prepare(**params: Any) -> Any:
    return PrepareApdbOperator(task_id="prepare").execute(context(**PARAMS | params))


def test_a_night_without_visits_is_skipped(
    templated: Templated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, templated.repository, tmp_path)
    with pytest.raises(AirflowSkipException, match=f"Night {SPARE} has no visits.*nightly_decam"):
        prepare(night=str(SPARE))
    assert not (tmp_path / "apdb").exists()


def test_without_a_template_it_is_skipped(
    reduced: Reduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, reduced.repository, tmp_path)
    with pytest.raises(AirflowSkipException, match=r"no template.*2019/meanclip/coadd.*template_coadds"):
        prepare(night=str(NIGHT))
    assert not (tmp_path / "apdb").exists()


def test_the_apdb_is_made_once_then_taken(
    templated: Templated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, templated.repository, tmp_path)
    planned = prepare(night=str(NIGHT), dry_run=True)
    assert not (tmp_path / "apdb").exists()
    made = prepare(night=str(NIGHT))
    assert (
        made
        == planned
        == {
            "apdb": "2019_meanclip",
            "apdb_config": str(tmp_path / "apdb" / "2019_meanclip.yaml"),
            "where": f"skymap = '{facility().skymap}'",
            "proc_type": "instcal",
        }
    )
    assert ApdbHook().counts("2019_meanclip") == {"DiaObject": 0, "DiaSource": 0, "DiaForcedSource": 0}
    assert prepare(night=str(NIGHT)) == made
    with pytest.raises(AirflowFailException, match="exists"):
        prepare(night=str(NIGHT), apdb_policy="refuse")
    assert prepare(night=str(NIGHT), apdb="mine")["apdb_config"].endswith("/mine.yaml")


def test_visits_that_the_scorecard_rejects_are_left_out(
    templated: Templated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = templated.copy(tmp_path)
    connect(monkeypatch, repository, tmp_path)
    prepare(night=str(NIGHT), dry_run=True)
    assert f"no scorecard, so all visits are taken, of {NIGHT}" in capsys.readouterr().out
    worse = GOOD_VISITS[1]
    for limits, where in (
        ({"flag": 0.1}, f"skymap = '{facility().skymap}'"),
        ({"flag": 0.1, "reject": 1.1}, f"skymap = '{facility().skymap}' AND visit NOT IN ({worse})"),
    ):
        with Butler.from_config(str(repository), writeable=True) as butler:
            score_night(butler, NIGHT, "instcal", limits=read_limits({"seeing": limits}))
        assert prepare(night=str(NIGHT), dry_run=True)["where"] == where
    assert f"left out: 1 rejected ({worse})" in capsys.readouterr().out
    with Butler.from_config(str(repository), writeable=True) as butler:
        score_night(butler, NIGHT, "instcal", limits=read_limits({"seeing": {"reject": 0.1}}))
    with pytest.raises(AirflowSkipException, match="no visit that is good enough: 2 rejected"):
        prepare(night=str(NIGHT))
    assert not (tmp_path / "apdb").exists()


def test_visits_of_the_other_kind_are_not_taken_instead(
    templated: Templated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, templated.repository, tmp_path)
    assert prepare(night=str(NIGHT), proc_type="instcal", dry_run=True)["proc_type"] == "instcal"
    with pytest.raises(AirflowSkipException, match=f"Night {NIGHT} has no visits.*{NIGHT}/drp"):
        prepare(night=str(NIGHT), proc_type="drp")
