"""Locks by name, and the thread that keeps them while work goes on.

``folder:/path`` is the file ``dataset.lock`` in that folder. ``collection:<name>`` and ``apdb:<name>`` are
rows of the facility's PostgreSQL, or files below ``TOLOLO_HOME/locks`` where it has none.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from tololo.engine.lock import Lock, LockStatus
from tololo.engine.lock_file import FileLock
from tololo.engine.lock_row import RowLock
from tololo.facility.errors import TololoError, UnavailableError
from tololo.facility.locks import LOCK_FILE, TTL, LockLostError, LockOwner, LockRecord, split_name

__all__ = [
    "Lock",
    "LockKeeper",
    "LockStatus",
    "from_ticket",
    "holder",
    "lock_for",
    "process_owner",
    "ticket",
]

_log = logging.getLogger("tololo.locks")


def lock_for(
    name: str, owner: LockOwner | None = None, *, ttl: float = TTL, database: str = "", password: str = ""
) -> Lock:
    """Return the lock of a name; nothing is taken or made yet.

    Parameters
    ----------
    name : `str`
        As in `tololo.facility.locks.split_name`.
    owner : `LockOwner`, optional
        Who will take it; this process by default.
    ttl : `float`, optional
        Its time to live without a heartbeat, seconds.
    database : `str`, optional
        Where the facility keeps locks that are not on folders: as in `RowLock`; empty for files.
    password : `str`, optional
        Of the database, if no file holds it.

    Raises
    ------
    BadInputError
        If it is no name of a lock.
    """
    kind, what = split_name(name)
    owner = owner or process_owner()
    if kind == "folder":
        return FileLock(f"folder:{what}", Path(what) / LOCK_FILE, owner, ttl)
    if database:
        return RowLock(name, database, owner, ttl, password)
    return FileLock(name, locks_folder() / _file_name(name), owner, ttl)


def holder(name: str, *, database: str = "", password: str = "") -> LockRecord | None:
    """Return what a lock says, `None` if nobody holds it; see `lock_for`."""
    return lock_for(name, database=database, password=password).holder()


def process_owner(what: str = "process") -> LockOwner:
    """Return an owner that is no DAG run: this process; no other will ever be the same owner."""
    return LockOwner(what, f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}")


def locks_folder() -> Path:
    """Return the folder of locks that are files by name, made if it is not there."""
    folder = Path(os.environ.get("TOLOLO_HOME") or "var").resolve() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"Cannot make the folder of locks: {error.strerror}", str(folder), "set TOLOLO_HOME"
        ) from error
    return folder


def facility_id() -> str:
    """Return the random name of this facility, the same for every process that shares its home."""
    path = locks_folder() / "facility"
    if not path.exists():
        beside = path.with_name(f".facility.{secrets.token_hex(4)}")
        with open(beside, "w") as file:
            file.write(secrets.token_hex(4) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
        beside.unlink()
    return path.read_text().strip()


def ticket(lock: Lock) -> dict[str, Any]:
    """Return what another process needs to renew a lock of the same owner: JSON, without a password."""
    return {
        "name": lock.name,
        "owner": asdict(lock.owner),
        "ttl": lock.ttl,
        "database": lock.database if isinstance(lock, RowLock) else "",
    }


def from_ticket(content: Mapping[str, Any]) -> Lock:
    """Return the lock that a `ticket` is for."""
    return lock_for(
        content["name"],
        LockOwner(**content["owner"]),
        ttl=float(content["ttl"]),
        database=content["database"],
    )


class LockKeeper:
    """Renews locks that their owner has taken, from a thread, as long as the ``with`` lasts.

    Parameters
    ----------
    locks : sequence of `Lock`
        What is kept. `from_ticket` makes them in another process than the one that took them.
    on_lost : callable, optional
        Called from the thread with the `LockLostError` of a lock that is lost.

    Notes
    -----
    Entering renews each lock once and raises what `Lock.renew` does. A place that cannot be reached later is
    tried again, more often than a heartbeat is due.
    """

    def __init__(self, locks: Sequence[Lock], on_lost: Callable[[LockLostError], None] | None = None) -> None:
        self._kept = list(locks)
        self._on_lost = on_lost
        self._interval = min((lock.ttl for lock in locks), default=TTL) / 3
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost: list[LockLostError] = []

    def __enter__(self) -> Self:
        for lock in self._kept:
            lock.renew(kept=True)
        if self._kept:
            self._thread = threading.Thread(target=self._keep, name="lock keeper", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(self._interval + 10.0)
        for lock in self._kept:
            with contextlib.suppress(TololoError):
                lock.renew(kept=False)  # from now on the state of the DAG run counts

    def check(self) -> None:
        """Raise if a lock has been lost.

        Raises
        ------
        LockLostError
            The first that was.
        """
        if self.lost:
            raise self.lost[0]

    def _keep(self) -> None:
        pause = self._interval
        while self._kept and not self._over.wait(pause):
            pause = self._interval
            for lock in list(self._kept):
                try:
                    lock.renew(kept=True)
                except LockLostError as error:
                    self._lose(lock, error)
                except Exception as error:  # the thread must live on whatever a disk or a database does
                    _log.warning("The lock %s was not renewed and will be tried again: %s", lock.name, error)
                    pause = self._interval / 4

    def _lose(self, lock: Lock, error: LockLostError) -> None:
        _log.error("%s", error)
        self._kept.remove(lock)
        self.lost.append(error)
        if self._on_lost is not None:
            self._on_lost(error)


def _file_name(name: str) -> str:
    """Return a file name for a lock, readable, and still different where it must be cut."""
    plain = quote(name, safe="")
    if len(plain) > 120:
        plain = f"{plain[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{plain}.lock"
