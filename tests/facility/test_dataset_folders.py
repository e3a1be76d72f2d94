from __future__ import annotations

from pathlib import Path

import pytest

from tololo.facility.dataset_folders import frames, listed, scan
from tololo.facility.errors import BadInputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("B/sinistro/ip", "B/sinistro/gp", "A/qhy/gp", "A/muscat/gp", "A/.cache/sinistro/gp"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "A/qhy/star_catalog.fits").touch()
    (tmp_path / "A/.cache/x").mkdir()
    return tmp_path


def names(root: Path, folders: list[Path]) -> list[str]:
    return [str(folder.relative_to(root)) for folder in folders]


def test_a_scan_finds_datasets_of_the_instruments(root: Path) -> None:
    assert names(root, scan(root, ["sinistro", "qhy"])) == ["A/qhy/gp", "B/sinistro/gp", "B/sinistro/ip"]
    assert scan(root, ["kb"]) == []
    with pytest.raises(BadInputError, match="no such folder"):
        scan(root / "C", ["qhy"])


def test_a_list_with_comments(root: Path) -> None:
    path = root / "list.txt"
    path.write_text("# the bright ones\nB/sinistro/ip\n\n  A/qhy/gp   # again: \nB/sinistro/ip\n")
    assert names(root, listed(root, path)) == ["B/sinistro/ip", "A/qhy/gp"]


def test_a_list_from_another_system(root: Path) -> None:
    path = root / "list.txt"
    path.write_bytes("\ufeffB/sinistro/ip\r\n\r\n# é\r\nA/qhy/gp/\r\n".encode())
    assert names(root, listed(root, path)) == ["B/sinistro/ip", "A/qhy/gp"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("B/sinistro/rp", "There is no dataset B/sinistro/rp"),
        ("B/sinistro", "is no dataset"),
        ("../B/sinistro/ip", "is no dataset"),
        ("/B/sinistro/ip", "is no dataset"),
    ],
)
def test_a_line_that_names_none(root: Path, line: str, says: str) -> None:
    path = root / "list.txt"
    path.write_text(f"A/qhy/gp\n{line}\n")
    with pytest.raises(BadInputError, match=says) as caught:
        listed(root, path)
    assert caught.value.where == f"{path}, line 2"


def test_a_list_that_is_not_there(root: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        listed(root, root / "none.txt")


def test_frames(root: Path) -> None:
    folder = root / "A/qhy/gp"
    for name in ("b.fits.fz", "a.FITS", "c.fts", "d.fits.part", "image_data.parquet", "lc.csv"):
        (folder / name).touch()
    (folder / "old.fits").mkdir()
    assert [path.name for path in frames(folder)] == ["a.FITS", "b.fits.fz", "c.fts"]
