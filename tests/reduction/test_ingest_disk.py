"""An ingest of raws into a disk that is full, or that is another one than the registry's."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

from reduction.raw_files import EVENING, NIGHT, write_raw
from tololo.facility.errors import UnavailableError
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap
from tololo.hooks.butler import ButlerHook
from tololo.reduction import ingest_raw
from tololo.reduction.formats.raw_search import find_raws

EXPOSURES = (841_001, 841_002, 841_003, 841_004)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for minutes, number in enumerate(EXPOSURES):
        write_raw(tmp_path / "files", number, when=EVENING + timedelta(minutes=minutes), ccds=[2])
    return tmp_path / "files"


@pytest.fixture
def repository(tmp_path: Path, files: Path) -> Iterator[Path]:
    """A repository whose folder of raws is on a file system of its own, with room for three of four."""
    folder = tmp_path / "repository"
    bootstrap(BootstrapPlan(str(folder)), ["create", "instrument"])
    disk = folder / "DECam"
    disk.mkdir(exist_ok=True)
    blocks = sum(-(-path.stat().st_size // 4096) for path in files.iterdir())
    room = 4 * (blocks * 7 // 8)
    command = ["mount", "-t", "tmpfs", "-o", f"size={room}k", "tololo-test", str(disk)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"no file system can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def ingested(repository: Path) -> list[int]:
    with Butler.from_config(str(repository)) as butler:
        refs = butler.query_datasets("raw", f"{NIGHT}/drp/raw", explain=False)
        for ref in refs:
            butler.get(ref)
        return sorted(ref.dataId["exposure"] for ref in refs)


@pytest.mark.parametrize("transfer", ["copy", "move"])
def test_a_full_disk(repository: Path, files: Path, monkeypatch: pytest.MonkeyPatch, transfer: str) -> None:
    monkeypatch.setattr(ingest_raw, "EXPOSURES_AT_ONCE", 2)
    content = {path.name: path.read_bytes() for path in files.iterdir()}
    hook = ButlerHook(repository)
    with pytest.raises(UnavailableError, match=r"No space left.*make room") as caught:
        hook.ingest_raws(find_raws(files).exposures, transfer=transfer)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    # The first transaction is whole, of the second there is nothing, and no source is gone.
    assert ingested(repository) == list(EXPOSURES[:2])
    stored = [path.read_bytes() for path in (repository / "DECam").rglob("*") if path.is_file()]
    assert sorted(stored) == sorted(content[path.name] for path in sorted(files.iterdir())[:2])
    assert {path.name: path.read_bytes() for path in files.iterdir()} == content

    room = ["mount", "-o", "remount,size=16m", str(repository / "DECam")]
    subprocess.run(room, check=True)
    report = hook.ingest_raws(find_raws(files).exposures, transfer=transfer)
    assert (report.already_there, report.ingested) == (list(EXPOSURES[:2]), list(EXPOSURES[2:]))
    assert ingested(repository) == list(EXPOSURES)
    assert len(list(files.iterdir())) == (0 if transfer == "move" else 4)


def test_a_file_that_vanishes_before_the_ingest(tmp_path: Path, files: Path) -> None:
    bootstrap(BootstrapPlan(str(tmp_path / "own")), ["create", "instrument"])
    hook = ButlerHook(tmp_path / "own")
    found = find_raws(files).exposures
    content = found[1].path.read_bytes()
    found[1].path.unlink()
    report = hook.ingest_raws(found, transfer="copy")
    (error,) = report.refused
    assert error.where == str(found[1].path)
    assert "has gone" in error.what
    assert report.ingested == [EXPOSURES[0], *EXPOSURES[2:]]
    found[1].path.write_bytes(content)
    assert hook.ingest_raws(found, transfer="copy").ingested == [EXPOSURES[1]]
    # What the repository has is not missed.
    found[1].path.unlink()
    again = hook.ingest_raws(found, transfer="copy")
    assert (again.refused, again.already_there) == ([], list(EXPOSURES))
