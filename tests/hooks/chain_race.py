"""Several processes that write one chain at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from lsst.daf.butler import Butler

from tololo.hooks.chains import write_chain

CHAIN = "20180211/instcal"
INPUTS = ("refcats", "absent", "skymaps")


def run_of(number: int, attempt: int) -> str:
    return f"{CHAIN}/nightly_decam/instcal/20260101T00{attempt:02d}{number:02d}Z"


def one(repository: str, number: int, inputs: tuple[str, ...], start: Any) -> None:
    """Make a RUN and chain it, three times, as a DAG run does after each of its steps."""
    with Butler.from_config(repository, writeable=True) as butler:
        start.wait()
        for attempt in range(3):
            run = run_of(number, attempt)
            butler.collections.register(run)
            report = write_chain(butler, CHAIN, [run], inputs)
            assert run in report.children


def holder(repository: str, holds: Any) -> None:
    """Take the chain's lock and keep it until killed, with half of the work done."""
    with Butler.from_config(repository, writeable=True) as butler, butler.transaction():
        butler.collections.extend_chain(CHAIN, ["skymaps"])
        butler.collections.redefine_chain(CHAIN, [])
        holds.set()
        time.sleep(600)


def race(repository: str, processes: int = 8) -> None:
    """Let processes add three RUNs each, and check that not one is lost and the order is right."""
    _register(repository, "refcats", "skymaps")
    context = multiprocessing.get_context("fork")
    start = context.Barrier(processes)
    _together(one, [(repository, number, INPUTS, start) for number in range(processes)])
    runs = [run_of(number, attempt) for attempt in range(3) for number in range(processes)]
    assert children(repository) == (*sorted(runs, reverse=True), "refcats", "skymaps")


def race_of_two(repository: str) -> None:
    """Let two DAG runs with different inputs write it while a third process dies holding the lock."""
    _register(repository, "refcats", "skymaps", "before", "mine", "yours")
    with Butler.from_config(repository, writeable=True) as butler:
        write_chain(butler, CHAIN, (), ["before"])
    context = multiprocessing.get_context("fork")
    start, holds = context.Barrier(2), context.Event()
    killed = context.Process(target=holder, args=(repository, holds))
    killed.start()
    assert holds.wait(120)
    inputs = (("refcats", "mine"), ("refcats", "yours"))

    def kill() -> None:
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        killed.join(120)

    _together(one, [(repository, number, inputs[number], start) for number in range(2)], kill)
    runs = [run_of(number, attempt) for attempt in range(3) for number in range(2)]
    found = children(repository)
    assert found[: len(runs)] == tuple(sorted(runs, reverse=True))
    assert sorted(found[len(runs) :]) == ["before", "mine", "refcats", "yours"]
    assert found[len(runs)] == "refcats"


def vanish(repository: str, rounds: int = 30) -> None:
    """Write a chain while another process removes and makes again one of its children."""
    _register(repository, "refcats", "fickle")
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    _together(
        _remove_again_and_again, [(repository, start, rounds)], lambda: _write(repository, start, rounds)
    )
    assert "refcats" in children(repository)


def children(repository: str) -> tuple[str, ...]:
    with Butler.from_config(repository) as butler:
        return butler.collections.get_info(CHAIN).children


def _write(repository: str, start: Any, rounds: int) -> None:
    with Butler.from_config(repository, writeable=True) as butler:
        butler.collections.register(run_of(0, 0))
        start.wait()
        for _ in range(rounds):
            report = write_chain(butler, CHAIN, [run_of(0, 0)], ["fickle", "refcats"], drop=True)
            assert report.children[0] == run_of(0, 0)
            assert ("fickle" in report.children) != ("fickle" in report.missing)


def _remove_again_and_again(repository: str, start: Any, rounds: int) -> None:
    from lsst.daf.butler import MissingCollectionError
    from lsst.daf.butler.registry import OrphanedRecordError

    with Butler.from_config(repository, writeable=True) as butler:
        start.wait()
        for _ in range(rounds):
            try:
                butler.collections.remove_from_chain(CHAIN, "fickle")
                butler.collections.x_remove("fickle")
            except (OrphanedRecordError, MissingCollectionError):
                pass  # it was put back into the chain in between
            butler.collections.register("fickle")


def _register(repository: str, *names: str) -> None:
    with Butler.from_config(repository, writeable=True) as butler:
        for name in names:
            butler.collections.register(name)


def _together(
    work: Callable[..., None], arguments: list[tuple[Any, ...]], meanwhile: Callable[[], None] | None = None
) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=args) for args in arguments]
    for worker in workers:
        worker.start()
    if meanwhile is not None:
        meanwhile()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)
