"""New frames of Las Cumbres' archive into datasets.

1. The lock of the root folder's ``.incoming`` is taken: one download at a time, so no frame comes twice.
2. The archive lists the reduced frames of each proposal; what is here already is not fetched.
3. Each frame is fetched into ``.incoming``, compared with its checksum and noted in the journal.
4. The frames of a dataset go into its folder by one rename each while its lock is held for that moment. Where
   another holds it, a reduction, they wait in ``.incoming`` for the next download.

Killed anywhere, the next download goes on: parts are continued, frames that wait are delivered. The end of a
window in which nothing failed is noted, and the next window begins a day before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, groupby
from pathlib import Path

from tololo.engine.locks import LockKeeper
from tololo.facility.disk import DiskError, md5_of, writing
from tololo.facility.errors import BadInputError, TololoError, UnavailableError
from tololo.facility.lco import INCOMING, UNSORTED, ArchiveFrame
from tololo.facility.lco_inventory import Inventory
from tololo.facility.lco_journal import Downloaded, Journal
from tololo.facility.lco_report import DownloadReport
from tololo.hooks.http_files import RefusedError, fetch
from tololo.hooks.lco import LcoArchiveHook
from tololo.hooks.lco_datasets import configure, deliver, held, lock_of

OVERLAP = timedelta(days=1)
"""How far a window reaches back before the last complete one: frames come when they are reduced, later."""

PATIENCE = 3
"""How many frames in a row may get no answer before the others are left for another time."""

FIRST = timedelta(days=7)
"""How far the first window of a proposal reaches back."""


def download_frames(
    hook: LcoArchiveHook,
    root: Path,
    proposals: Sequence[str],
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    dry_run: bool = False,
    wait: float = 600.0,
    progress: Callable[[str], None] | None = None,
) -> DownloadReport:
    """Fetch what is new in the archive and sort it into datasets.

    Parameters
    ----------
    hook : `LcoArchiveHook`
    root : `pathlib.Path`
        Folder of all datasets.
    proposals : sequence of `str`
        Whose frames.
    start, end : `datetime.datetime`, optional
        When they were begun. By default since the last complete download of the proposal less a day, at the
        first time since a week ago; and until now.
    dry_run : `bool`, optional
        Say what would come; write nothing.
    wait : `float`, optional
        Seconds to wait for another download to end.
    progress : callable, optional
        Is told how far it is.

    Returns
    -------
    report : `DownloadReport`
        Frames that failed are in it; the others are done all the same.

    Raises
    ------
    BadInputError
        There is no such folder, no proposal, or the archive refuses.
    UnavailableError
        The archive does not answer, the disk takes no more, or another download does not end.
    """
    root = root.resolve()
    if not root.is_dir():
        raise BadInputError("There is no such folder of datasets", str(root), "mend data_reduction_dir")
    if not proposals:
        raise BadInputError(
            "There are no proposals to download", "param proposals", "name some, there or in the connection"
        )
    end = end or datetime.now(UTC)
    if start and start >= end:
        raise BadInputError(
            f"The start {start:%Y-%m-%d %H:%M} is not before the end {end:%Y-%m-%d %H:%M}",
            "params start, end",
            "mend one of them",
        )
    if dry_run:
        return _Download(hook, root, lambda: None, progress, dry_run=True).run(proposals, start, end)
    with _alone(root, wait) as check:
        return _Download(hook, root, check, progress).run(proposals, start, end)


@contextmanager
def _alone(root: Path, wait: float) -> Iterator[Callable[[], None]]:
    """Be the only download below a root; what comes of it raises when that is over."""
    try:
        (root / INCOMING).mkdir(exist_ok=True)
    except OSError as error:
        raise BadInputError(
            f"The folder cannot be written: {error.strerror}", str(root), "let this user write into it"
        ) from error
    lock = lock_of(root / INCOMING)
    deadline = time.monotonic() + wait
    while not lock.try_acquire("if_stale"):
        if time.monotonic() >= deadline:
            lock.acquire("if_stale")  # says who has it
            break
        time.sleep(min(1.0, wait / 10))
    try:
        with LockKeeper([lock]) as keeper:
            yield keeper.check
    finally:
        lock.release()


class _Download:
    def __init__(
        self,
        hook: LcoArchiveHook,
        root: Path,
        check: Callable[[], None],
        progress: Callable[[str], None] | None,
        *,
        dry_run: bool = False,
    ) -> None:
        self.hook = hook
        self.root = root
        self.incoming = root / INCOMING
        self.check = check
        self.progress = progress or (lambda line: None)
        self.dry_run = dry_run
        self.journal = Journal(root)
        self.report = DownloadReport()
        self.inventory = Inventory(root, self.journal)
        self.incomplete: set[str] = set()  # proposals of which a frame failed
        self.away = 0  # frames in a row that the server gave no answer about

    def run(self, proposals: Sequence[str], start: datetime | None, end: datetime) -> DownloadReport:
        """List, fetch, deliver."""
        if not self.dry_run:
            self._deliver_waiting()
        now = datetime.now(UTC)
        windows = {name: (start or self._since(name, end), end) for name in dict.fromkeys(proposals)}
        wanted: dict[int, tuple[str, ArchiveFrame]] = {}
        for proposal, window in windows.items():
            self.hook.log.info("Proposal %s, frames begun between %s and %s", proposal, *window)
            for frame in self.hook.frames(proposal, *window):
                if frame.id not in wanted:
                    wanted[frame.id] = (proposal, frame)
        self.report.found = len(wanted)
        missing = []
        for item in wanted.values():
            judgement = self.inventory.judge(item[1])
            if judgement.fetch:
                missing.append(item)
            elif judgement.reason:
                self._set_aside(item[1].filename, judgement.reason)
            else:
                self.report.present += 1
        self._fetch_all(missing)
        if not self.dry_run:
            for proposal, (begin, until) in windows.items():
                if proposal not in self.incomplete and begin < now:
                    # Of what is still to come nothing can be here.
                    self.journal.note_complete(proposal, begin, min(until, now))
        return self.report

    def _since(self, proposal: str, end: datetime) -> datetime:
        complete = self.journal.complete.get(proposal)
        # One that lies in the future, of a clock that was wrong, says nothing.
        return complete - OVERLAP if complete and complete <= end else end - FIRST

    def _set_aside(self, filename: str, why: str) -> None:
        self.hook.log.warning("%s: %s", filename, why)
        self.report.set_aside[filename] = why

    def _fetch_all(self, missing: Sequence[tuple[str, ArchiveFrame]]) -> None:
        """Fetch frames, dataset by dataset."""
        missing = sorted(missing, key=lambda item: item[1].dataset)
        done = count(1)
        for dataset, items in groupby(missing, key=lambda item: item[1].dataset):
            fetched: list[Downloaded] = []
            for proposal, frame in items:
                self.progress(f"frame {next(done)} of {len(missing)}: {frame.filename}")
                if self.dry_run:
                    self.hook.log.info("Would come: %s into %s", frame.filename, dataset or UNSORTED)
                    self.report.new += 1
                elif (came := self._try(proposal, frame)) is not None:
                    fetched.append(came)
                    self.report.new += 1
            if fetched:
                self._deliver(dataset, fetched)
            elif self.dry_run and dataset:
                self.report.datasets.append(str(self.root / dataset))

    def _try(self, proposal: str, frame: ArchiveFrame) -> Downloaded | None:
        """Fetch a frame, or note why that failed."""
        self.check()
        try:
            if self.away == PATIENCE:
                raise UnavailableError("Not tried: the server gave no answer about others", frame.filename)
            came = self._fetch(frame)
            self.away = 0
            return came
        except DiskError:
            raise
        except TololoError as error:
            self.hook.log.error("%s", error)
            self.report.failed[frame.filename] = error.what
            self.incomplete.add(proposal)
            self.away = min(self.away + isinstance(error, UnavailableError), PATIENCE)
            return None

    def _fetch(self, frame: ArchiveFrame) -> Downloaded:
        """Fetch a frame into the incoming ones; where its address has expired, ask for another."""
        path = self.incoming / frame.filename
        if path.exists() and (other := self.inventory.waiting_under_the_name_of(frame)) is not None:
            raise BadInputError(
                f"Frame {other.id} has the same name, and waits for the lock of {other.dataset}",
                frame.filename,
            )
        for fresh in (False, True):
            if not frame.md5 or not frame.url:
                raise BadInputError("The archive gives no address or no checksum of it", frame.filename)
            try:
                if path.exists() and md5_of(path) == frame.md5:  # whoever fetched it died before he noted it
                    break
                fetch(
                    frame.url,
                    path,
                    frame.md5,
                    timeout=self.hook.timeout,
                    attempts=self.hook.attempts,
                    backoff=self.hook.backoff,
                    patience=self.hook.patience,
                    log=self.hook.log,
                )
                break
            except RefusedError as error:
                if fresh:
                    raise
                self.hook.log.info("%s; a new address is asked for", error.what)
                frame = self.hook.frame(frame.id)
        note = Downloaded(frame.id, frame.filename, frame.md5, path.stat().st_size, frame.dataset)
        self.journal.note(note)
        return note

    def _deliver_waiting(self) -> None:
        """Deliver what an earlier download had to leave in the folder of incoming frames."""
        for dataset, frames in groupby(self.inventory.waiting(), key=lambda frame: frame.dataset):
            self._deliver(dataset, list(frames))

    def _deliver(self, dataset: str, frames: Sequence[Downloaded]) -> None:
        """Move frames from the incoming ones into their dataset, unless another holds its lock."""
        folder = self.root / (dataset or UNSORTED)
        try:
            with writing(folder / frames[0].filename), ExitStack() as stack:
                folder.mkdir(parents=True, exist_ok=True)
                if dataset:
                    try:
                        stack.enter_context(held(folder))
                    except UnavailableError as error:
                        self.hook.log.warning("%s", error)
                        self.report.waiting[str(folder)] = error.what
                        return
                    self._configure(folder, frames)
                self._move(folder, frames)
        except TololoError as error:
            self.hook.log.error("%s", error)
            self.report.failed[str(folder)] = error.what
            return
        if not dataset:
            for frame in frames:
                self._set_aside(frame.filename, f"target, instrument or filter unknown; it is in {UNSORTED}")
        elif str(folder) not in self.report.datasets:
            self.report.datasets.append(str(folder))

    def _move(self, folder: Path, frames: Sequence[Downloaded]) -> None:
        for frame in frames:
            deliver(self.incoming / frame.filename, folder)
            self.journal.note(replace(frame, delivered=True))

    def _configure(self, folder: Path, frames: Sequence[Downloaded]) -> None:
        """Give a dataset a configuration, from the first frame that says where the target is."""
        for frame in frames:
            try:
                if configure(self.root, folder, self.incoming / frame.filename):
                    self.report.configured.append(str(folder))
                self.report.unconfigured.pop(str(folder), None)
                return
            except BadInputError as error:
                self.report.unconfigured[str(folder)] = error.what
        self.hook.log.warning("%s has no configuration: %s", folder, self.report.unconfigured[str(folder)])
