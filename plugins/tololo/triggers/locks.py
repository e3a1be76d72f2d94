"""The trigger that watches locks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.facility.locks import LockOwner, Verdict, checked_policy, may_break, remedy
from tololo.facility.waiting import Answer, answer, shorten
from tololo.triggers.waiting import WaitTrigger

if TYPE_CHECKING:
    from tololo.engine.locks import LockStatus
    from tololo.hooks.locks import LockHook

FOLDER = "folder:"


class LockTrigger(WaitTrigger):
    """Wait until nobody else holds any of some locks.

    Files, databases and Airflow are asked in a thread. A lock of another tool, or of a DAG run that goes on,
    is waited for; one that is stale is broken where the policy lets it.

    :param locks: names of locks; the path of a folder may be a glob.
    :param policy: which locks are broken, as `tololo.facility.locks.may_break` reads it.
    :param fail_when_stale: end with an error when a lock is stale and the policy does not break it.
    :param owner: the DAG run that waits: fields of a `LockOwner`. What it holds itself counts as free.

    The other arguments are those of `WaitTrigger`.
    """

    def __init__(
        self,
        *,
        locks: Sequence[str],
        policy: str,
        fail_when_stale: bool,
        owner: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.locks = list(locks)
        self.policy = policy
        self.fail_when_stale = fail_when_stale
        self.owner = owner
        self._lines: list[str] = []

    def arguments(self) -> dict[str, Any]:
        """Return the locks and what to do with them."""
        return {
            "locks": self.locks,
            "policy": self.policy,
            "fail_when_stale": self.fail_when_stale,
            "owner": self.owner,
        }

    def look(self) -> Answer:
        """Look at every lock."""
        missing: list[str] = []
        lines: list[str] = []
        found = 0
        for name in self._names():
            if name.startswith(FOLDER) and not Path(name.removeprefix(FOLDER)).is_dir():
                missing.append(f"{name} does not exist")
                lines.append(missing[-1])
            elif (status := self._obstacle(name)) is None:
                found += 1
            else:
                owner = status.record.owner if status.record else None
                # Without ages: a lock that only grows older is no news.
                missing.append(f"lock {name} of {owner or 'another tool'}: {status.verdict}")
                lines.append(f"the lock {name} is {status.line}")
        self._lines = lines
        return answer(missing, found)

    def message(self) -> str:
        """Say who holds the locks, since when, and how old the heartbeats are."""
        if self.fault or not self._lines:
            return super().message()
        return "; ".join(shorten(self._lines))

    @cached_property
    def _hook(self) -> LockHook:
        from tololo.hooks.locks import LockHook  # in the thread that looks: the loop imports the trigger

        return LockHook(LockOwner(**self.owner))

    def _names(self) -> Iterator[str]:
        """Give the names of all locks, those of the folders that a glob matches among them."""
        for name in self.locks:
            path = name.removeprefix(FOLDER)
            if path.startswith("/") and has_magic(path):
                folders = sorted(folder for folder in glob(path) if Path(folder).is_dir())
                yield from (f"{FOLDER}{folder}" for folder in folders or [path])
            else:
                yield f"{FOLDER}{path}" if path.startswith("/") else name

    def _obstacle(self, name: str) -> LockStatus | None:
        """Return the status of a lock that another holds, unless it could be broken."""
        status = self._held(name)
        if status is None:
            return None
        policy = checked_policy(self.policy)
        if may_break(policy, status.verdict):
            try:
                self._hook.break_(name, f"policy {policy} of a sensor: {status.verdict}", policy)
            except (NothingToDoError, UnavailableError):
                return self._held(name)  # it was released, renewed or broken by another in this moment
            return None
        if self.fail_when_stale and status.verdict in (Verdict.STALE, Verdict.ENDED):
            place = self._hook.lock(name).place
            raise BadInputError(f"The lock {name} is {status.line}", place, remedy(status.verdict))
        return status

    def _held(self, name: str) -> LockStatus | None:
        status = self._hook.status(name)
        if status.record is None or LockOwner(**self.owner).is_same(status.record.owner):
            return None
        return status
