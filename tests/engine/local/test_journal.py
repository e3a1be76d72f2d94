from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tololo.engine.local.journal import Journal, RunRecord, prune
from tololo.engine.local.workflow import FINAL, Job, Workflow

WORKFLOW = Workflow(
    "run",
    {
        "a": Job("a", "one", [], "", memory=100),
        "b": Job("b", "two", [], "", parents=["a"], memory=200),
        "c": Job("c", "three", [], "", parents=["b"]),
        FINAL: Job(FINAL, "final", [], ""),
    },
    2,
)


def end(journal: Journal, job: str, state: str, number: int = 1, memory: int = 100) -> None:
    journal.append("end", job=job, state=state, next_memory=memory, **{"try": number})


def start(journal: Journal, job: str) -> None:
    journal.append("start", job=job, pid=1, memory=1, **{"try": 1})


def states(record: RunRecord) -> dict[str, str]:
    return {name: job.state for name, job in record.jobs.items()}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def replayed(journal: Journal) -> RunRecord:
    record = journal.replay(WORKFLOW)
    prune(WORKFLOW, record)
    return record


def test_without_a_journal_everything_waits(journal: Journal) -> None:
    record = replayed(journal)
    assert set(states(record).values()) == {"waiting"}
    assert (record.submitted, record.cancelled, record.ended, record.runners) == (0, "", False, 0)
    assert {name: job.memory for name, job in record.jobs.items()} == {"a": 100, "b": 200, "c": 0, FINAL: 0}
    assert list(journal) == []


def test_what_the_lines_add_up_to(journal: Journal) -> None:
    journal.append("submitted", user="x")
    journal.append("runner", pid=1, started="1")
    start(journal, "a")
    assert states(replayed(journal))["a"] == "running"
    end(journal, "a", "waiting", 1, memory=300)
    again = replayed(journal).jobs["a"]
    assert (again.state, again.tries, again.memory) == ("waiting", 1, 300)
    end(journal, "a", "failed", 2, memory=300)
    record = replayed(journal)
    assert states(record) == {"a": "failed", "b": "pruned", "c": "pruned", FINAL: "waiting"}
    assert record.failed == ["a"]
    assert record.jobs["a"].last["try"] == 2
    end(journal, FINAL, "done")
    journal.append("ended", failed=1)
    assert replayed(journal).ended


def test_what_a_dead_runner_left_running_waits_again(journal: Journal) -> None:
    journal.append("runner", pid=1, started="1")
    start(journal, "a")
    end(journal, "a", "done")
    start(journal, "b")
    journal.append("runner", pid=2, started="2")
    record = replayed(journal)
    assert states(record) == {"a": "done", "b": "waiting", "c": "waiting", FINAL: "waiting"}
    assert record.jobs["b"].tries == 0, "a try that was cut off is none"


def test_what_may_not_be_tried_twice_does_not_run_again_when_it_was_cut_off(journal: Journal) -> None:
    once = Workflow(
        "run", {name: Job(name, name, [], "", quanta=["u"], retries=name != "a") for name in "ab"}, 2
    )
    start(journal, "a")
    start(journal, "b")
    journal.append("runner", pid=2, started="2")
    record = journal.replay(once)
    assert states(record) == {"a": "failed", "b": "waiting"}
    assert (record.jobs["a"].tries, record.jobs["a"].last["reason"]) == (1, "lost")
    journal.append("restarted", user="x")
    assert states(journal.replay(once)) == {"a": "waiting", "b": "waiting"}, "somebody asks for it"


def test_runners_that_got_nothing_done_are_counted(journal: Journal) -> None:
    for number in range(3):
        journal.append("runner", pid=number, started="1")
        start(journal, "a")
    assert replayed(journal).runners == 3
    end(journal, "a", "done")
    assert replayed(journal).runners == 0
    journal.append("runner", pid=9, started="1")
    journal.append("restarted", user="x")
    assert replayed(journal).runners == 0


def test_a_restart_lets_what_failed_be_tried_again_with_the_memory_it_got(journal: Journal) -> None:
    end(journal, "a", "failed", 3, memory=800)
    end(journal, FINAL, "done")
    journal.append("ended", failed=1)
    journal.append("cancelled", by="x")
    journal.append("restarted", user="x")
    record = replayed(journal)
    assert set(states(record).values()) == {"waiting"}
    assert (record.ended, record.cancelled) == (False, "")
    assert (record.jobs["a"].tries, record.jobs["a"].memory) == (0, 800)


def test_what_is_done_stays_done_after_a_restart(journal: Journal) -> None:
    end(journal, "a", "done")
    end(journal, "b", "failed")
    journal.append("restarted", user="x")
    assert states(replayed(journal)) == {"a": "done", "b": "waiting", "c": "waiting", FINAL: "waiting"}


@pytest.mark.parametrize("torn", [b'{"time": 1, "ev', b"{", b"\0" * 100, b"\xff\xfe", b'{"time": 1}x'])
def test_a_line_that_was_cut_short_is_all_that_is_lost(journal: Journal, torn: bytes) -> None:
    end(journal, "a", "done")
    start(journal, "b")
    with open(journal.path, "ab") as end_of_file:
        end_of_file.write(torn)
    assert states(replayed(journal))["b"] == "running"
    # The next line is not lost with it: else b would be taken to run for ever.
    journal.append("runner", pid=2, started="2")
    end(journal, "b", "done")
    assert states(replayed(journal)) == {"a": "done", "b": "done", "c": "waiting", FINAL: "waiting"}
    assert [event["event"] for event in journal] == ["end", "start", "runner", "end"]


def test_an_empty_journal_is_one(journal: Journal) -> None:
    journal.path.touch()
    assert list(journal) == []
    journal.append("submitted", user="x")
    assert replayed(journal).submitted == 1


def test_lines_of_other_jobs_and_events_are_left_alone(journal: Journal) -> None:
    start(journal, "nosuch")
    journal.append("nosuch", job="a")
    assert set(states(replayed(journal)).values()) == {"waiting"}


def test_lines_of_several_processes_do_not_mix(journal: Journal) -> None:
    long = "x" * 3000
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: journal.append("start", job=str(number), what=long), range(200)))
    found = list(journal)
    assert sorted(int(event["job"]) for event in found) == list(range(200))
    assert {len(event["what"]) for event in found} == {3000}


def test_a_line_that_finds_no_room_is_an_error(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write

    def half(file: int, line: Any) -> int:
        return whole(file, line[: len(line) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        journal.append("submitted", user="x")
    monkeypatch.undo()
    journal.append("submitted", user="y")
    assert [event["user"] for event in journal] == ["y"]
