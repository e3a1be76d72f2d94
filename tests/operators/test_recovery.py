from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from conftest import GOOD_VISITS, NIGHT
from hooks.recovered_night import chain_of, plant
from operators.airflow_context import connect, context
from reduction.recovered import Sky
from tololo.facility.configuration import INCLUDE, facility
from tololo.hooks.butler import ButlerHook
from tololo.operators.recovery import MeasureRecoveryOperator


@pytest.fixture
def folder(ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    repository = Path(shutil.copytree(ingested, tmp_path / "repository"))
    connect(monkeypatch, repository, tmp_path)
    return repository


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A facility whose alarms fail the task."""
    text = (INCLUDE / "configs" / "facility.yaml").read_text()
    path = tmp_path / "facility.yaml"
    path.write_text(text.replace("  alarm: warn", "  alarm: fail"))
    monkeypatch.setenv("TOLOLO_FACILITY", str(path))
    facility.cache_clear()
    yield
    facility.cache_clear()


def measure(running: dict[str, Any] | None = None, chain: str = chain_of(NIGHT), **params: Any) -> Any:
    operator = MeasureRecoveryOperator(task_id="recovery", chain=chain, conn_id="butler_test")
    return operator.execute(running or context(**params))


def test_the_numbers_of_a_night_are_returned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(folder, NIGHT, (GOOD_VISITS[0], Sky()))
    running = context()
    returned = measure(running)
    found = returned["bands"]["r"]
    assert returned | {"bands": None, "run": None} == {
        "repository": str(folder),
        "night": str(NIGHT),
        "chain": chain_of(NIGHT),
        "run": None,
        "new": True,
        "bands": None,
        "alarms": [],
    }
    assert set(found) == {"injected", "depth", "completeness", "purity", "bias"}
    assert found["depth"] == pytest.approx(23.0, abs=0.1)
    said = capsys.readouterr().out
    assert "Band r: " in said
    assert f"Recorded in {returned['run']}" in said
    assert "half complete at" in running["task_state_store"]["progress"]
    assert not measure()["new"]
    assert ButlerHook(folder).collections("*/recovery/*") == [returned["run"]]


def test_fluxes_that_are_off_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(folder, NIGHT, (GOOD_VISITS[0], Sky(bias=0.05)))
    running = context()
    (alarm,) = measure(running)["alarms"]
    assert "fluxes are +5." in alarm
    assert f"BEYOND THE LIMIT: {alarm}" in capsys.readouterr().out
    assert running["task_state_store"]["progress"] == alarm


@pytest.mark.usefixtures("failing")
def test_an_alarm_can_fail_the_task_after_all_is_recorded(folder: Path) -> None:
    plant(folder, NIGHT, (GOOD_VISITS[0], Sky(bias=0.05)))
    with pytest.raises(AirflowFailException, match=r"fluxes are \+5.* limits are in facility.yaml"):
        measure()
    assert len(ButlerHook(folder).collections("*/recovery/*")) == 1


def test_a_dry_run_says_it_and_writes_nothing(folder: Path) -> None:
    plant(folder, NIGHT, (GOOD_VISITS[0], Sky()))
    assert measure(dry_run=True)["run"] == ""
    assert ButlerHook(folder).collections("*/recovery/*") == []


def test_nothing_to_measure_is_skipped_and_bad_input_fails(folder: Path) -> None:
    with pytest.raises(AirflowSkipException, match="no difference images with injected sources"):
        measure()
    with pytest.raises(AirflowFailException, match="no chain of difference images with injected sources"):
        measure(chain=f"{NIGHT}/instcal")
