"""How many quanta are done while a run goes on: each writes a log at its end, and metadata at a good one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

Counts = dict[str, int]


def count_finished(run_folder: Path, expected: Counts) -> tuple[Counts, Counts]:
    """Count what each task label has finished below the folder of a RUN in a file datastore.

    Returns
    -------
    finished, failed : `dict` [`str`, `int`]
        Quanta that ended well, and that ended with an exception, by label.
    """
    finished = {label: _files(run_folder / f"{label}_metadata") for label in expected}
    failed = {label: max(0, _files(run_folder / f"{label}_log") - finished[label]) for label in expected}
    return finished, failed


def _files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


class ProgressWatch:
    """A thread that counts now and then, and reports when the counts change.

    Parameters
    ----------
    count : callable
        Returns the finished and the failed quanta by label.
    report : callable
        Called with the new counts.
    interval : `float`
        Seconds between counts.
    """

    def __init__(
        self,
        count: Callable[[], tuple[Counts, Counts]],
        report: Callable[[Counts, Counts], None],
        interval: float = 1.0,
    ) -> None:
        self._count = count
        self._report = report
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        last: tuple[Counts, Counts] = ({}, {})
        while not self._stop.wait(self._interval):
            with contextlib.suppress(OSError):  # a full disk now is no reason to be silent from then on
                counts = self._count()
                if counts != last:
                    self._report(*counts)
                    last = counts

    def __enter__(self) -> ProgressWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
