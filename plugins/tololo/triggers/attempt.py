"""Waiting for an attempt without holding a worker: only its record is read, nothing of LSST is imported."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from tololo.engine.attempt import ENDED, Attempt, AttemptState
from tololo.facility.run import write_json

LOOK_SECONDS = 1.0
"""Between two looks at an attempt."""

LOG_SECONDS = 10.0
"""Between two lines of progress in the log, so that a run of hours does not fill it."""

LEAVE_SECONDS = 8.0
"""For which the task stays deferred at least: the process of the worker that has deferred it may live for
some seconds yet, and when its end is heard of after the task has come back, Airflow takes it for the task's
own and fails that."""

LOST_SECONDS = 3.0
"""How long a driver must have been gone to count as dead, not as one that hands over to its successor."""


class Watch:
    """What somebody who follows an attempt knows of it.

    Parameters
    ----------
    attempt : `~tololo.engine.attempt.Attempt`
        The attempt.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self._gone_since: float | None = None

    def look(self) -> tuple[AttemptState, str]:
        """Return the state of the attempt, and ``running``, ``ended``, or ``lost`` when its driver died."""
        alive = self.attempt.is_alive()
        # Read after that: a driver writes its last state and goes.
        state = self.attempt.state
        if state.phase in ENDED:
            return state, "ended"
        if alive:
            self._gone_since = None
            return state, "running"
        now = time.monotonic()
        self._gone_since = self._gone_since or now
        return state, "lost" if now - self._gone_since >= LOST_SECONDS else "running"


class AttemptTrigger(BaseTrigger):
    """Fire when an attempt has ended, its driver has died, or the task has waited long enough.

    The event has ``standing`` (``ended``, ``lost`` or ``overdue``), the ``folder`` of the attempt and
    ``relaunches``. The progress goes to the task's log: a trigger cannot write the task state store.

    :param folder: folder of the attempt.
    :param relaunches: how many drivers this try of the task has started in place of dead ones.
    :param deadline: seconds since 1970 after which the task has waited too long.
    """

    def __init__(self, folder: str, relaunches: int = 0, deadline: float | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder = folder
        self.relaunches = relaunches
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer makes this trigger from."""
        return "tololo.triggers.attempt.AttemptTrigger", {
            "folder": self.folder,
            "relaunches": self.relaunches,
            "deadline": self.deadline,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follow the attempt."""
        watch, began = Watch(Attempt(Path(self.folder))), time.monotonic()
        shown, phase, logged = "", "", 0.0
        while True:
            # The folder may be on a network file system: its delays are not for the event loop.
            state, standing = await asyncio.to_thread(watch.look)
            line = describe_progress(state)
            due = state.phase != phase or time.monotonic() - logged >= LOG_SECONDS
            if line != shown and (due or standing != "running"):
                self.log.info("%s", line)
                shown, phase, logged = line, state.phase, time.monotonic()
            if standing == "running" and self.deadline is not None and time.time() >= self.deadline:
                standing = "overdue"
            if standing != "running":
                await asyncio.sleep(max(began + LEAVE_SECONDS - time.monotonic(), 0))
                event = {"standing": standing, "folder": self.folder, "relaunches": self.relaunches}
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def on_kill(self) -> None:
        """Cancel the run: somebody has cleared the task, or marked it failed or successful."""
        # The triggerer cancels this again every second until it has ended. That ends an await, not a thread.
        await asyncio.to_thread(self._cancel)

    def _cancel(self) -> None:
        from tololo.hooks.bps import BpsHook

        if self._is_still_wanted():
            self.log.info("The run goes on: its task is followed elsewhere")
            return
        self.log.info("Cancelling the run of %s", self.folder)
        BpsHook(Path(self.folder).parent).cancel()

    def _is_still_wanted(self) -> bool:
        """Tell whether a later try has taken the run up, or the task still waits: in another triggerer.

        A triggerer that was not heard of for a while loses its triggers to another one, and when it is back
        it ends them as if somebody had killed their tasks.
        """
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        ti = self.task_instance
        if ti is None:
            return False
        if owner(Attempt(Path(self.folder))) > ti.try_number:
            return True
        states = RuntimeTaskInstance.get_task_states(
            ti.dag_id, map_index=ti.map_index, task_ids=[ti.task_id], run_ids=[ti.run_id]
        )
        return "deferred" in states.get(ti.run_id, {}).values()


def own(attempt: Attempt, try_number: int) -> None:
    """Record which try of the task follows an attempt; no earlier one may cancel it from then on."""
    write_json(attempt.folder / "owner.json", {"try_number": try_number})


def owner(attempt: Attempt) -> int:
    """Return the number of the try that follows an attempt, 0 where none does."""
    try:
        return int(json.loads((attempt.folder / "owner.json").read_text())["try_number"])
    except FileNotFoundError:
        return 0


def describe_progress(state: AttemptState) -> str:
    """Say in one line where an attempt stands: ``submitted: a 3 of 10, 1 failed; b 0 of 10``."""
    counts = "; ".join(
        f"{label} {state.finished.get(label, 0)} of {expected}"
        + (f", {state.failed[label]} failed" if state.failed.get(label) else "")
        for label, expected in state.expected.items()
    )
    return f"{state.phase}: {counts}" if counts else state.phase
