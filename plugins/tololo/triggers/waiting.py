"""What triggers that wait share: look, say what is missing when that changes, look again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent

from tololo.facility.errors import TololoError, UnavailableError
from tololo.facility.waiting import Answer, describe

LAST_LOOK = 5.0
"""Seconds that a look may take when the time is up already."""
REST = 10.0
"""A pause is so many times as long as the last look took, so that many who wait do not keep the engine busy;
at most so many intervals."""


class Waited(TypedDict):
    """How waiting ended (``ready``, ``timeout`` or ``error``), how many were found, and why."""

    outcome: str
    found: int
    message: str


class WaitTrigger(BaseTrigger):
    """Look now and then until what is waited for is there, or the time is up.

    Who does not answer for now (the engine server, a database) is waited for too, and named in the message
    if the time is up before it answers. Nothing here holds the event loop.

    :param deadline: when the time is up, in seconds since 1970 UTC, so that a restarted triggerer keeps it.
    :param poke_interval: seconds between two looks; each pause differs a little, and the first is a random
        part of it, so that a hundred triggers do not look at once.
    :param missing: what was missing at the last look.
    :param fault: why the last look was not answered.
    """

    def __init__(
        self, *, deadline: float, poke_interval: float = 30.0, missing: Sequence[str] = (), fault: str = ""
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.deadline = deadline
        self.poke_interval = poke_interval
        self.missing = list(missing)
        self.fault = fault
        self.found = 0

    def look(self) -> Answer:
        """Look, in a process that may be held up."""
        raise NotImplementedError

    async def look_async(self) -> Answer:
        """Look without holding the event loop."""
        return await asyncio.to_thread(self.look)

    def message(self) -> str:
        """Say in one line what is missing, and who did not answer at the last look."""
        return describe(self.missing, self.fault)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the subclass, as JSON."""
        raise NotImplementedError

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class and arguments, so that any triggerer can go on."""
        common = {
            "deadline": self.deadline,
            "poke_interval": self.poke_interval,
            "missing": self.missing,
            "fault": self.fault,
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", self.arguments() | common

    def poke(self) -> bool:
        """Look once, here and now; tell whether it is there, and log what has changed.

        :raises TololoError: it can never be.
        """
        try:
            return self._heard(self.look())
        except (UnavailableError, OSError) as error:
            return self._unheard(error)

    async def poke_async(self) -> bool:
        """Do as `poke`, without holding the event loop, and not long past the deadline."""
        try:
            async with asyncio.timeout(max(self.deadline - time.time(), LAST_LOOK)):
                answer = await self.look_async()
        except (UnavailableError, OSError) as error:
            return self._unheard(error)
        return self._heard(answer)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until it is there, can never be, or the time is up; give one event, a `Waited`."""
        pause = self.poke_interval * random.random()
        while True:
            await asyncio.sleep(max(min(pause, self.deadline - time.time()), 0))
            began = time.monotonic()
            try:
                if await self.poke_async():
                    yield self._event("ready", self.message() if self.missing else "")
                    return
            except TololoError as error:
                yield self._event("error", str(error))
                return
            if time.time() >= self.deadline:
                yield self._event("timeout", self.message())
                return
            took = 0.0 if self.fault else time.monotonic() - began
            pause = max(self.poke_interval, REST * min(took, self.poke_interval)) * random.uniform(0.9, 1.1)

    def _heard(self, answer: Answer) -> bool:
        if self.fault:
            self.log.info("Answered again")
        has_changed = answer["missing"] != self.missing
        self.missing, self.found, self.fault = answer["missing"], answer["found"], ""
        if has_changed and not answer["ready"]:
            self.log.info("Waiting; %s", self.message())
        return answer["ready"]

    def _unheard(self, error: Exception) -> bool:
        fault = str(error) or "the time was up before the answer came"
        if not self.fault:
            self.log.warning("Waiting for who does not answer for now: %s", fault)
        self.fault = fault
        return False

    def _event(self, outcome: str, message: str) -> TriggerEvent:
        waited: Waited = {"outcome": outcome, "found": self.found, "message": message}
        return TriggerEvent(waited)  # type: ignore[no-untyped-call]
