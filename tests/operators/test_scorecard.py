from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from lsst.daf.butler import Butler

from conftest import BAD_VISIT, NIGHT, Reduced
from operators.airflow_context import connect, context
from tololo.hooks.butler import ButlerHook
from tololo.hooks.scorecard import verdicts
from tololo.operators.scorecard import ScoreNightOperator


@pytest.fixture
def repository(reduced: Reduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = reduced.copy(tmp_path)
    connect(monkeypatch, folder, tmp_path)
    return folder


def score(*, proc_type: str = "instcal", where: str = "", night: int = NIGHT, **params: Any) -> Any:
    operator = ScoreNightOperator(
        task_id="scorecard", proc_type=proc_type, night=str(night), where=where, conn_id="butler_test"
    )
    return operator.execute(context(**params))


def test_a_night_is_scored_once(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = score()
    assert first == {
        "repository": str(repository),
        "night": str(NIGHT),
        "chain": f"{NIGHT}/instcal",
        "run": first["run"],
        "visits": 3,
        "accepted": 2,
        "flagged": [],
        "rejected": [BAD_VISIT],
    }
    said = capsys.readouterr().out
    assert "3 visits, 2 accepted, 0 flagged, 1 rejected" in said
    assert f"{BAD_VISIT} is rejected: 0 of 1 detectors were calibrated" in said
    assert score() == first
    assert "the same was there before" in capsys.readouterr().out
    assert ButlerHook(repository).collections("*/scorecard/*") == [first["run"]]


def test_what_was_not_asked_for_is_not_missing(repository: Path) -> None:
    with Butler.from_config(str(repository), writeable=True) as butler:
        runs = butler.collections.get_info(f"{NIGHT}/instcal").children[:1]
        butler.collections.remove_from_chain(f"{NIGHT}/instcal", runs)
        butler.removeRuns(runs)
    with pytest.raises(AirflowSkipException, match="no exposures"):
        score(detectors="3, 4")
    with pytest.raises(AirflowSkipException, match="no exposures"):
        score(where="band = 'g'")
    assert score(where="band = 'r'", detectors="28")["rejected"] == [840001, 840002, 840003]


def test_a_dry_run_says_it_and_writes_nothing(repository: Path) -> None:
    planned = score(dry_run=True)
    assert (planned["run"], planned["visits"], planned["accepted"]) == ("", 3, 2)
    assert ButlerHook(repository).collections("*/scorecard/*") == []


def test_limits_are_those_of_the_facility(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tololo.facility.configuration import INCLUDE, facility

    text = (INCLUDE / "configs" / "facility.yaml").read_text()
    path = tmp_path / "facility.yaml"
    path.write_text(text.replace("seeing: {flag: 2.0, reject: 3.5}", "seeing: {flag: 0.5, reject: 0.6}"))
    monkeypatch.setenv("TOLOLO_FACILITY", str(path))
    facility.cache_clear()
    try:
        everything = score()
    finally:
        facility.cache_clear()
    # That nothing is good is no error.
    assert (everything["accepted"], len(everything["rejected"])) == (0, 3)
    with Butler.from_config(str(repository)) as butler:
        assert set(verdicts(butler, NIGHT, "instcal").values()) == {"rejected"}


def test_nothing_to_score_is_skipped_and_bad_input_fails(repository: Path) -> None:
    with pytest.raises(AirflowSkipException, match="Night 20190501 has no exposures"):
        score(night=20190501)
    with pytest.raises(AirflowFailException, match="drp or instcal"):
        score(proc_type="flat")
    skipped = ScoreNightOperator(task_id="scorecard", skip="not today", night=str(NIGHT))
    with pytest.raises(AirflowSkipException, match="not today"):
        skipped.execute(context())
