from __future__ import annotations

import os
import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from conftest import NIGHT
from reduction.raw_files import write_raw
from sensors.waiting import deferred, finish, make, resume
from tololo.facility.nights import just_ended, night_bounds
from tololo.sensors.night_files import NightFilesSensor

TONIGHT = just_ended(datetime.now(UTC))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "raws"
    folder.mkdir()
    return folder


def raw(folder: Path, number: int, kind: str, night: int = TONIGHT) -> None:
    when = night_bounds(night)[0] + timedelta(hours=12)
    write_raw(folder, number, kind, when, name=f"{number}.fits.fz")


def sensor(folder: Path, night: int = TONIGHT, **params: Any) -> tuple[NightFilesSensor, dict[str, Any]]:
    own = {"source": "raw", "data": str(folder), "proc_types": ["bias", "drp"], "wait": 240.0}
    made, filled = make(NightFilesSensor, params=own | {"night": str(night)} | params)
    filled["dag_run"].partition_key = None
    return made, filled


def test_it_waits_for_each_kind_and_then_goes_on(folder: Path) -> None:
    raw(folder, 1, "zero")
    made, filled = sensor(folder)
    stopped = deferred(made, filled)
    raw(folder, 2, "object")
    threading.Timer(0.5, _age, [folder]).start()
    assert resume(made, filled, stopped) == 2


def _age(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60,) * 2)


def test_a_night_long_ago_is_not_waited_for(folder: Path) -> None:
    raw(folder, 1, "zero", NIGHT)
    made, filled = sensor(folder, NIGHT)
    assert made.execute(filled) == 1


def test_a_night_without_files_is_skipped_and_says_so(folder: Path) -> None:
    made, filled = sensor(folder, NIGHT)
    with pytest.raises(AirflowSkipException, match=f"raw exposures of night {NIGHT} in {folder}"):
        made.execute(filled)
    assert str(NIGHT) in filled["task_state_store"]["progress"]


def test_when_the_time_is_up_what_is_there_must_do(folder: Path) -> None:
    raw(folder, 1, "zero")
    hours = (time.time() + 1.5 - night_bounds(TONIGHT)[1].timestamp()) / 3600
    made, filled = sensor(folder, wait=hours)
    assert finish(made, filled) == 1


def test_a_folder_that_is_not_there_fails_at_once(folder: Path) -> None:
    shutil.rmtree(folder)
    made, filled = sensor(folder)
    with pytest.raises(AirflowFailException, match="does not exist"):
        made.execute(filled)


def test_a_dry_run_looks_once(folder: Path) -> None:
    made, filled = sensor(folder, dry_run=True)
    assert made.execute(filled) == 0
