from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from reduction.raw_files import EVENING, write_raw
from tololo.facility.errors import BadInputError
from tololo.reduction.formats import raw_search
from tololo.reduction.formats.file_search import MAX_LINES, FileSearch, joined, search_files
from tololo.reduction.formats.instcal_search import find_instcal
from tololo.reduction.formats.raw_search import find_raws


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that everyone may read, and for the time of the test the rights of somebody else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        root = os.geteuid() == 0
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)


def test_each_file_once_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/3", "a/_index.json", "0"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "0")
    (tmp_path / "d").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = search_files(tmp_path, "")
    assert [str(path.relative_to(tmp_path)) for path in found.files] == ["0", "a/3", "b/1", "b/2"]
    assert found.indices == [tmp_path / "a" / "_index.json"]
    assert {item.path.name: item.reason for item in found.ignored} == {
        "c": f"the same file as {tmp_path / '0'}",
        "d": f"broken symbolic link to {tmp_path / 'nowhere'}",
        "pipe": "not a regular file",
    }
    assert found.problems == []


def test_an_index_alone_is_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "_index.json").write_text("{}")
    for find in (find_raws, find_instcal):
        with pytest.raises(BadInputError, match="data folder is empty"):
            find(tmp_path)


def test_what_may_not_be_read_is_named(as_nobody: Path) -> None:
    write_raw(as_nobody, 841_001)
    file = write_raw(as_nobody, 841_002, when=EVENING + timedelta(minutes=1))
    closed = as_nobody / "closed"
    write_raw(closed, 841_003, when=EVENING + timedelta(minutes=2))
    file.chmod(0)
    closed.chmod(0)
    try:
        search = find_raws(as_nobody)
        assert [exposure.exposure for exposure in search.exposures] == [841_001]
        assert {error.where for error in search.rejected} == {str(file), str(closed)}
        assert all("right to read" in error.remedy for error in search.rejected)
        with pytest.raises(BadInputError, match="Permission denied"):
            find_instcal(as_nobody)
    finally:
        closed.chmod(0o755)


def test_what_vanishes_during_the_search_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_raw(tmp_path, 841_001)
    gone = write_raw(tmp_path / "part", 841_002, when=EVENING + timedelta(minutes=1))

    def searched(folder: Path, remedy: str) -> FileSearch:
        found = search_files(folder, remedy)
        gone.unlink()
        gone.parent.rmdir()
        return found

    monkeypatch.setattr(raw_search, "search_files", searched)
    search = find_raws(tmp_path)
    assert [exposure.exposure for exposure in search.exposures] == [841_001]
    (error,) = search.rejected
    assert (str(gone), "No such file" in error.what) == (error.where, True)


def test_several_errors_become_one() -> None:
    errors = [BadInputError(f"fault {number}", "here", "mend it") for number in range(MAX_LINES + 3)]
    assert joined([], "things", "", "") is None
    assert joined(errors[:1], "things", "", "") is errors[0]
    error = joined(errors, "things are wrong", "there", "mend them")
    assert error is not None
    assert error.what.startswith(f"{MAX_LINES + 3} things are wrong:\n  1. fault 0. Where: here.")
    assert error.what.endswith("  and 3 more\n")
    assert error.where == "there"
