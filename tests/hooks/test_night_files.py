from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from conftest import NIGHT, SPARE
from reduction.raw_files import EVENING, write_raw
from reduction.raw_files import NIGHT as RAW_NIGHT
from tololo.facility.errors import BadInputError
from tololo.hooks.night_files import SETTLED, night_files
from tololo.simulation.truth import Truth

BOTH = ("bias", "flat", "drp")


@pytest.fixture
def raws(tmp_path: Path) -> Path:
    folder = tmp_path / "raws" / "deep"
    folder.mkdir(parents=True)
    write_raw(folder, 841_002, "zero", EVENING, name="zero.fits.fz")
    write_raw(folder, 841_001, "dome flat", EVENING, name="flat.fits.fz")
    return folder.parent


def later(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.rglob("*")) + SETTLED + 1


def test_what_has_not_come_is_named_by_kind(raws: Path) -> None:
    seen = night_files(raws, RAW_NIGHT, "raw", BOTH, now=later(raws))
    assert seen == {"ready": False, "missing": ["raws for drp (object)"], "found": 2}
    assert night_files(raws, RAW_NIGHT, "raw", ("bias", "flat"), now=later(raws))["ready"]


def test_a_file_that_still_changes_has_not_arrived(raws: Path) -> None:
    path = raws / "deep" / "zero.fits.fz"
    seen = night_files(raws, RAW_NIGHT, "raw", ("bias",), now=path.stat().st_mtime + 1)
    assert not seen["ready"]
    assert any(str(path) in missing for missing in seen["missing"])


def test_what_was_seen_is_read_again_when_it_changes(raws: Path) -> None:
    assert night_files(raws, RAW_NIGHT, "raw", (), now=later(raws))["found"] == 2
    path = raws / "deep" / "zero.fits.fz"
    path.write_bytes(b"no longer an exposure")
    assert night_files(raws, RAW_NIGHT, "raw", (), now=later(raws))["found"] == 1


def test_other_nights_and_sources_and_rubbish_do_not_count(raws: Path, small_nights: Truth) -> None:
    shutil.copytree(small_nights.images, raws / "instcal")
    (raws / "notes.txt").write_text("clouds")
    (raws / "broken.fits").symlink_to(raws / "nowhere")
    (raws / "empty.fits").touch()
    now = later(raws / "instcal")
    assert night_files(raws, RAW_NIGHT, "raw", (), now=now)["found"] == 2
    instcal = {night: night_files(raws, night, "instcal", BOTH, now=now) for night in (NIGHT, SPARE)}
    assert all(seen["ready"] and seen["found"] % 3 == 0 for seen in instcal.values())
    seen = night_files(raws, 20200101, "raw", BOTH, now=now)
    assert seen == {"ready": False, "missing": [f"raw exposures of night 20200101 in {raws}"], "found": 0}


def test_links_to_folders_are_followed_as_in_the_ingest(raws: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "deep").symlink_to(raws / "deep")
    (raws / "deep" / "round").symlink_to(raws)
    assert night_files(linked, RAW_NIGHT, "raw", (), now=later(raws))["found"] == 2


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="does not exist") as caught:
        night_files(tmp_path / "nowhere", 20200101, "raw", BOTH)
    assert caught.value.where == str(tmp_path / "nowhere")
