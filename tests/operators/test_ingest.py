from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from conftest import NIGHT, SPARE
from operators.airflow_context import connect, context
from tololo.hooks.butler import ButlerHook
from tololo.operators.ingest import IngestInstcalOperator
from tololo.simulation.faults import spoil
from tololo.simulation.plan import Fault
from tololo.simulation.truth import Truth


@pytest.fixture
def files(small_nights: Truth, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_nights.images, tmp_path / "files"))


def ingest(**params: Any) -> Any:
    return IngestInstcalOperator(task_id="ingest").execute(context(**params))


def exposures(repository: Path) -> int:
    return ButlerHook(repository).count("instcal_image", "DECam/instcal/all")


def test_only_the_night_is_ingested_and_only_once(repository: Path, files: Path) -> None:
    result = ingest(night=str(NIGHT), data=str(files))
    assert result == {"night": str(NIGHT), "new": [840001, 840002, 840003], "known": [], "skipped": []}
    counts = ButlerHook(repository).counts(f"{NIGHT}/instcal")
    assert counts == {"instcal_image": 3, "instcal_mask": 3, "instcal_weight": 3}
    again = ingest(key=str(NIGHT), data=str(files))
    assert (again["new"], again["known"]) == ([], [840001, 840002, 840003])
    assert ButlerHook(repository).counts(f"{NIGHT}/instcal") == counts
    assert exposures(repository) == 3


def test_a_night_without_exposures_is_skipped_and_the_others_named(repository: Path, files: Path) -> None:
    with pytest.raises(AirflowSkipException) as caught:
        ingest(night="20190310", data=str(files))
    for text in ("20190310", str(NIGHT), str(SPARE), str(files)):
        assert text in str(caught.value)
    assert exposures(repository) == 0


def test_without_a_night_the_one_that_just_ended_is_meant(repository: Path, files: Path) -> None:
    with pytest.raises(AirflowSkipException, match="night 20190402"):
        ingest(data=str(files))


def test_two_nights_that_disagree_are_refused(repository: Path, files: Path) -> None:
    with pytest.raises(AirflowFailException, match=f"night {SPARE}.*names night {NIGHT}"):
        ingest(key=str(SPARE), night=str(NIGHT), data=str(files))


def test_a_dry_run_touches_nothing(repository: Path, files: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in repository.rglob("*"))
    assert ingest(night=str(NIGHT), data=str(files), dry_run=True)["exposures"] == [840001, 840002, 840003]
    assert sorted((path, path.stat().st_mtime_ns) for path in repository.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("truncated", r"trunc|cut|ends|shorter|damaged"),
        ("missing_weight", r"weight|oow"),
        ("missing_mask", r"mask|ood"),
        ("unknown_filter", r"q DECam c0099"),
    ],
)
def test_spoilt_files_are_named_and_nothing_is_ingested(
    repository: Path, files: Path, kind: Any, says: str
) -> None:
    spoil(files, Fault(kind, exposure=1))
    with pytest.raises(AirflowFailException, match=rf"(?is){says}") as caught:
        ingest(night=str(NIGHT), data=str(files))
    assert "c4d_190310_050153" in str(caught.value)
    assert "What to do:" in str(caught.value)
    assert exposures(repository) == 0


def test_an_exposure_of_another_camera_is_refused(repository: Path, files: Path) -> None:
    spoil(files, Fault("not_decam", exposure=3))
    with pytest.raises(AirflowFailException, match=r"840004.*not from DECam.*Mosaic3"):
        ingest(night=str(SPARE), data=str(files))
    assert exposures(repository) == 0


@pytest.mark.parametrize("spoilt", ["empty", "absent", "unrelated"])
def test_a_folder_without_exposures_is_one_message(repository: Path, tmp_path: Path, spoilt: str) -> None:
    folder = tmp_path / spoilt
    if spoilt != "absent":
        folder.mkdir()
    if spoilt == "unrelated":
        (folder / "thesis.txt").write_text("clouds")
    with pytest.raises(AirflowFailException) as caught:
        ingest(night=str(SPARE), data=str(folder))
    assert str(folder) in str(caught.value)
    assert "What to do:" in str(caught.value)
    assert exposures(repository) == 0


def test_a_missing_repository_and_connection_are_named(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, tmp_path / "nowhere", tmp_path)
    with pytest.raises(AirflowFailException, match="repo_bootstrap"):
        ingest(night=str(SPARE), data=str(files))
    with pytest.raises(AirflowFailException, match="butler_absent"):
        ingest(night=str(SPARE), data=str(files), repo="butler_absent")
