"""The manager's configuration: which datasets of a root folder are reduced, and how many at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from tololo.facility.checked_yaml import CheckedYaml, read_checked
from tololo.facility.errors import BadInputError

GROUPS = ("all", "date", "recent", "file")

_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)

_NAME = "The manager's configuration"
_REMEDY = "docs/datasets.md has an example"
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["data_reduction_dir", "instrument_list", "dataset_selection"],
    "properties": {
        "log_dir": {"type": ["string", "null"]},
        "data_reduction_dir": {"type": "string", "pattern": r"\S"},
        "software_dir": {"type": ["string", "null"]},
        "instrument_list": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "pattern": r"^[^/]+$"},
            "description": "list the names of the instruments' folders, ['sinistro', 'qhy'] for instance",
        },
        "dataset_selection": {
            "type": "object",
            "additionalProperties": False,
            "required": ["group"],
            "properties": {
                "group": {"type": "string"},
                "file": {"type": ["string", "null"]},
                # Without quotes YAML reads a date, with quotes a text: `_date` takes what is written.
                "start_date": {},
                "end_date": {},
                # Looked at with its group alone, as a text too: so have they been read all along.
                "ndays": {"type": ["number", "string", "null"]},
            },
        },
        "max_parallel": {"type": "integer", "minimum": 1},
    },
}


@dataclass(frozen=True)
class Window:
    """A span of time, UTC; its end is not in it."""

    start: datetime
    end: datetime

    def __contains__(self, time: datetime) -> bool:
        return self.start <= time < self.end


@dataclass(frozen=True)
class ManagerConfig:
    """Which datasets are reduced.

    ``root`` holds ``<target>/<instrument>/<filter>/``. ``list_file`` names datasets with group ``file``;
    ``start``, ``end`` (both days whole) with group ``date``, ``ndays`` with group ``recent``.
    """

    root: Path
    instruments: tuple[str, ...]
    group: str
    list_file: Path | None = None
    start: date | None = None
    end: date | None = None
    ndays: float = 0.0
    max_parallel: int = 5
    log_folder: Path | None = None

    def window(self, now: datetime) -> Window | None:
        """Return the time in which a dataset must have a frame; `None` where any will do."""
        if self.group == "recent":
            # A frame of this very moment is recent too; and none is older than the calendar.
            start = now - timedelta(days=self.ndays) if self.ndays < (now - _FIRST).days else _FIRST
            return Window(start, now + timedelta(microseconds=1))
        if self.group == "date" and self.start and self.end:
            first, last = (datetime(d.year, d.month, d.day, tzinfo=UTC) for d in (self.start, self.end))
            return Window(first, min(last, _LAST) + timedelta(days=1))
        return None


def read_manager_config(path: Path) -> ManagerConfig:
    """Read a manager's configuration.

    Raises
    ------
    BadInputError
        The file is not there, is not YAML, or something in it is wrong; file, line and key are named.
    """
    found = read_checked(path, _NAME, _SCHEMA, _REMEDY)
    content = found.content
    chosen = content["dataset_selection"]
    group = chosen["group"].strip().lower()
    if group not in GROUPS:
        raise _wrong(found, "group", f"there is no group {chosen['group']!r}", f"use {', '.join(GROUPS)}")
    start, end = (_date(found, key) if group == "date" else None for key in ("start_date", "end_date"))
    if start and end and start > end:
        raise _wrong(found, "end_date", f"{end} is before start_date {start}", "exchange them")
    if group == "file" and not chosen.get("file"):
        raise _wrong(found, "file", "group 'file' needs a file", "name the file that lists the datasets")
    return ManagerConfig(
        root=Path(content["data_reduction_dir"]).expanduser(),
        instruments=tuple(dict.fromkeys(content["instrument_list"])),
        group=group,
        list_file=Path(chosen["file"]).expanduser() if group == "file" else None,
        start=start,
        end=end,
        ndays=_days(found) if group == "recent" else 0.0,
        max_parallel=int(content.get("max_parallel", 5)),
        log_folder=Path(content["log_dir"]).expanduser() if content.get("log_dir") else None,
    )


def _wrong(found: CheckedYaml, key: str, message: str, remedy: str) -> BadInputError:
    return found.wrong(["dataset_selection", key], message, remedy)


def _days(found: CheckedYaml) -> float:
    try:
        days = float(found.content["dataset_selection"].get("ndays") or 0.0)
    except ValueError:
        days = math.nan
    if not days > 0:
        raise _wrong(found, "ndays", "group 'recent' needs a number of days", "write 1.5 for instance")
    return days


def _date(found: CheckedYaml, key: str) -> date:
    text = found.written("dataset_selection", key).strip()
    if text.lower() in ("", "none", "null", "~"):
        raise _wrong(found, key, f"group 'date' needs a {key}", "write 'YYYY-MM-DD'")
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise _wrong(found, key, f"{text!r} is no date", "write 'YYYY-MM-DD'") from None
