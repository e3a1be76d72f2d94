"""What the runs of a machine share."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tololo.engine.local import runner
from tololo.engine.local.machine import UNIT, Machine, memory_of_machine

from .jobs import events, job, record, start, until, write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "engine" / "machine.lock"


def hold(file: Path, cores: int, memory: int, ready: Connection) -> None:
    Machine(file, 4).take(cores, memory)
    ready.send(os.getpid())
    signal.pause()


def holder(file: Path, cores: int, memory: int) -> int:
    """Another process that has taken a part; returns its pid."""
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.get_context("spawn").Process(
        target=hold, args=(file, cores, memory, theirs), daemon=True
    ).start()
    return int(ours.recv())


def test_two_take_no_more_than_there_is_and_the_kernel_gives_back(file: Path) -> None:
    other = holder(file, 3, 0)
    machine = Machine(file, 4)
    assert machine.take(2, 0) is None
    part = machine.take(1, 0)
    assert part is not None
    assert machine.take(1, 0) is None, "nor does one take the same twice"
    machine.give_back(part)
    assert machine.take(1, 0) is not None
    os.kill(other, signal.SIGKILL)
    until(lambda: machine.take(3, 0), "what the killed one held")


def test_memory_is_counted_too(file: Path) -> None:
    machine = Machine(file, 4)
    total = machine.memory
    assert total == int(0.9 * memory_of_machine())
    holder(file, 1, total // 2)
    assert machine.take(1, int(0.6 * total)) is None
    part = machine.take(1, int(0.4 * total))
    assert part is not None
    machine.give_back(part)
    assert len(machine.take(3, UNIT + 1) or []) == 5


def test_whoever_wants_more_than_there_is_gets_all(file: Path) -> None:
    machine = Machine(file, 2)
    part = machine.take(7, 2 * memory_of_machine())
    assert part is not None
    assert machine.take(1, 0) is None
    machine.give_back(part)
    assert machine.take(1, 0) is not None


def test_a_forked_process_holds_nothing(file: Path) -> None:
    machine = Machine(file, 1)
    assert machine.take(1, 0)
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        machine.give_back([0])
        assert machine.take(1, 0)
        assert Machine(file, 1).take(1, 0), "to the process itself its own locks are no obstacle"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_two_runs_share_the_cores(tmp_path: Path) -> None:
    """Each of two runs may use two cores: together they do not use more either."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        write(folder, *(job(folder, name, "sleep 0.4") for name in "abcd"))
        start(folder)
    # On a busy machine the first may have ended by now: its journal tells of its runner all the same.
    pids = [until(lambda: events(folder, "runner"), "a runner")[-1]["pid"] for folder in folders]  # noqa: B023
    assert len(set(pids)) == 2
    for folder in folders:
        until(lambda: not runner.is_running(folder), "the run to end")  # noqa: B023
        assert {one.state for one in record(folder).jobs.values()} == {"done"}
    changes = sorted(
        (line["time"], 1 if kind == "start" else -1)
        for folder in folders
        for kind in ("start", "end")
        for line in events(folder, kind)
    )
    running, most = 0, 0
    for _, change in changes:
        running += change
        most = max(most, running)
    assert most == 2
