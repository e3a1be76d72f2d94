from __future__ import annotations

from pathlib import Path

import pytest
from astropy.table import Table

from tololo.facility.configuration import INCLUDE
from tololo.facility.curated_defects import read_defects
from tololo.facility.errors import BadInputError

HEADER = "# a comment\nx0 y0 width height valid reason\n"


def test_tables_as_astropy_writes_them_are_read(tmp_path: Path) -> None:
    table = Table(
        {"x0": [0, 100], "y0": [5, 0], "width": [1, 2], "height": [9, 4096], "valid": ["..", "20190401.."]}
    )
    table["reason"] = ["hot, very", "dead columns"]
    for number, delimiter in (("31", " "), ("7", ",")):
        table.write(tmp_path / f"{number}.ecsv", delimiter=delimiter)
    found = read_defects(tmp_path)
    assert [(d.detector, d.x0, d.y0, d.width, d.height, d.valid, d.reason) for d in found] == [
        (number, *row) for number in (7, 31) for row in table
    ]
    assert str(tmp_path / "31.ecsv, line") in found[-1].where


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER + "0 0 1 1 .. ok\n-1 0 1 1 .. hot\n", r"x0 is '-1'.*line 4, column x0"),
        (HEADER + "0 0 0 1 .. hot\n", r"width is '0'.*line 3, column width"),
        (HEADER + "2000 0 49 1 .. hot\n", r"ends beyond the CCD.*line 3"),
        (HEADER + "0 4096 1 1 .. hot\n", r"y0 is '4096'"),
        (HEADER + "0 0 1 1 ..\n", r"5 columns, not 6.*line 3"),
        (HEADER + '0 0 1 1 .. " "\n', r"no reason.*line 3, column reason"),
        ("x0 y0 width height\n0 0 1 1\n", r"lack the columns valid, reason.*line 1"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "31.ecsv").write_text(text)
    with pytest.raises(BadInputError, match=says):
        read_defects(tmp_path)


def test_a_file_of_no_ccd_is_told(tmp_path: Path) -> None:
    (tmp_path / "N30.ecsv").write_text(HEADER)
    with pytest.raises(BadInputError, match=r"not called after a CCD.*N30\.ecsv"):
        read_defects(tmp_path)
    (tmp_path / "N30.ecsv").rename(tmp_path / "30.ecsv")
    assert read_defects(tmp_path) == []


def test_what_we_ship_is_right() -> None:
    assert {d.detector for d in read_defects(INCLUDE / "configs" / "curated" / "defects")} == {2, 31, 61}
