"""Datasets of frames: which are to be reduced, and the reduction of one under its lock.

A dataset's lock is the file ``dataset.lock`` in its folder, which other tools of the field look for too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tololo.engine.dataset_process import DatasetProcess
from tololo.engine.lock import Lock
from tololo.engine.locks import ticket
from tololo.facility.dataset_folders import frames, listed, scan
from tololo.facility.dataset_manager import ManagerConfig, Window
from tololo.facility.errors import BadInputError, NothingToDoError, TololoError
from tololo.facility.locks import Policy, Verdict, may_break, remedy
from tololo.hooks.locks import LockHook

TTL = 300.0
"""Seconds without a heartbeat after which the lock of a dataset is stale: its process renews it thrice."""

_log = logging.getLogger("tololo.timeseries")


class DatasetLockedError(NothingToDoError):
    """Another reduces the dataset now; of a lock of another tool nobody can tell what it is worth."""


@dataclass(frozen=True)
class Selection:
    """Datasets that are to be reduced, and what was left out.

    Attributes
    ----------
    chosen : `list` [`pathlib.Path`]
        In the order of the list, else of their names.
    locked : `dict`
        Folders that others hold, and who.
    outside : `int`
        How many have no frame in the time asked for.
    undated : `dict`
        Frames and folders whose time cannot be told, and why.
    """

    chosen: list[Path] = field(default_factory=list)
    locked: dict[Path, str] = field(default_factory=dict)
    outside: int = 0
    undated: dict[Path, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = {
            "locked by others": len(self.locked),
            "without a frame in that time": self.outside,
            "files or folders that could not be read": len(self.undated),
        }
        rest = "".join(f", {count} {what}" for what, count in counts.items() if count)
        return f"{len(self.chosen)} datasets to be reduced{rest}"


def select_datasets(config: ManagerConfig, hook: LockHook, policy: Policy, now: datetime) -> Selection:
    """Choose datasets as a manager's configuration says, those aside that others hold.

    Parameters
    ----------
    config : `ManagerConfig`
    hook : `LockHook`
        Tells who holds what; what its own owner holds counts as free.
    policy : `str`
        Locks that it allows to break count as free.
    now : `datetime.datetime`
        What group ``recent`` counts back from.

    Raises
    ------
    BadInputError
        The root, the list, or a folder that it names is not there.
    """
    if config.group == "file" and config.list_file:
        folders = listed(config.root, config.list_file)
    else:
        folders = scan(config.root, config.instruments)
    return _unlocked(folders, hook, policy, config.window(now))


def named_datasets(names: Iterable[str], root: Path | None, hook: LockHook, policy: Policy) -> Selection:
    """Choose datasets by their folders, absolute or relative to a root.

    Raises
    ------
    BadInputError
        One is not there.
    """
    folders = dict.fromkeys((root or Path()) / name for name in names)
    for folder in folders:
        if not folder.is_absolute() or not folder.is_dir():
            raise BadInputError(
                f"There is no dataset {folder}", "param datasets", "give the path of its folder, from / on"
            )
    return _unlocked(folders, hook, policy, None)


def _unlocked(folders: Iterable[Path], hook: LockHook, policy: Policy, window: Window | None) -> Selection:
    found = Selection()
    outside = 0
    for folder in folders:
        if window is not None and not _has_frame_in(folder, window, found.undated):
            outside += 1
        elif line := _held_by_another(hook.lock(lock_name(folder)), hook, policy):
            found.locked[folder] = line
        else:
            found.chosen.append(folder)
    return Selection(found.chosen, found.locked, outside, found.undated)


def lock_name(folder: Path) -> str:
    """Return the name of a dataset's lock."""
    return f"folder:{folder.resolve()}"


def _has_frame_in(folder: Path, window: Window, undated: dict[Path, str]) -> bool:
    """Tell whether a dataset has a frame of some time; the newest are looked at first."""
    from tololo.reduction.timeseries.frame_dates import frame_date

    try:
        paths = frames(folder)
    except OSError as error:
        undated[folder] = str(error.strerror)
        return False
    for path in reversed(paths):  # names have the date in them
        try:
            if frame_date(path) in window:
                return True
        except BadInputError as error:
            undated[path] = error.what
    return False


def _held_by_another(lock: Lock, hook: LockHook, policy: Policy) -> str:
    """Say who holds a lock that stands in the way; empty if none does."""
    status = lock.status(hook.run_state)
    if status.verdict is Verdict.FREE or may_break(policy, status.verdict):
        return ""
    return "" if status.record and lock.owner.is_same(status.record.owner) else status.line


class DatasetReduction:
    """The reduction of one dataset, under its lock, in a process of its own.

    Parameters
    ----------
    folder : `pathlib.Path`
        The dataset.
    hook : `LockHook`
        With the owner of the lock.
    policy : `str`
        Which lock of another may be broken.
    again : `bool`
        Measure all frames anew.
    reference_catalog : `str`
        The facility's table of reference stars; empty for none.
    """

    def __init__(
        self,
        folder: Path,
        hook: LockHook,
        policy: Policy,
        *,
        again: bool = False,
        reference_catalog: str = "",
    ) -> None:
        self.folder = folder
        self._hook = hook
        self._policy = policy
        self._process = DatasetProcess(folder, again, reference_catalog)

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Reduce it, unless nothing has changed since the last reduction.

        Parameters
        ----------
        say : callable
            Takes each line of the log.

        Returns
        -------
        made : `dict`
            ``folder``, ``target``, ``filter``, ``light_curve``, ``frames``, ``measured`` (those that are
            new), ``set_aside`` (reasons by frame), ``upload``.

        Raises
        ------
        DatasetLockedError
            Another reduces it now.
        NothingToDoError
            Another tool has locked it, or there are no frames.
        TololoError
            As the reduction raises.
        """
        lock = self._hook.lock(lock_name(self.folder))
        while not lock.try_acquire(self._policy, self._hook.run_state):
            status = lock.status(self._hook.run_state)
            if status.verdict is Verdict.FREE:
                continue
            kind = NothingToDoError if status.verdict is Verdict.FOREIGN else DatasetLockedError
            raise kind(f"The dataset is {status.line}", lock.place, remedy(status.verdict))
        try:
            if (known := self._process.known()) is not None:
                say("Nothing has changed since the last reduction")
                return known
            self._process.tickets = [ticket(lock)]
            return self._process.run(say)
        finally:
            try:
                lock.release()
            except TololoError as error:  # what was raised before is what counts
                _log.warning("%s", error)

    def kill(self) -> None:
        """End it; what it has measured stays."""
        self._process.kill()
