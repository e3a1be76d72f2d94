"""Faults that a drill's quanta suffer on demand, and the journal that counts how often each was tried.

The faults stand in a JSON file outside of the repository, so that a cause can be mended between two attempts
while the task's configuration stays as it is.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tololo.facility.errors import BadInputError
from tololo.facility.run import write_json

KINDS = ("memory", "sleep", "kill", "no_data", "database", "raise", "times")
"""What a file of faults may hold: kinds of fault in the order in which they strike, and ``times``."""

_PAGE = 4096


@dataclass(frozen=True)
class Execution:
    """One line of a journal.

    ``event`` is ``began`` or ``ended`` (which a quantum that fails does not write); ``detector`` is -1 for
    a task of whole visits; ``time`` is seconds since 1970.
    """

    event: str
    label: str
    visit: int
    detector: int
    pid: int
    time: float


def write_faults(path: Path, **faults: Any) -> Path:
    """Write the faults that quanta suffer from now on; none mends everything.

    Parameters
    ----------
    path : `pathlib.Path`
        The file; it is written beside and then renamed.
    **faults
        ``raise``, ``no_data``, ``database``: a list of selected quanta.
        ``kill``: a list, or a mapping to the signal that the process sends itself (SIGKILL).
        ``sleep``: a mapping to seconds. ``memory``: a mapping to MB, allocated and touched, and held while
        the quantum sleeps.
        ``times``: a mapping from a kind to the number of executions of a quantum that suffer it: with
        ``{"kill": 1}`` only the first does. It needs a journal.
        Quanta are selected by detector (``3`` or ``"3"``), visit (``"900002"``), both
        (``"900002/3"``) or ``"*"``. A name that Python reserves is given as ``**{"raise": [3]}``.

    Returns
    -------
    path : `pathlib.Path`
        The same.

    Raises
    ------
    BadInputError
        There is no such kind of fault.
    """
    _refuse_unknown(faults, path)
    write_json(path, faults)
    return path


def suffer(path: Path, journal: Path | None, label: str, visit: int, detector: int) -> None:
    """Do to the running quantum what the file says.

    Parameters
    ----------
    path : `pathlib.Path`
        File of faults.
    journal : `pathlib.Path` or `None`
        Where this execution has been noted already.
    label : `str`
        Task label.
    visit, detector : `int`
        The quantum; the detector is -1 for a task of whole visits.

    Raises
    ------
    ValueError
        A permanent fault, as science code raises it.
    sqlalchemy.exc.OperationalError
        A passing fault, as a database raises it.
    lsst.pipe.base.NoWorkFound
        There is no data.
    MemoryError
        The memory that was asked for is not to be had.
    BadInputError
        The file is missing or wrong.
    """
    from lsst.pipe.base import NoWorkFound
    from sqlalchemy.exc import OperationalError

    faults = _read(path)
    times = faults.pop("times", {})
    if times and journal is None:
        raise BadInputError("`times` needs a journal", str(path), "configure `journal`")

    def struck(kind: str) -> Any:
        found = _selected(faults.get(kind, []), visit, detector)
        if found is not None and kind in times and journal is not None:
            tries = sum(
                (e.label, e.visit, e.detector) == (label, visit, detector) for e in executions(journal)
            )
            return found if tries <= int(times[kind]) else None
        return found

    where = f"visit {visit}" if detector < 0 else f"visit {visit}, detector {detector}"
    held = bytearray()
    if (megabytes := struck("memory")) is not None:
        held = bytearray(int(megabytes) * 2**20)
        held[::_PAGE] = b"\1" * len(range(0, len(held), _PAGE))
    if (seconds := struck("sleep")) is not None:
        time.sleep(float(seconds))
    if (signal_number := struck("kill")) is not None:
        os.kill(os.getpid(), signal.SIGKILL if signal_number is True else int(signal_number))
    if struck("no_data") is not None:
        raise NoWorkFound(f"Drill: {where} has no data")
    if struck("database") is not None:
        broken = ConnectionError("server closed the connection unexpectedly")
        raise OperationalError(f"SELECT drill /* {where} */", {}, broken)
    if struck("raise") is not None:
        raise ValueError(f"Drill: the number of {where} is wrong")
    del held


def note(journal: Path, event: str, label: str, visit: int, detector: int) -> None:
    """Append one line to a journal, whole or not at all, whoever else writes."""
    line = json.dumps(asdict(Execution(event, label, visit, detector, os.getpid(), time.time())))
    file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


def executions(journal: Path, event: str = "began") -> list[Execution]:
    """Return the lines of a journal in the order in which they were written.

    Parameters
    ----------
    journal : `pathlib.Path`
        The journal; without one nothing was executed.
    event : `str`, optional
        ``began`` counts every execution, ``ended`` those that were good.
    """
    lines = journal.read_text().splitlines() if journal.exists() else []
    found = [Execution(**json.loads(line)) for line in lines]
    return [execution for execution in found if execution.event == event]


def _read(path: Path) -> dict[str, Any]:
    try:
        faults = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInputError(f"The faults cannot be read: {error}", str(path), "write_faults") from error
    _refuse_unknown(faults, path)
    return dict(faults)


def _refuse_unknown(faults: Mapping[str, Any], path: Path) -> None:
    if unknown := sorted(set(faults) - set(KINDS)):
        raise BadInputError(f"Unknown faults {', '.join(unknown)}", str(path), f"use {', '.join(KINDS)}")


def _selected(selection: Sequence[int | str] | Mapping[str, Any], visit: int, detector: int) -> Any:
    """Return what a selection says of a quantum: its value, True where it has none, None if not selected."""
    values = (
        {str(key): value for key, value in selection.items()}
        if isinstance(selection, Mapping)
        else {str(key): True for key in selection}
    )
    return next(
        (values[key] for key in (f"{visit}/{detector}", str(detector), str(visit), "*") if key in values),
        None,
    )
