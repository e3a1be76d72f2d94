"""What every lock can do, wherever it is kept: `tololo.engine.locks.lock_for` makes one from its name.

The rule stands in `tololo.facility.locks`. A place where locks are kept has to do three things in one step
each: make a lock if there is none, rewrite it while it is still the same taking of it, and remove it on the
same condition. All else is here.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from tololo.engine.attempt import process_started
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.locks import (
    TTL,
    LockLostError,
    LockOwner,
    LockRecord,
    Policy,
    Verdict,
    describe,
    is_silent,
    judge,
    may_break,
    remedy,
)

AskRun = Callable[[LockOwner], str | None]
"""Tells the state of a DAG run (`tololo.facility.locks.judge`); raises `UnavailableError` when it cannot."""

_log = logging.getLogger("tololo.locks")
_TRIES = 20


@dataclass(frozen=True)
class LockStatus:
    """How a lock stands.

    Parameters
    ----------
    name : `str`
        Name of the lock.
    record : `LockRecord` or `None`
        What it says, `None` if it is free.
    verdict : `Verdict`
        What it is worth.
    line : `str`
        Both in words, for a log.
    """

    name: str
    record: LockRecord | None
    verdict: Verdict
    line: str


class Lock(ABC):
    """A lock that one owner may take.

    Parameters
    ----------
    name : `str`
        Its name.
    owner : `LockOwner`
        Who takes, renews and releases it, or breaks another's.
    ttl : `float`, optional
        Its time to live without a heartbeat, seconds.
    """

    def __init__(self, name: str, owner: LockOwner, ttl: float = TTL) -> None:
        self.name = name
        self.owner = owner
        self.ttl = ttl
        self.token = ""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the lock is kept."""

    @abstractmethod
    def holder(self) -> LockRecord | None:
        """Return what the lock says, `None` if nobody holds it."""

    @abstractmethod
    def now(self) -> datetime:
        """Return the time by the clock that the lock's times are of."""

    @abstractmethod
    def _create(self, record: LockRecord) -> bool:
        """Make the lock, its times being now, if there is none."""

    @abstractmethod
    def _rewrite(self, record: LockRecord) -> bool:
        """Put this in the place of the lock with the same token, the heartbeat being now."""

    @abstractmethod
    def _remove(self, record: LockRecord, *, unchanged: bool) -> bool:
        """Remove the lock with this token; with ``unchanged`` only if its heartbeat is still this one."""

    def _look(self) -> tuple[LockRecord | None, datetime]:
        """Return what the lock says, and the time."""
        record = self.holder()
        return record, self.now() if record else datetime.now(UTC)

    def status(self, ask: AskRun | None = None) -> LockStatus:
        """Return how the lock stands.

        Parameters
        ----------
        ask : callable, optional
            Tells the state of the owner's DAG run; without it only the heartbeat counts.
        """
        record, now = self._look()
        if record is None:
            return LockStatus(self.name, None, Verdict.FREE, "free")
        state = None
        if ask is not None and record.owner is not None and (is_silent(record, now) or not record.kept):
            state = ask(record.owner)
        verdict = judge(record, now, state)
        gone = "; that process is gone" if _is_gone(record) else ""
        return LockStatus(self.name, record, verdict, describe(record, now, verdict) + gone)

    def acquire(self, policy: Policy = "never", ask: AskRun | None = None) -> None:
        """Take the lock, or take it again as the same DAG run.

        Parameters
        ----------
        policy : `str`, optional
            Which lock of another may be broken for it.
        ask : callable, optional
            As in `status`.

        Raises
        ------
        UnavailableError
            Somebody else holds it: who, since when, how old the heartbeat is, and what to do.
        BadInputError
            It cannot be kept there.
        """
        if (obstacle := self._obstacle(policy, ask)) is not None:
            raise UnavailableError(
                f"The lock {self.name} is {obstacle.line}", self.place, remedy(obstacle.verdict)
            )

    def try_acquire(self, policy: Policy = "never", ask: AskRun | None = None) -> bool:
        """Take the lock as `acquire` does, and tell whether that went well."""
        return self._obstacle(policy, ask) is None

    def renew(self, *, kept: bool = False) -> None:
        """Give the lock a new heartbeat.

        Parameters
        ----------
        kept : `bool`, optional
            Whether this process goes on doing so.

        Raises
        ------
        LockLostError
            It is not this owner's any more: broken, released or removed since it was taken.
        UnavailableError
            Where it is kept cannot be reached.
        """
        held = self.holder()
        if held is None or not self._is_mine(held) or not self._rewrite(self._record(held.token, kept, held)):
            raise self._lost()
        self.token = held.token

    def release(self) -> bool:
        """Give the lock back.

        Returns
        -------
        released : `bool`
            `False` if nobody held it.

        Raises
        ------
        BadInputError
            It is another's, and was left alone.
        LockLostError
            It was taken with this object and is another's now.
        """
        held = self.holder()
        if held is None:
            _log.warning("The lock %s of %s was not there to be released", self.name, self.owner)
            return False
        if not self._is_mine(held):
            if self.token:
                raise self._lost()
            raise BadInputError(
                f"The lock {self.name} is not released, since it is {describe(held, self.now())}",
                self.place,
                "only its owner releases it; a lock that nobody needs any more is broken, with a reason",
            )
        if not self._remove(held, unchanged=False):
            raise self._lost()
        self.token = ""
        _log.info("%s released the lock %s", self.owner, self.name)
        return True

    def break_(self, reason: str, seen: LockRecord | None = None) -> LockRecord | None:
        """Remove a lock whoever holds it, and say so in the log.

        Parameters
        ----------
        reason : `str`
            Why.
        seen : `LockRecord`, optional
            The lock as it was judged: it is left alone if it has been renewed since or is another by now.

        Returns
        -------
        broken : `LockRecord` or `None`
            `None` if there was nothing to break, or not any more.
        """
        if not reason.strip():
            raise BadInputError("No reason is given for breaking the lock", self.name, "give one")
        record = seen or self.holder()
        if record is None:
            return None
        line = describe(record, self.now())
        if not self._remove(record, unchanged=seen is not None):
            return None
        _log.warning("%s broke the lock %s, %s. Reason: %s", self.owner, self.name, line, reason)
        return record

    def _obstacle(self, policy: Policy, ask: AskRun | None) -> LockStatus | None:
        """Take the lock; return what stands in the way if that cannot be done."""
        status = self.status(ask)
        for _ in range(_TRIES):
            held = status.record
            if held is None:
                mine = self._record(secrets.token_hex(8), kept=False)
                if self._create(mine):
                    self.token = mine.token
                    _log.info("%s took the lock %s", self.owner, self.name)
                    return None
            elif self.owner.is_same(held.owner):
                if self._rewrite(self._record(held.token, held.kept, held)):
                    self.token = held.token
                    _log.info("%s has the lock %s since %s", self.owner, self.name, held.since)
                    return None
                # Whoever was about to remove it has died, or will have done so in a moment.
                self._remove(held, unchanged=False)
            elif may_break(policy, status.verdict):
                self.break_(f"policy {policy}: {status.verdict}", held)
            else:
                return status
            status = self.status(ask)
        return status

    def _record(self, token: str, kept: bool, before: LockRecord | None = None) -> LockRecord:
        pid = os.getpid()
        since = before.since if before else datetime.now(UTC)
        return LockRecord(
            since=since,
            heartbeat=since,
            owner=self.owner,
            ttl=self.ttl,
            host=socket.gethostname(),
            pid=pid,
            pid_started=process_started(pid),
            kept=kept,
            token=token,
        )

    def _is_mine(self, record: LockRecord) -> bool:
        if self.token:
            return record.token == self.token
        return self.owner.is_same(record.owner)

    def _lost(self) -> LockLostError:
        held = self.holder()
        line = describe(held, self.now()) if held else "free"
        return LockLostError(
            f"{self.owner} has lost the lock {self.name}; now it is {line}",
            self.place,
            "check what was written in the meantime before going on",
        )


def _is_gone(record: LockRecord) -> bool:
    """Tell whether the process of a lock was one of this machine and has ended; that decides nothing.

    A lock that a task took for its DAG run needs no process.
    """
    if record.owner is None or (record.owner.facility and not record.kept):
        return False
    return record.host == socket.gethostname() and process_started(record.pid) != record.pid_started
