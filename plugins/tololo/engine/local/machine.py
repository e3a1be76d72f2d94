"""The cores and the memory of this machine, shared by all runs that go on at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

FULL = 0.9
"""Fraction of the machine's memory that jobs may ask for together."""

UNIT = 256
"""MiB by which memory is counted."""

_MIB = 1 << 20
_MEMORY = 1 << 16
"""Where the bytes for memory begin, beyond those for cores."""


class Machine:
    """What the runners of a facility share; each job takes its part while it runs.

    Each core and each unit of memory is a byte of a file, and taken by whoever has locked it. The kernel
    gives back what a runner held that was killed.

    Parameters
    ----------
    file : `pathlib.Path`
        The file; it stays empty.
    cores : `int`
        Cores that jobs may use together.
    """

    def __init__(self, file: Path, cores: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        # POSIX locks: a forked worker has no part in them. It must stay open: closing it would give all back.
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        self.memory = int(FULL * memory_of_machine())
        self._cores = range(cores)
        self._units = range(_MEMORY, _MEMORY + max(1, self.memory // UNIT))
        self._held: set[int] = set()

    def take(self, cores: int, memory: int) -> list[int] | None:
        """Take a part; nobody waits for more than there is.

        Parameters
        ----------
        cores, memory : `int`
            What a job needs, the memory in MiB.

        Returns
        -------
        part : `list` [`int`] or `None`
            For `give_back`; `None` if there is not so much left.
        """
        part: list[int] = []
        for places, asked in ((self._cores, cores), (self._units, -(-memory // UNIT))):
            wanted = min(asked, len(places))
            taken = self._lock(places, wanted)
            part += taken
            if len(taken) < wanted:
                self.give_back(part)
                return None
        return part

    def give_back(self, part: list[int]) -> None:
        """Give back what `take` returned."""
        for place in part:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
        self._held.difference_update(part)

    def _lock(self, places: range, wanted: int) -> list[int]:
        taken: list[int] = []
        for place in places:
            if len(taken) == wanted:
                break
            if place not in self._held:
                with contextlib.suppress(OSError):  # it is another's
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                    taken.append(place)
        self._held.update(taken)
        return taken


def memory_of_machine() -> int:
    """Memory of the machine, or of the container that this process is in, in MiB."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total // _MIB
