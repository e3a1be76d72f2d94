"""What the sensors share: look once, defer, and say what is missing."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferralTimeout,
)

from tololo.facility.errors import TololoError
from tololo.facility.nights import night_bounds
from tololo.params import night_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.triggers.waiting import Waited, WaitTrigger

MARGIN = timedelta(minutes=5)
"""How much longer than the sensor Airflow waits, for a triggerer that is away when the time is up."""


UNANSWERED = 600.0
"""Seconds that are waited for who does not answer, where nothing is waited for otherwise."""


class FacilitySensor(BaseSensorOperator):
    """A sensor that looks once in its task, and then waits in the triggerer and holds no worker slot.

    What is missing is named in the log whenever it changes, and is the message when the time is up. What can
    never be right fails at once. Who does not answer for now is waited for.

    :param deferrable: wait in the triggerer; otherwise in the task, as ``mode`` says.
    :param poke_interval: time between two looks.

    ``timeout``, ``soft_fail`` and ``mode`` are those of all sensors. With the param ``dry_run`` it looks once
    and waits for nothing. Returns how many were found.
    """

    def __init__(
        self, *, deferrable: bool = True, poke_interval: timedelta | float = 30, **kwargs: Any
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.deferrable = deferrable
        self._trigger: WaitTrigger | None = None
        self._seen = 0

    def make_trigger(self, context: Context, deadline: float) -> WaitTrigger:
        """Return the trigger that looks for what this sensor waits for, until a deadline."""
        raise NotImplementedError

    def poke(self, context: Context) -> bool:
        """Look once."""
        try:
            if self._trigger is None:
                self._trigger = self.make_trigger(context, time.time() + self.timeout)
            return self._trigger.poke()
        except TololoError as error:
            raise AirflowFailException(str(error)) from error

    def execute(self, context: Context) -> int:
        """Look, and wait where it is not there."""
        try:
            if context["params"].get("dry_run"):
                if not self.poke(context):
                    self.log.info("Dry run: this is what would be waited for")
                    return self._found()
            elif not self.deferrable:
                super().execute(context)
            elif not self.poke(context):
                assert self._trigger is not None
                if self.timeout <= 0:
                    if not self._trigger.fault:
                        raise self._too_late()
                    self.timeout = UNANSWERED
                    self._trigger.deadline = time.time() + UNANSWERED
                self.defer(
                    trigger=self._trigger,
                    method_name="execute_complete",
                    timeout=timedelta(seconds=self.timeout) + MARGIN,
                )
        except AirflowFailException as error:
            self._end(context, error)
        except (AirflowSensorTimeout, AirflowSkipException) as error:
            self._end(context, error.__cause__ or self._too_late())
        return self._ready(self._trigger.message() if self._trigger and self._trigger.missing else "")

    def execute_complete(self, context: Context, event: Waited) -> int:
        """Go on when the trigger has ended."""
        self._trigger, self._seen = None, event["found"]
        if event["outcome"] == "ready":
            return self._ready(event["message"])
        if event["outcome"] == "timeout":
            self._end(context, self._too_late(event["message"]))
        self._end(context, AirflowFailException(event["message"]))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after the trigger, and keep the reason of a skip, which the parent class replaces."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (AirflowSensorTimeout, AirflowSkipException) as error:
            reason = error.__cause__ if isinstance(error, AirflowSkipException) else error
            if isinstance(reason, AirflowSensorTimeout) and isinstance(reason.__cause__, TaskDeferralTimeout):
                # The triggerer was away when the time was up: look here.
                if self.poke(context):
                    return self._found()
                reason = self._too_late()
            self._end(context, reason or error)

    def _too_late(self, message: str = "") -> AirflowSensorTimeout:
        if not message and self._trigger is not None:
            message = self._trigger.message()
        return AirflowSensorTimeout(f"Waited {self.timeout:g} s in vain; {message}")

    def _end(self, context: Context, reason: BaseException) -> NoReturn:
        """End the task with a reason: as a skip where failures are soft."""
        if self.soft_fail or self.never_fail:
            context["task_state_store"].set("progress", str(reason))
            raise AirflowSkipException(str(reason)) from None
        raise reason

    def _is_answered(self, context: Context) -> bool:
        """Tell whether the last look was answered: otherwise nobody knows what is there."""
        if self._trigger is None:  # the last look was the triggerer's
            self.poke(context)
        return self._trigger is not None and not self._trigger.fault

    def _ready(self, lacking: str) -> int:
        if lacking:
            self.log.warning("Going on with what is there; %s", lacking)
        self.log.info("Ready, %d found", self._found())
        return self._found()

    def _found(self) -> int:
        return self._trigger.found if self._trigger is not None else self._seen


def night_deadline(context: Context) -> float:
    """Return when a run stops waiting for its night: ``wait`` hours after its end, in seconds since 1970."""
    return night_bounds(night_of(context))[1].timestamp() + 3600.0 * float(context["params"]["wait"])


class ButlerSensor(FacilitySensor):
    """A sensor that asks the Butler one question.

    :param conn_id: connection of the repository (templated).
    """

    QUESTION = ""

    def __init__(self, *, conn_id: str = "{{ params.repo }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id

    def question_arguments(self, context: Context) -> dict[str, Any]:
        """Return the arguments of the question, besides the repository."""
        raise NotImplementedError

    def make_trigger(self, context: Context, deadline: float) -> WaitTrigger:
        """Return the trigger that asks."""
        from tololo.hooks.butler import ButlerHook
        from tololo.triggers.questions import QuestionTrigger

        repository = os.path.abspath(ButlerHook.from_connection(self.conn_id).repository)
        return QuestionTrigger(
            question=self.QUESTION,
            question_arguments={"repository": repository, **self.question_arguments(context)},
            deadline=deadline,
            poke_interval=self.poke_interval,
        )
