"""The operator that certifies a night's calibrations, as its task runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from lsst.daf.butler import Butler

from hooks.curated import content, snapshot
from hooks.night_repository import DETECTORS, NIGHT, build, make
from operators.airflow_context import connect, context
from tololo.facility.nights import shift
from tololo.operators.calibrations import CertifyNightOperator

BEFORE = shift(NIGHT, -2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("certified") / "repo")
    with Butler.from_config(str(folder), writeable=True) as butler:
        make(butler, "bias", detectors=(25, 26))
        make(butler, "bias", BEFORE)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(made, tmp_path / "repo"))
    connect(monkeypatch, copy, tmp_path)
    return copy


def run(night: int = NIGHT, options: dict[str, Any] | None = None, **params: Any) -> Any:
    """Fill in the templates and execute, as a task does."""
    operator = CertifyNightOperator(**({"task_id": "t", "kind": "bias"} | (options or {})))
    filled = context(**({"night": str(night), "max_calib_age": 7} | params))
    operator.render_template_fields(
        filled | {"night_of": lambda dag_run, params: params["night"]},
    )
    return operator.execute(filled)


def test_it_says_which_night_is_used_and_why(folder: Path) -> None:
    run(BEFORE)
    planned = run(dry_run=True)
    report = run()
    assert planned == report
    json.dumps(report)
    assert [(use["night"], use["age"], use["detectors"]) for use in report["uses"]] == [
        (BEFORE, -2, [27]),
        (NIGHT, 0, [25, 26]),
    ]
    assert report["uses"][0]["reason"] == "the night has none of its own"
    before = content(folder)
    again = run()
    assert (again["certified"], again["known"]) == (0, len(DETECTORS))
    assert content(folder) == before


def test_what_is_missing_fails_at_once_with_its_name(folder: Path) -> None:
    run(BEFORE)
    with pytest.raises(
        AirflowFailException, match=r"no accepted bias for detector 27.*max_calib_age \(now 1\)"
    ):
        run(max_calib_age=1)
    assert run(max_calib_age="1", options={"threshold": "0.6"})["missing"] == ["bias for detector 27"]
    assert run(detectors="25, 26", max_calib_age=1)["missing"] == []
    assert run(options={"where": "detector > 24"}, where="detector = 25", max_calib_age=1)["missing"] == []


def test_limits_of_the_facility_decide(folder: Path) -> None:
    strict = {"limits": {"bias": {"read_noise": [None, 5]}}}
    with pytest.raises(AirflowFailException, match="read_noise of amplifier A is 7, above 5"):
        run(options=strict)


def test_nothing_to_certify_is_skipped(folder: Path) -> None:
    with pytest.raises(AirflowSkipException, match="no flat of the night"):
        run(shift(NIGHT, 20), {"kind": "flat"})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "dark"}, "'dark' is not certified"),
        ({"max_age": "a week"}, "'a week'"),
        ({"limits": {"bias": {"noise": [0, 1]}}}, "no such limit"),
        ({"conn_id": "butler_nowhere"}, "butler_nowhere"),
    ],
)
def test_what_is_refused_fails_at_once(folder: Path, options: dict[str, Any], says: str) -> None:
    before = snapshot(folder)
    with pytest.raises(AirflowFailException, match=says):
        run(options=options)
    assert snapshot(folder) == before
