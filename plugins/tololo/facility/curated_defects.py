"""The facility's list of defects: rectangles of pixels that are of no use, from when to when, and why.

One ECSV table for each CCD, ``<CCD number>.ecsv``, with a line for each rectangle.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tololo.facility.errors import BadInputError

FOLDER = "defects"
COLUMNS = ("x0", "y0", "width", "height", "valid", "reason")
WIDTH, HEIGHT = 2048, 4096
"""Of the assembled CCD, pixels."""

_REMEDY = f"each line needs {', '.join(COLUMNS)}; docs/calibrations.md has an example"


@dataclass(frozen=True)
class Defect:
    """A rectangle of pixels that are of no use.

    Attributes
    ----------
    detector : `int`
        CCD number.
    x0, y0 : `int`
        Its first column and row on the assembled CCD; the first pixel of all is (0, 0).
    width, height : `int`
        Pixels.
    valid : `str`
        When, as `~tololo.hooks.validity.parse_validity` reads it.
    reason : `str`
        Why, and who says so.
    where : `str`
        File and line, for messages.
    """

    detector: int
    x0: int
    y0: int
    width: int
    height: int
    valid: str
    reason: str
    where: str


def read_defects(folder: Path) -> list[Defect]:
    """Read the tables of a folder.

    Parameters
    ----------
    folder : `pathlib.Path`

    Returns
    -------
    defects : `list` [`Defect`]
        By CCD, in the order of the lines.

    Raises
    ------
    BadInputError
        A file has another name or breaks the form, or a rectangle lies outside of the CCD; file, line and
        column are named.
    """
    found: list[Defect] = []
    for path in sorted(folder.glob("*.ecsv"), key=lambda path: (len(path.stem), path.stem)):
        if not (path.stem.isdigit() and 1 <= int(path.stem) <= 62):
            raise BadInputError(
                f"{path.name} is not called after a CCD", str(path), "call it 31.ecsv: the CCD's number"
            )
        found += _read_table(path, int(path.stem))
    return found


def _read_table(path: Path, detector: int) -> list[Defect]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"The defects cannot be read: {error}", str(path), _REMEDY) from error
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not numbered:
        return []
    delimiter = "," if "," in numbered[0][1] else " "
    rows = csv.reader((line for _, line in numbered), delimiter=delimiter, skipinitialspace=True)
    header, *body = ([word for word in row if word or delimiter == ","] for row in rows)
    if missing := [name for name in COLUMNS if name not in header]:
        raise BadInputError(
            f"The defects lack the columns {', '.join(missing)}", f"{path}, line {numbered[0][0]}", _REMEDY
        )
    found = []
    for (number, _), row in zip(numbered[1:], body, strict=True):
        where = f"{path}, line {number}"
        if len(row) != len(header):
            raise BadInputError(f"{len(row)} columns, not {len(header)}", where, _REMEDY)
        found.append(_defect(detector, dict(zip(header, row, strict=True)), where))
    return found


def _defect(detector: int, row: Mapping[str, str], where: str) -> Defect:
    limits = {
        "x0": (0, WIDTH - 1),
        "y0": (0, HEIGHT - 1),
        "width": (1, WIDTH),
        "height": (1, HEIGHT),
    }
    numbers: dict[str, int] = {}
    for name, (least, most) in limits.items():
        text = row[name].strip()
        if not (text.isdigit() and least <= int(text) <= most):
            raise BadInputError(
                f"{name} is {text!r}; it has to be a whole number from {least} to {most}",
                f"{where}, column {name}",
                _REMEDY,
            )
        numbers[name] = int(text)
    defect = Defect(
        detector=detector, **numbers, valid=row["valid"].strip(), reason=row["reason"].strip(), where=where
    )
    if defect.x0 + defect.width > WIDTH or defect.y0 + defect.height > HEIGHT:
        raise BadInputError(
            f"The rectangle ends beyond the CCD of {WIDTH} x {HEIGHT} pixels", where, "make it smaller"
        )
    if not defect.reason:
        raise BadInputError("The defect has no reason", f"{where}, column reason", "say why, and who says so")
    return defect
