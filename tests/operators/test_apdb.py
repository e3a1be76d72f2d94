from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from operators.airflow_context import TEMPLATE, context
from tololo.hooks.apdb import ApdbHook
from tololo.operators.apdb import PrepareApdbOperator

PARAMS = {**TEMPLATE, "apdb": None, "apdb_policy": "use", "apdb_templates": "refuse"}


@pytest.fixture(autouse=True)
def _apdbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from operators.airflow_context import connect

    connect(monkeypatch, tmp_path / "repository", tmp_path)


def prepare(version: str = "v1", **params: Any) -> Any:
    return PrepareApdbOperator(task_id="apdb", template_version=version).execute(context(**PARAMS | params))


def test_the_apdb_is_made_once_then_taken(tmp_path: Path) -> None:
    config = str(tmp_path / "apdb" / "2019_meanclip.yaml")
    assert prepare(dry_run=True) == {"apdb": "2019_meanclip", "apdb_config": config, "outcome": "dry run"}
    assert not (tmp_path / "apdb").exists()
    assert prepare() == {"apdb": "2019_meanclip", "apdb_config": config, "outcome": "created"}
    assert ApdbHook().counts("2019_meanclip") == {"DiaObject": 0, "DiaSource": 0, "DiaForcedSource": 0}
    assert prepare()["outcome"] == "used"
    with pytest.raises(AirflowFailException, match="exists"):
        prepare(apdb_policy="refuse")
    assert prepare(apdb_policy="reset")["outcome"] == "reset"
    assert prepare(apdb="mine")["apdb_config"].endswith("/mine.yaml")


def test_the_version_of_the_template_is_recorded_and_another_is_refused() -> None:
    prepare("v1")
    with ApdbHook().opened("2019_meanclip") as apdb:
        assert apdb.metadata.get("tololo:template_version") == "v1"
    with pytest.raises(AirflowFailException, match="v1"):
        prepare("v2")
    assert prepare("v2", apdb_templates="use")["outcome"] == "used"


def test_an_apdb_of_injected_sources_is_no_apdb_of_the_sky(tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match="is for injected sources"):
        prepare(apdb="mine_injected")
    assert not (tmp_path / "apdb").exists()
