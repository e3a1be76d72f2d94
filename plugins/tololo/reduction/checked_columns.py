"""Columns of a table that a person has written: numbers and words, or the one message about the bad rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError

SHOWN = 5
"""How many rows a message names."""


class CheckedColumns:
    """The columns of a file, and the one message about what is wrong with one of them.

    Parameters
    ----------
    file : `pathlib.Path`
        For messages.
    columns : `dict`
        By the names that the methods use; the messages have the columns' own.
    number : `int`
        Rows.
    """

    def __init__(self, file: Path, columns: dict[str, Any], number: int) -> None:
        self.file, self.columns, self.number = file, columns, number

    def refuse(self, bad: NDArray[np.bool_], name: str, remedy: str) -> None:
        """Raise `BadInputError` if there are bad rows."""
        if not bad.any():
            return
        column = self.columns[name]
        raise BadInputError(
            f"{np.count_nonzero(bad)} of {self.number} sources have no usable {column.name}",
            f"{self.file}, {name_rows(bad, lambda row: _shown(column[row]))}",
            remedy,
        )

    def numbers(
        self,
        name: str,
        good: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
        remedy: str,
        used: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float64]:
        """Return a column of numbers, all of them good in the rows that are used."""
        values = self._floats(name)
        with np.errstate(invalid="ignore"):
            bad = ~(np.isfinite(values) & good(values))
        self.refuse(bad if used is None else bad & used, name, remedy)
        return values

    def integers(self, name: str, default: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a column of whole numbers; the default where there is no such column, or no value in it."""
        if name not in self.columns:
            return default
        column = self.columns[name]
        given = ~_empty(column)
        if column.dtype.kind in "iu":
            values = np.asarray(np.ma.filled(column, 0)).astype(np.int64)
            fine = values >= 0
        else:
            values = np.where(np.isfinite(floats := self._floats(name)), floats, -1.0)
            fine = (values >= 0) & (values < 2**53) & (values == np.floor(values))
        self.refuse(given & ~fine, name, "give whole numbers from 0")
        return np.where(given, values, default).astype(np.int64)

    def words(self, name: str, default: str = "") -> NDArray[np.str_]:
        """Return a column of words without blanks around them."""
        if name not in self.columns:
            return np.full(self.number, default)
        column = self.columns[name]
        words = [default if e else _text(v) for v, e in zip(column, _empty(column), strict=True)]
        return np.array(words, dtype=str)

    def _floats(self, name: str) -> NDArray[np.float64]:
        column = self.columns[name]
        if column.dtype.kind in "iuf":
            return np.asarray(np.ma.filled(np.ma.asarray(column).astype(float), np.nan))
        return np.array([_number(value) for value in column], dtype=float)


def name_rows(bad: NDArray[np.bool_], what: Callable[[int], str]) -> str:
    """Name the bad rows, the first of the file being 1."""
    rows = np.flatnonzero(bad).tolist()
    more = f"; and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return "; ".join(f"row {row + 1}: {what(row)}" for row in rows[:SHOWN]) + more


def _empty(column: Any) -> NDArray[np.bool_]:
    masked = np.ma.getmaskarray(np.ma.asarray(column))
    if column.dtype.kind in "iuf":
        return np.asarray(masked | ~np.isfinite(np.ma.filled(np.ma.asarray(column).astype(float), np.nan)))
    blank = [value is None or _text(value) in ("", "nan", "None", "--") for value in column]
    return np.asarray(masked | np.array(blank, dtype=bool))


def _text(value: Any) -> str:
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).strip()


def _number(value: Any) -> float:
    try:
        return float(_text(value))
    except ValueError:
        return np.nan


def _shown(value: Any) -> str:
    return "nothing" if value is np.ma.masked else _text(value) or "nothing"
