"""The trigger that asks the engine's process of open Butlers."""

from __future__ import annotations

import time
from typing import Any

from tololo.engine import client
from tololo.facility.waiting import Answer
from tololo.triggers.waiting import WaitTrigger

PATIENCE = 60.0
"""Seconds to wait for one answer."""


class QuestionTrigger(WaitTrigger):
    """Wait until a question is answered with yes.

    :param question: a name in `tololo.engine.questions.QUESTIONS`.
    :param question_arguments: its arguments, as JSON.
    :param go_on: when the time is up, what was found must do, if anything was.

    The other arguments are those of `WaitTrigger`.
    """

    def __init__(
        self, *, question: str, question_arguments: dict[str, Any], go_on: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.question = question
        self.question_arguments = question_arguments
        self.go_on = go_on

    def arguments(self) -> dict[str, Any]:
        """Return the question and its arguments."""
        return {
            "question": self.question,
            "question_arguments": self.question_arguments,
            "go_on": self.go_on,
        }

    def look(self) -> Answer:
        """Ask, and wait for the answer."""
        return self._in_time(client.ask(self.question, PATIENCE, **self.question_arguments))

    async def look_async(self) -> Answer:
        """Ask, and let others go on until the answer comes."""
        return self._in_time(await client.ask_async(self.question, PATIENCE, **self.question_arguments))

    def _in_time(self, answer: Answer) -> Answer:
        if self.go_on and answer["found"] and time.time() >= self.deadline:
            return {**answer, "ready": True}
        return answer
