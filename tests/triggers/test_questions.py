"""Triggers that ask the real engine server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensors.datasets import add
from sensors.waiting import only_event, rebuilt
from tololo.engine import client
from tololo.facility.waiting import Answer, answer
from tololo.triggers import questions
from tololo.triggers.questions import QuestionTrigger
from tololo.triggers.waiting import Waited
from triggers.loop_lag import control, watched

BLOCKED = 0.2
"""Seconds after which Airflow warns that a trigger blocks its loop."""


def trigger(repository: Path, *names: str, seconds: float = 60.0, **changes: Any) -> QuestionTrigger:
    arguments = {"repository": str(repository), "collections": list(names), "dataset_types": []}
    own = {"question": "collections", "question_arguments": arguments, "poke_interval": 0.2}
    return QuestionTrigger(**(own | {"deadline": time.time() + seconds} | changes))


def run(*triggers: QuestionTrigger) -> list[Waited]:
    async def together() -> list[Waited]:
        return list(await asyncio.gather(*(only_event(rebuilt(one)) for one in triggers)))

    return asyncio.run(together())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The pid of an engine server that is this test's alone."""
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "home"))
    client.ensure_server()
    pid = client.call({"do": "ping"})["pid"]
    yield pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    client.stop_server()


def appear(repository: Path) -> None:
    add(repository, "bias", "absent", [{"instrument": "DECam", "detector": 3}])


def test_it_goes_on_as_it_was_after_a_restart_of_the_triggerer(ingested: Path) -> None:
    before = trigger(ingested, "absent", missing=["this"], fault="that")
    path, arguments = before.serialize()
    assert path == "tololo.triggers.questions.QuestionTrigger"
    after = rebuilt(before)
    assert (after.deadline, after.missing, after.fault) == (before.deadline, ["this"], "that")
    assert set(arguments) == {
        "question",
        "question_arguments",
        "go_on",
        "deadline",
        "poke_interval",
        "missing",
        "fault",
    }


def test_it_ends_when_it_is_there(ingested: Path) -> None:
    assert run(trigger(ingested, "skymaps", "refcats")) == [{"outcome": "ready", "found": 2, "message": ""}]


def test_it_ends_when_the_time_is_up_and_names_what_is_missing(ingested: Path) -> None:
    began = time.time()
    (waited,) = run(trigger(ingested, "skymaps", "absent", seconds=1.0))
    assert time.time() >= began + 1.0
    assert waited == {
        "outcome": "timeout",
        "found": 1,
        "message": "missing: collection absent (it does not exist)",
    }


def test_it_looks_once_more_when_the_time_was_up_before_it_began(ingested: Path) -> None:
    late, too_late = run(trigger(ingested, "skymaps", seconds=-9), trigger(ingested, "absent", seconds=-9))
    assert (late["outcome"], too_late["outcome"]) == ("ready", "timeout")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"question": "nonsense"}, "nonsense"),
        ({"question_arguments": {"repository": "/nowhere"}}, "no Butler repository.*What to do"),
    ],
)
def test_what_can_never_be_answered_is_an_error(ingested: Path, changes: dict[str, Any], says: str) -> None:
    (waited,) = run(trigger(ingested, "skymaps", **changes))
    assert waited["outcome"] == "error"
    assert re.search(says, waited["message"])


def test_who_takes_long_to_answer_is_asked_less_often(ingested: Path) -> None:
    looks = []

    class Slow(QuestionTrigger):
        async def look_async(self) -> Answer:
            looks.append(time.monotonic())
            await asyncio.sleep(0.1)
            return answer(["something"], 0)

    slow = Slow(question="", question_arguments={}, deadline=time.time() + 2.0, poke_interval=0.05)
    assert asyncio.run(only_event(slow))["outcome"] == "timeout"
    assert 1 < len(looks) <= 6


class TestAServerThatDoesNotAnswer:
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(questions, "PATIENCE", 0.3)

    def test_is_waited_for_and_named_when_the_time_is_up(
        self, ingested: Path, server: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        os.kill(server, signal.SIGSTOP)
        (waited,) = run(trigger(ingested, "absent", seconds=3.0, missing=["what was missing before"]))
        assert waited["outcome"] == "timeout"
        assert waited["message"].startswith(
            "missing: what was missing before; the last question was not answered: The engine server does not"
        )
        said = [line for line in capsys.readouterr().out.splitlines() if "does not answer for now" in line]
        assert len(said) == 1

    def test_is_asked_again_when_it_is_back(
        self, own_repository: Path, server: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def back() -> Waited:
            waiting = asyncio.create_task(only_event(trigger(own_repository, "absent")))
            await asyncio.sleep(1.5)
            assert not waiting.done()
            appear(own_repository)
            os.kill(server, signal.SIGCONT)
            return await waiting

        os.kill(server, signal.SIGSTOP)
        assert asyncio.run(back())["outcome"] == "ready"
        output = capsys.readouterr().out
        assert output.count("does not answer for now") == 1
        assert output.count("Answered again") == 1

    def test_that_was_killed_is_started_anew(
        self, own_repository: Path, server: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(questions, "PATIENCE", 60.0)

        async def killed() -> Waited:
            waiting = asyncio.create_task(only_event(trigger(own_repository, "absent", seconds=120)))
            await asyncio.sleep(0.5)
            os.kill(server, signal.SIGKILL)
            appear(own_repository)
            return await waiting

        assert asyncio.run(killed())["outcome"] == "ready"
        assert client.call({"do": "ping"})["pid"] != server


class TestAHundredTriggers:
    """What `block_watchdog` of the triggerer measures, here with a loop that has nothing to do beside."""

    async def _wait(self, repository: Path, seconds: float) -> tuple[list[Waited], list[float]]:
        triggers = [trigger(repository, f"absent{n}", seconds=seconds, poke_interval=1.0) for n in range(100)]
        async with watched() as lags:
            waited = await asyncio.gather(*(only_event(rebuilt(one)) for one in triggers))
        return list(waited), lags

    def test_do_not_hold_the_loop(self, ingested: Path) -> None:
        client.ask("collections", repository=str(ingested), collections=[], dataset_types=[])
        with control() as greatest:
            waited, lags = asyncio.run(self._wait(ingested, 10.0))
        assert all(one["message"].startswith("missing: collection absent") for one in waited)
        assert max(lags) < BLOCKED + greatest[0]

    def test_do_not_hold_the_loop_while_the_server_hangs(
        self, ingested: Path, server: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(questions, "PATIENCE", 1.0)
        os.kill(server, signal.SIGSTOP)
        with control() as greatest:
            waited, lags = asyncio.run(self._wait(ingested, 3.0))
        assert all("The engine server does not answer" in one["message"] for one in waited)
        assert max(lags) < BLOCKED + greatest[0]
