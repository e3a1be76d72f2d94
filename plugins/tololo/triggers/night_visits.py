"""The trigger that watches for the visits of a night."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any

from tololo.facility.waiting import Answer
from tololo.triggers.locks import LockTrigger
from tololo.triggers.questions import QuestionTrigger


class NightVisitsTrigger(QuestionTrigger):
    """Wait until nobody works on a night, and a question about its visits is answered with yes.

    :param lock: the lock of the night.
    :param policy: whether it may be broken, as `LockTrigger` takes it.
    :param owner: the DAG run that waits: fields of a `LockOwner`.

    The other arguments are those of `QuestionTrigger`.
    """

    def __init__(self, *, lock: str, policy: str, owner: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lock = lock
        self.policy = policy
        self.owner = owner

    def arguments(self) -> dict[str, Any]:
        """Return the question, and the lock."""
        return super().arguments() | {"lock": self.lock, "policy": self.policy, "owner": self.owner}

    def look(self) -> Answer:
        """Look at the lock, then ask: a run that works on the night may have some visits already."""
        held = self._locks.look()
        return held if held["missing"] else super().look()

    async def look_async(self) -> Answer:
        """Do as `look`, and let others go on meanwhile."""
        held = await asyncio.to_thread(self._locks.look)
        return held if held["missing"] else await super().look_async()

    def message(self) -> str:
        """Say who works on the night, or what is missing."""
        if self.missing and self.missing[0].startswith("lock "):
            return self._locks.message()
        return super().message()

    @cached_property
    def _locks(self) -> LockTrigger:
        return LockTrigger(
            locks=[self.lock],
            policy=self.policy,
            fail_when_stale=False,
            owner=self.owner,
            deadline=self.deadline,
            missing=self.missing,
        )
