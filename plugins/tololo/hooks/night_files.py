"""What of a night has arrived in a folder: a glance at the headers, without the LSST stack."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from tololo.facility.configuration import facility
from tololo.facility.errors import BadInputError
from tololo.facility.nights import night_served
from tololo.facility.waiting import Answer, answer
from tololo.hooks.butler import ButlerHook
from tololo.reduction.formats.file_search import walk

KINDS = {"bias": ("zero", "bias"), "flat": ("dome flat", "flat"), "drp": ("object", "science")}
"""OBSTYPE of the raws that each kind of processing needs."""

SETTLED = 10.0
"""Seconds after which a file that did not change has arrived."""

_BLOCK, _MOST_BLOCKS = 2880, 36
_CARD = re.compile(r"^(PROCTYPE|OBSTYPE|DATE-OBS)\s*=\s*'([^']*)'")


def night_files(
    folder: Path | str,
    night: int | str,
    source: str,
    proc_types: Collection[str],
    *,
    now: float | None = None,
) -> Answer:
    """Look whether the files of a night are there.

    Only the beginning of each file is read, and only once as long as it does not change: cheap enough to be
    asked every half minute. Whether the files are good is for the ingest to find out.

    Parameters
    ----------
    folder : `pathlib.Path` or `str`
        Searched at any depth.
    night : `int` or `str`
    source : `str`
        ``raw`` or ``instcal``, as PROCTYPE of the files says (in capitals or not).
    proc_types : collection of `str`
        What shall be made of raws: of each kind there has to be one.
    now : `float`, optional
        The present, seconds since 1970.

    Returns
    -------
    answer : `~tololo.facility.waiting.Answer`
        ``found`` counts the night's files. It is ready when each kind is there and no file of the night is
        still changing.

    Raises
    ------
    BadInputError
        If there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInputError("The data folder does not exist", str(folder), "name the folder of the files")
    kinds: set[str] = set()
    fresh: list[str] = []
    found = 0
    moment = time.time() if now is None else now
    for path in walk(folder):
        try:
            status = path.stat()
        except OSError:  # it was renamed in this moment, or is a broken link
            continue
        seen = _glance(str(path), status.st_mtime_ns, status.st_size)
        if seen is None or seen[0] != source or seen[2] != int(night):
            continue
        found += 1
        kinds.add(seen[1])
        if 0 <= moment - status.st_mtime < SETTLED:
            fresh.append(f"the end of {path}, which is still being written")
    wanted = list(proc_types) if source == "raw" else []
    missing = [f"raws for {kind} ({KINDS[kind][0]})" for kind in wanted if not kinds & set(KINDS[kind])]
    if not found:
        missing = [f"{source} exposures of night {night} in {folder}"]
    return answer([*missing, *sorted(fresh)], found)


def moved_before(repo: str, night: str) -> list[int]:
    """Return the raw exposures that the repository has of a night, where files are moved into it."""
    if facility().transfer != "move":
        return []
    return ButlerHook.from_connection(repo).raw_exposures(night)


@lru_cache(maxsize=200_000)
def _glance(path: str, _changed: int, _size: int) -> tuple[str, str, int] | None:
    """Return PROCTYPE, OBSTYPE (lower case) and the night of a file; `None` if it is no exposure."""
    cards: dict[str, str] = {}
    try:
        with open(path, "rb") as stream:
            for number in range(_MOST_BLOCKS):
                block = stream.read(_BLOCK).decode("latin-1")
                if not block or (number == 0 and not block.startswith("SIMPLE  =")):
                    return None
                for first in range(0, len(block), 80):
                    if found := _CARD.match(block[first : first + 80]):
                        cards.setdefault(found[1], found[2].strip().lower())
                if len(cards) == 3:
                    break
        utc = datetime.fromisoformat(cards["DATE-OBS"]).replace(tzinfo=UTC)
    except (OSError, KeyError, ValueError):
        return None
    kind = cards.get("OBSTYPE", "")
    calibration = any(kind in KINDS[name] for name in ("bias", "flat")) or kind == "dark"
    level = cards.get("PROCTYPE", "")
    return level, kind, night_served(utc, calibration=level == "raw" and calibration)
