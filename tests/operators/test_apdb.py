from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from conftest import NIGHT, SPARE, Reduced
from operators.airflow_context import TEMPLATE, connect, context
from operators.conftest import Templated
from tololo.facility.configuration import facility
from tololo.hooks.apdb import ApdbHook
from tololo.operators.apdb import PrepareApdbOperator

PARAMS = {**TEMPLATE, "proc_type": "instcal", "apdb": None, "apdb_policy": "use"}


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
        }
    )
    assert ApdbHook().counts("2019_meanclip") == {"DiaObject": 0, "DiaSource": 0, "DiaForcedSource": 0}
    assert prepare(night=str(NIGHT)) == made
    with pytest.raises(AirflowFailException, match="exists"):
        prepare(night=str(NIGHT), apdb_policy="refuse")
    assert prepare(night=str(NIGHT), apdb="mine")["apdb_config"].endswith("/mine.yaml")
