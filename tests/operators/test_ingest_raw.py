from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators.airflow_context import connect, context
from reduction.raw_files import EVENING, NIGHT, write_raw
from tololo.facility.bad_exposures import exclusions
from tololo.facility.configuration import INCLUDE, facility
from tololo.hooks.butler import ButlerHook
from tololo.operators.ingest import IngestRawOperator

FLAT, BIAS, SCIENCE, LATE, NEXT = 841_001, 841_002, 841_003, 841_004, 841_005


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A night with a bias of the morning after, and a bias of the afternoon after that."""
    folder = tmp_path / "files"
    write_raw(folder, FLAT, "dome flat", datetime(2019, 4, 1, 19, 30, tzinfo=UTC), [2])
    write_raw(folder, BIAS, "zero", datetime(2019, 4, 1, 20, 0, tzinfo=UTC), [2])
    write_raw(folder, SCIENCE, "object", EVENING, [2])
    write_raw(folder, LATE, "zero", datetime(2019, 4, 2, 13, 0, tzinfo=UTC), [2])
    write_raw(folder, NEXT, "zero", datetime(2019, 4, 2, 20, 0, tzinfo=UTC), [2])
    return folder


def ingest(**params: Any) -> Any:
    return IngestRawOperator(task_id="ingest").execute(context(**params))


def test_only_what_serves_the_night_is_ingested_and_only_once(repository: Path, files: Path) -> None:
    result = ingest(night=str(NIGHT), data=str(files))
    assert result["new"] == [FLAT, BIAS, SCIENCE, LATE]
    assert (result["night"], result["known"], result["skipped"], result["excluded"]) == (
        str(NIGHT),
        [],
        [],
        [],
    )
    assert "1 of 62 detectors" in result["incomplete"][0]
    hook = ButlerHook(repository)
    assert [hook.counts(f"{NIGHT}/{kind}") for kind in ("bias", "flat", "drp")] == [
        {"raw": 2},
        {"raw": 1},
        {"raw": 1},
    ]
    again = ingest(key=str(NIGHT), data=str(files))
    assert (again["new"], again["known"]) == ([], [FLAT, BIAS, SCIENCE, LATE])
    assert hook.count("raw", "DECam/raw/all") == 4


def test_a_night_without_raws_is_skipped_and_the_others_named(repository: Path, files: Path) -> None:
    with pytest.raises(AirflowSkipException) as caught:
        ingest(night="20190310", data=str(files))
    for text in ("20190310", str(NIGHT), "20190402", str(files)):
        assert text in str(caught.value)
    assert ButlerHook(repository).count("raw", "DECam/raw/all") == 0


def test_a_dry_run_touches_nothing(repository: Path, files: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in repository.rglob("*"))
    result = ingest(night=str(NIGHT), data=str(files), dry_run=True)
    assert (result["night"], result["exposures"]) == (str(NIGHT), [FLAT, BIAS, SCIENCE, LATE])
    assert result["by_type"] == {"dome flat g": 1, "science g": 1, "zero": 2}
    labels = (
        "combineBias",
        "measureFlat",
        "combineFlat",
        "normalizeFlat",
        "calibrateVisit",
        "summarizeVisit",
    )
    assert (result["would_run"], result["missing"]) == (dict.fromkeys(labels, 1), [])
    assert sorted((path, path.stat().st_mtime_ns) for path in repository.rglob("*")) == before


def test_a_bad_file_is_reported_and_the_rest_goes_in(repository: Path, files: Path) -> None:
    cut = write_raw(files, 841_010, when=EVENING + timedelta(minutes=1), ccds=[2])
    cut.write_bytes(cut.read_bytes()[:-3000])
    other = write_raw(files, 841_011, when=EVENING + timedelta(minutes=2), change={"FILTER": None})
    result = ingest(night=str(NIGHT), data=str(files))
    assert result["new"] == [FLAT, BIAS, SCIENCE, LATE]
    notes = "\n".join(result["skipped"])
    assert len(result["skipped"]) == 2
    assert str(cut) in notes
    assert str(other) in notes
    assert ButlerHook(repository).count("raw", "DECam/raw/all") == 4


def test_only_bad_files_are_one_message(repository: Path, tmp_path: Path) -> None:
    bad = write_raw(tmp_path / "bad", 841_010, change={"OBSTYPE": "quux"})
    with pytest.raises(AirflowFailException, match="quux") as caught:
        ingest(night=str(NIGHT), data=str(bad.parent))
    assert str(bad) in str(caught.value)
    assert "What to do:" in str(caught.value)


def test_what_the_facility_excludes_is_left_out_and_named(
    repository: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(INCLUDE / "configs" / "facility.yaml", tmp_path)
    (tmp_path / "bad_exposures.yaml").write_text(
        f"exposures: [{{expnum: {BIAS}, reason: light in the dome, who: A. Observer}}]\n"
    )
    monkeypatch.setenv("TOLOLO_FACILITY", str(tmp_path / "facility.yaml"))
    write_raw(files, 841_010, when=EVENING + timedelta(minutes=1), change={"OBJECT": "Donut 3"})
    facility.cache_clear()
    exclusions.cache_clear()
    try:
        result = ingest(night=str(NIGHT), data=str(files))
    finally:
        facility.cache_clear()
        exclusions.cache_clear()
    assert result["new"] == [FLAT, SCIENCE, LATE]
    assert len(result["excluded"]) == 2
    notes = "\n".join(result["excluded"])
    assert "light in the dome (A. Observer)" in notes
    assert "'Donut 3' has the word 'donut'" in notes


def test_a_bad_file_does_not_fail_a_night_without_raws(repository: Path, files: Path) -> None:
    write_raw(files, 841_010, when=EVENING + timedelta(minutes=1), change={"OBSTYPE": "quux"})
    with pytest.raises(AirflowSkipException, match="no exposures of night 20190310"):
        ingest(night="20190310", data=str(files))


def test_a_night_that_is_all_bad_is_emptied(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_raw(tmp_path / "files", SCIENCE, ccds=[2])
    ingest(night=str(NIGHT), data=str(path.parent))
    shutil.copy(INCLUDE / "configs" / "facility.yaml", tmp_path)
    (tmp_path / "bad_exposures.yaml").write_text(
        f"exposures: [{{expnum: {SCIENCE}, reason: clouds, who: A. Observer}}]\n"
    )
    monkeypatch.setenv("TOLOLO_FACILITY", str(tmp_path / "facility.yaml"))
    exclusions.cache_clear()
    try:
        result = ingest(night=str(NIGHT), data=str(path.parent))
    finally:
        exclusions.cache_clear()
    assert (result["new"], result["known"], len(result["excluded"])) == ([], [], 1)
    assert ButlerHook(repository).count("raw", f"{NIGHT}/drp/raw") == 0


@pytest.mark.parametrize("spoilt", ["empty", "absent"])
def test_a_folder_without_files_is_one_message(repository: Path, tmp_path: Path, spoilt: str) -> None:
    folder = tmp_path / spoilt
    if spoilt == "empty":
        folder.mkdir()
    with pytest.raises(AirflowFailException, match=r"(?s)data folder.*What to do:") as caught:
        ingest(night=str(NIGHT), data=str(folder))
    assert str(folder) in str(caught.value)


def test_missing_repository_is_named(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, tmp_path / "nowhere", tmp_path)
    with pytest.raises(AirflowFailException, match="repo_bootstrap"):
        ingest(night=str(NIGHT), data=str(files))
