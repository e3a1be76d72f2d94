"""The reduction of one dataset in a process of its own, which dies with the one that started it.

What a dataset was reduced from stands in its folder, so that two who want it reduced do it once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from tololo.engine.local.worker import tell_when_parent_dies
from tololo.engine.locks import LockKeeper, from_ticket
from tololo.facility import dataset_config
from tololo.facility.dataset_config import read_dataset_config
from tololo.facility.dataset_folders import frames
from tololo.facility.errors import TololoError, UnavailableError, retold
from tololo.facility.run import write_json

RECORD = ".reduced.json"
"""What the last reduction of a dataset made, and of what; in the dataset's folder."""

_LOOK = 0.5


@dataclass
class DatasetProcess:
    """The reduction of a dataset.

    Parameters
    ----------
    folder : `pathlib.Path`
        The dataset.
    again : `bool`
        Measure all frames anew.
    reference_catalog : `str`
        The facility's table of reference stars; empty for none.
    tickets : sequence
        Of the locks that the process keeps (`tololo.engine.locks.ticket`).
    """

    folder: Path
    again: bool = False
    reference_catalog: str = ""
    tickets: Sequence[dict[str, Any]] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _killed: bool = False

    def known(self) -> dict[str, Any] | None:
        """Return what the last reduction made if nothing has changed since, with no frame measured.

        `None` if there is something to do, and always with ``again``.
        """
        try:
            record = json.loads((self.folder / RECORD).read_text())
            report: dict[str, Any] = record["report"]
            is_current = record["inputs"] == self.inputs() and all(map(os.path.exists, record["files"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return {**report, "measured": 0} if is_current and not self.again else None

    def inputs(self) -> str:
        """Return a fingerprint of all that a reduction depends on: frames, configuration, stars, version."""
        config = read_dataset_config(self.folder)
        tables = [config.photometry.reference_catalog, self.reference_catalog]
        facts: list[Any] = [version("tololo"), (self.folder / dataset_config.FILE).read_text()]
        for path in [*frames(self.folder), *(self.folder / name for name in tables if name)]:
            found = path.stat() if path.exists() else None
            facts.append((str(path), found and (found.st_size, found.st_mtime_ns)))
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Reduce the dataset and return what was made: target, filter, light_curve, frames ...

        Parameters
        ----------
        say : callable
            Takes each line of the log.

        Raises
        ------
        TololoError
            What the reduction raises, in its own class.
        UnavailableError
            The process was killed.
        """
        job = {
            "folder": str(self.folder),
            "again": self.again,
            "reference_catalog": self.reference_catalog,
            "tickets": list(self.tickets),
        }
        command = [sys.executable, "-m", "tololo.engine.dataset_process", json.dumps(job), str(os.getpid())]
        with tempfile.TemporaryFile() as answer, self._started(command, answer) as process:
            assert process.stderr
            reader = threading.Thread(target=_pass_on, args=(process.stderr, say), daemon=True)
            reader.start()
            self._follow(process)
            reader.join(5.0)
            answer.seek(0)
            told = answer.read()
        if process.returncode == 0:
            return dict(json.loads(told))
        if told:
            raise retold(json.loads(told))
        raise UnavailableError(
            f"The reduction was killed (status {process.returncode})",
            str(self.folder),
            "look at the memory of this machine; what is measured is kept, run again",
        )

    def kill(self) -> None:
        """End the process; what it has measured stays."""
        self._killed = True
        if self._process is not None:
            self._process.kill()

    @contextmanager
    def _started(self, command: list[str], answer: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        # One dataset has one core; several go on at the same time.
        single = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.PIPE,
            env={**os.environ, **single},
        )
        try:
            if self._killed:
                self._process.kill()
            yield self._process
        finally:
            self._process.kill()
            self._process.wait()

    @staticmethod
    def _follow(process: subprocess.Popen[bytes]) -> None:
        """Wait for the end; where we are orphaned ourselves, another may begin in our place."""
        parent = os.getppid()
        while True:
            try:
                process.wait(_LOOK)
                return
            except subprocess.TimeoutExpired:
                if os.getppid() != parent:
                    process.kill()


def _pass_on(stream: IO[bytes], say: Callable[[str], None]) -> None:
    for line in stream:
        say(line.decode(errors="replace").rstrip())


def main(job: dict[str, Any], parent: int) -> int:
    """Reduce a dataset, in the process of its own; the answer is JSON on the standard output."""
    tell_when_parent_dies(signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        sys.stdout.write(json.dumps(_reduce(job)))
    except TololoError as error:
        sys.stdout.write(json.dumps(error.told()))
        return 1
    except Exception as error:
        logging.exception("The reduction broke off")
        kind = UnavailableError if isinstance(error, MemoryError | OSError) else TololoError
        broken = kind(
            f"The reduction broke off: {type(error).__name__}: {error}", job["folder"], "see the log"
        )
        sys.stdout.write(json.dumps(broken.told()))
        return 1
    return 0


def _reduce(job: dict[str, Any]) -> dict[str, Any]:
    from tololo.reduction.timeseries import measurements, stars
    from tololo.reduction.timeseries import report as summary
    from tololo.reduction.timeseries.dataset import reduce_dataset

    folder, catalog = Path(job["folder"]), job["reference_catalog"]
    process = DatasetProcess(folder, reference_catalog=catalog)
    with LockKeeper([from_ticket(ticket) for ticket in job["tickets"]]) as keeper:
        # Frames that come from now on may be missed, and are seen next time.
        inputs = process.inputs()
        # From now on it may not be what the files are made of, should this one break off.
        (folder / RECORD).unlink(missing_ok=True)
        made = reduce_dataset(
            folder,
            again=job["again"],
            reference_catalog=Path(catalog) if catalog else None,
            heartbeat=keeper.check,
        )
        keeper.check()
        report = {
            "folder": str(folder),
            "target": made.target,
            "filter": made.filter,
            "light_curve": str(made.light_curve),
            "frames": made.frames,
            "measured": made.measured,
            "set_aside": made.set_aside,
            "upload": read_dataset_config(folder).tom.upload,
        }
        files = [folder / name for name in (summary.SUMMARY, stars.FILE, measurements.FOLDER)]
        files += [made.light_curve, made.photometry, *made.plots]
        content = {"inputs": inputs, "report": report, "files": [str(file) for file in files]}
        if not made.unread:
            write_json(folder / RECORD, content)
    return report


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), int(sys.argv[2])))
