"""Several processes that write one chain at once."""

from __future__ import annotations

import multiprocessing

from lsst.daf.butler import Butler

from tololo.hooks.chains import write_chain

CHAIN = "20180211/instcal"
INPUTS = ("refcats", "absent", "skymaps")


def one(repository: str, number: int, start: multiprocessing.Barrier) -> None:
    with Butler.from_config(repository, writeable=True) as butler:
        start.wait()
        for attempt in range(3):
            run = f"{CHAIN}/nightly_decam/instcal/20260101T00{attempt:02d}{number:02d}Z"
            butler.collections.register(run)
            report = write_chain(butler, CHAIN, [run], INPUTS)
            assert run in report.children


def race(repository: str, processes: int = 8) -> None:
    """Let processes add three RUNs each, and check that not one is lost and the order is right."""
    with Butler.from_config(repository, writeable=True) as butler:
        for name in ("refcats", "skymaps"):
            butler.collections.register(name)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(processes)
    workers = [context.Process(target=one, args=(repository, n, start)) for n in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * processes
    runs = [
        f"{CHAIN}/nightly_decam/instcal/20260101T00{attempt:02d}{number:02d}Z"
        for attempt in range(3)
        for number in range(processes)
    ]
    with Butler.from_config(repository) as butler:
        children = butler.collections.get_info(CHAIN).children
    assert children == (*sorted(runs, reverse=True), "refcats", "skymaps")
