from __future__ import annotations

from pathlib import Path

import pytest

from tololo.facility.configuration import INCLUDE
from tololo.facility.curated_crosstalk import FILE, Coupling, read_crosstalk
from tololo.facility.errors import BadInputError

TABLE = """# victim source  x   x_err    src_nl      poly_coeff
ccd28B   ccd28A      2.00e-04   1.0e-05    4.0e+04  1.5e-04  -7.0e-08  6.0e-12

ccd29A   ccd28A      -3.00e-05   5.0e-06    1.000000e+10  0.000000e+00  0.000000e+00  0.000000e+00
"""


def written(folder: Path, text: str, table: str = TABLE) -> Path:
    (folder / "table.txt").write_text(table)
    (folder / FILE).write_text(text)
    return folder / FILE


def test_coefficients_and_a_table_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """versions:
- valid: ..20190401
  source: the observatory
  table: table.txt
- valid: 20190402..
  source: measured
  coefficients:
    28A:
      28B: 3.0e-4
      29B: {linear: -1.0e-5, onset: 41000, polynomial: [1.0e-4, 2.0e-8]}
""",
    )
    first, second = read_crosstalk(path)
    assert (first.valid, first.source, second.valid) == ("..20190401", "the observatory", "20190402..")
    assert first.couplings == (
        Coupling("28B", "28A", 2e-4, 4e4, (1.5e-4, -7e-8, 6e-12)),
        Coupling("29A", "28A", -3e-5),
    )
    assert second.couplings == (
        Coupling("28A", "28B", 3e-4),
        Coupling("28A", "29B", -1e-5, 41000.0, (1e-4, 2e-8)),
    )


@pytest.mark.parametrize(
    ("coefficients", "says", "line"),
    [
        ("28A: {28C: 1.0e-4}", "no amplifier '28C'", 4),
        ("63A: {28B: 1.0e-4}", "no amplifier '63A'", 4),
        ("28A: {28A: 1.0e-4}", "with itself", 4),
        ("28A: {35A: 1.0e-4}", "two halves", 4),
        ("28A: {28B: 0.5}", "0.5", 4),
        ("28A: {28B: strong}", "strong", 4),
        ("28A: {28B: {linear: 1.0e-4, onset: 40000}}", "polynomial", 4),
        ("28A: {28B: {linear: 1.0e-4, offset: 40000}}", "offset", 4),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, coefficients: str, says: str, line: int) -> None:
    path = written(tmp_path, f"versions:\n- source: me\n  coefficients:\n    {coefficients}\n")
    with pytest.raises(BadInputError, match=rf"{says}.*crosstalk\.yaml, line {line}\b"):
        read_crosstalk(path)


def test_a_version_has_one_kind_of_content(tmp_path: Path) -> None:
    for text in ("versions:\n- source: me\n", "versions:\n- {source: me, table: a, coefficients: {}}\n"):
        with pytest.raises(BadInputError, match=r"neither or both.*line 2"):
            read_crosstalk(written(tmp_path, text))
    with pytest.raises(BadInputError, match="versions"):
        read_crosstalk(written(tmp_path, ""))
    with pytest.raises(BadInputError, match=r"Not YAML.*line"):
        read_crosstalk(written(tmp_path, "versions: [\n"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("ccd28B ccd28A x 1e-5 1e10", "Not a line"),
        ("ccd28B ccd28A 1e-4", "Not a line"),
        ("ccd28B ccd28A nan 1e-5 1e10", "Not a line"),
        ("ccd28B ccd28A 1e-4 1e-5 1e10 0 0 0 0", "Not a line"),
        ("ccd99B ccd28A 1e-4 1e-5 1e10", "no amplifier 'ccd99B'"),
        ("ccd28B ccd28A 1e-4 1e-5 1e10", "listed twice"),
    ],
)
def test_a_wrong_line_of_a_table_is_told(tmp_path: Path, line: str, says: str) -> None:
    path = written(tmp_path, "versions:\n- {source: me, table: table.txt}\n", TABLE + line + "\n")
    with pytest.raises(BadInputError, match=rf"{says}.*table\.txt, line 5"):
        read_crosstalk(path)


def test_a_table_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "versions:\n- {source: me, table: other.txt}\n")
    with pytest.raises(BadInputError, match=r"cannot be read.*other\.txt"):
        read_crosstalk(path)


def test_what_we_ship_is_right() -> None:
    assert read_crosstalk(INCLUDE / "configs" / "curated" / FILE) == []
