"""How many quanta are done while a run goes on: each writes its metadata file when it ends well."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path


def count_finished(run_folder: Path, expected: dict[str, int]) -> dict[str, int]:
    """Count the metadata files of each task label below the folder of a RUN in a file datastore."""
    return {
        label: sum(1 for path in (run_folder / f"{label}_metadata").rglob("*") if path.is_file())
        for label in expected
    }


class ProgressWatch:
    """A thread that counts now and then, and reports when the counts change.

    Parameters
    ----------
    count : callable
        Returns the finished quanta by label.
    report : callable
        Called with the new counts.
    interval : `float`
        Seconds between counts.
    """

    def __init__(
        self,
        count: Callable[[], dict[str, int]],
        report: Callable[[dict[str, int]], None],
        interval: float = 1.0,
    ) -> None:
        self._count = count
        self._report = report
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        last: dict[str, int] = {}
        while not self._stop.wait(self._interval):
            counts = self._count()
            if counts != last:
                self._report(counts)
                last = counts

    def __enter__(self) -> ProgressWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
