"""A lock that is a file, on any file system that has hard links; NFS included, since no flock is used.

The file is made by a hard link, which fails if the name is taken. The other name of that link, a hidden file
beside it, is the *right to end* this one taking of the lock: whoever wants to remove the lock, its owner or
one who breaks it, must first rename that file to a name of its own. A rename of a file that only exists once
succeeds for one process alone, so of two who break the same stale lock one finds the right gone, and nobody
can remove the fresh lock of a third by its name. Only a hand that removes files is beyond this.

A heartbeat is written into the file that the owner has open, never by the name: a process that was paused
while its lock was broken writes into a file that nobody sees any more, and then notices.

Times are the file server's, not this host's: those that it gives to a file touched just now.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tololo.engine.attempt import process_started
from tololo.engine.lock import Lock
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.locks import TTL, LockOwner, LockRecord

_LARGEST = 1 << 16
_LEFTOVER = 3600.0
_PATIENCE = 2.0


class FileLock(Lock):
    """A lock in a file.

    Parameters
    ----------
    name : `str`
        Name of the lock.
    path : `pathlib.Path`
        The file; its folder must exist.
    owner : `LockOwner`
        As in `Lock`.
    ttl : `float`, optional
        As in `Lock`.
    """

    def __init__(self, name: str, path: Path, owner: LockOwner, ttl: float = TTL) -> None:
        super().__init__(name, owner, ttl)
        self.path = path

    @property
    def place(self) -> str:
        """The file."""
        return str(self.path)

    def holder(self) -> LockRecord | None:
        """Return what the lock says; any file of its name is a lock."""
        with self._explained():
            found = self._read()
            return found[1] if found else None

    def now(self) -> datetime:
        """Return the file server's time; this host's where we may not write."""
        probe = self._beside(f"now-{secrets.token_hex(4)}")
        try:
            file = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except OSError:
            return datetime.now(UTC)
        try:
            return _touched(file)
        finally:
            os.close(file)
            os.unlink(probe)

    def _create(self, record: LockRecord) -> bool:
        right = self._beside(record.token)
        made = False
        with self._explained():
            try:
                with open(os.open(right, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), "wb") as file:
                    now = _touched(file.fileno())
                    file.write(replace(record, since=now, heartbeat=now).text().encode())
                    file.flush()
                    os.fsync(file.fileno())
                made = self._link(right)
            finally:
                if not made:
                    right.unlink(missing_ok=True)
        if made:
            self._sweep()
        return made

    def _link(self, right: Path) -> bool:
        try:
            os.link(right, self.path)
        except OSError as error:
            # On NFS a repeated request reports a failure of what succeeded the first time.
            if os.stat(right).st_nlink == 2:
                return True
            if error.errno == errno.EEXIST:
                return False
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise BadInputError(
                    "This file system has no hard links, which a lock needs", self.place, "use another one"
                ) from error
            raise
        return True

    def _rewrite(self, record: LockRecord) -> bool:
        with self._explained():
            try:
                file = os.open(self.path, os.O_RDWR)
            except FileNotFoundError:
                return False
            try:
                before = os.read(file, _LARGEST)
                if _parse(before, file).token != record.token:
                    return False
                text = replace(record, heartbeat=_touched(file)).text(len(before))
                if os.pwrite(file, text.encode(), 0) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file)
            finally:
                os.close(file)
            return self._stands(record.token)

    def _stands(self, token: str) -> bool:
        """Tell whether the lock is there and nobody is ending it; one who thinks better of it is awaited."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                os.close(os.open(self._beside(token), os.O_RDONLY))  # asks the server, unlike a stat
            except FileNotFoundError:
                there = False
            else:
                there = True
            found = self._read()
            if found is None or found[1].token != token:
                return False
            if there or time.monotonic() > deadline:
                return there
            time.sleep(0.01)

    def _remove(self, record: LockRecord, *, unchanged: bool) -> bool:
        with self._explained():
            if record.owner is None or self._has_no_right(record):
                return self._take_away(record, unchanged=unchanged)
            right = self._take_right(record)
            return right is not None and self._end(record, right, unchanged=unchanged)

    def _end(self, record: LockRecord, right: Path, *, unchanged: bool) -> bool:
        """Remove the lock by right, or give the right back."""
        try:
            found = self._read()
            if found is None or found[1].token != record.token:
                return False
            if unchanged and found[1].heartbeat != record.heartbeat:
                os.rename(right, self._beside(record.token))
                return False
            self.path.unlink(missing_ok=True)
            return True
        except OSError:
            with contextlib.suppress(OSError):
                os.rename(right, self._beside(record.token))
            raise
        finally:
            right.unlink(missing_ok=True)

    def _has_no_right(self, record: LockRecord) -> bool:
        """Tell whether the hidden file of a lock that is there is missing, as in a copy of the folder."""
        right = self._beside(record.token)
        for _ in range(3):  # a right that is given back may hide from one look at the folder
            if right.exists() or self._taken(record.token):
                return False
            found = self._read()
            if found is None or found[1].token != record.token:
                return False  # the right went after the lock did
            time.sleep(0.01)
        return True

    def _take_right(self, record: LockRecord) -> Path | None:
        """Make the right to end a lock our own; also that of a process that died with it."""
        pid = os.getpid()
        this = f"{_machine()}-{pid}-{process_started(pid)}-{secrets.token_hex(4)}"
        mine = self._beside(f"{record.token}.{this}")
        dead = [path for path in self._taken(record.token) if self._is_abandoned(path, record.ttl)]
        for right in (self._beside(record.token), *dead):
            try:
                os.rename(right, mine)
            except FileNotFoundError:
                if not mine.exists():  # as with a link that was repeated
                    continue
            return mine
        return None

    def _taken(self, token: str) -> list[Path]:
        start = f"{self._beside(token).name}."
        with os.scandir(self.path.parent) as entries:
            return [Path(entry.path) for entry in entries if entry.name.startswith(start)]

    def _is_abandoned(self, right: Path, ttl: float) -> bool:
        """Tell whether the process that took a right is dead: for certain on this machine, else by age."""
        machine, pid, started = right.name.rsplit(".", 1)[1].split("-")[:3]
        if machine == _machine():
            return process_started(int(pid)) != started
        try:
            taken = os.stat(right).st_ctime
        except FileNotFoundError:
            return False
        return self.now().timestamp() - taken > ttl

    def _take_away(self, record: LockRecord, *, unchanged: bool) -> bool:
        """Remove a lock that has no hidden file, another tool's: look at what was removed, not before."""
        if self.path.is_dir():
            raise BadInputError("The lock is a folder", self.place, "see what it holds, and remove it")
        aside = self._beside(f"broken-{secrets.token_hex(4)}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return False
        removed = self._read(aside)
        same = removed is not None and (
            removed[1] == record if unchanged or not record.token else removed[1].token == record.token
        )
        if not same:
            with contextlib.suppress(FileExistsError):
                os.link(aside, self.path)
        aside.unlink()
        return same

    def _read(self, path: Path | None = None) -> tuple[bytes, LockRecord] | None:
        path = path or self.path
        found = None
        for _ in range(3):
            try:
                found = _look(path)
            except FileNotFoundError:
                os.stat(self.path.parent)  # where the folder itself is away, nothing is known
                return None
            if found[1].owner is not None or not found[0]:
                break
            time.sleep(0.005)  # it may be in the midst of being renewed
        return found

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{suffix}")

    def _sweep(self) -> None:
        """Remove the hidden files of processes that died an hour ago; those of a lock have two links."""
        start, oldest = self._beside("").name, self.now().timestamp() - _LEFTOVER
        with contextlib.suppress(OSError), os.scandir(self.path.parent) as entries:
            for entry in entries:
                if not entry.name.startswith(start) or not entry.is_file(follow_symlinks=False):
                    continue
                facts = os.stat(entry.path)
                if facts.st_nlink == 1 and facts.st_ctime < oldest:
                    os.unlink(entry.path)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the system says into an error that a person can act on."""
        try:
            yield
        except FileNotFoundError as error:
            if self.path.parent.is_dir():
                raise UnavailableError(
                    f"The lock cannot be used: {error}", self.place, "try again"
                ) from error
            raise BadInputError(
                "The folder to be locked does not exist", str(self.path.parent), "check its path"
            ) from error
        except NotADirectoryError as error:
            raise BadInputError(
                "What is to be locked is no folder", str(self.path.parent), "name one"
            ) from error
        except PermissionError as error:
            raise BadInputError(
                f"The lock cannot be written: {error.strerror}",
                self.place,
                "let this user write into the folder; its file system must have hard links",
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"The lock cannot be used: {error.strerror}", self.place, "mend the disk or the mount"
            ) from error


def _look(path: Path) -> tuple[bytes, LockRecord]:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        facts = os.lstat(path)
        if not stat.S_ISLNK(facts.st_mode):
            return _look(path)  # it was made a moment ago
        return b"", _odd(facts.st_mtime, "the file is a symbolic link to nowhere")
    except PermissionError:
        return b"", _odd(os.lstat(path).st_mtime, "the file cannot be read by this user")
    try:
        content = os.read(file, _LARGEST)
        return content, _parse(content, file)
    except IsADirectoryError:
        return b"", _odd(os.fstat(file).st_mtime, "it is a folder")
    except OSError as error:
        if error.errno == errno.ESTALE:
            raise FileNotFoundError from error
        raise
    finally:
        os.close(file)


def _parse(content: bytes, file: int) -> LockRecord:
    modified = datetime.fromtimestamp(os.fstat(file).st_mtime, UTC)
    return LockRecord.parse(content.decode(errors="replace"), modified)


def _odd(modified: float, note: str) -> LockRecord:
    when = datetime.fromtimestamp(modified, UTC)
    return LockRecord(when, when, note=note)


def _touched(file: int) -> datetime:
    """Touch an open file and return the time that the file server gave it."""
    os.utime(file)
    return datetime.fromtimestamp(os.fstat(file).st_mtime, UTC)


@functools.cache
def _machine() -> str:
    """Name this boot of this machine, and this container: a process id means something only there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot, space = socket.gethostname(), ""
    return hashlib.sha256(f"{boot} {space}".encode()).hexdigest()[:12]
