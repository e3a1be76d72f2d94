from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tololo.engine import locks
from tololo.engine.lock import Lock
from tololo.engine.lock_row import RowLock
from tololo.engine.locks import LockKeeper, facility_id, from_ticket, lock_for, process_owner, ticket
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.locks import LockLostError, LockOwner, LockRecord, Policy, Verdict
from tololo.services import postgres
from tololo.services.home import Home

from .lock_fight import ENOUGH, fight, is_running

OURS = LockOwner("nightly_decam", "manual__1", "lock", 1, "ctio")
THEIRS = LockOwner("difference_imaging", "manual__2", "lock", 1, "ctio")

Make = Callable[..., Lock]


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = Home(tmp_path_factory.mktemp("locks"))
    try:
        yield postgres.start(home).url("apdb").replace("+psycopg", "")
    finally:
        postgres.stop(home)


@pytest.fixture(params=["file", pytest.param("row", marks=pytest.mark.services)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """One lock, kept in a folder or in PostgreSQL."""
    name = f"folder:{tmp_path}/red" if request.param == "file" else f"apdb:{tmp_path.name}"
    (tmp_path / "red").mkdir()
    where = "" if request.param == "file" else request.getfixturevalue("database")

    def lock(owner: LockOwner = OURS, ttl: float = 900.0) -> Lock:
        return lock_for(name, owner, ttl=ttl, database=where)

    return lock


def in_another_process(work: Callable[[], object]) -> int:
    """Start work in a process that then sleeps for ever, and return its pid once the work is done."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(writing, b"done")
            while True:
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read(4) == b"done"
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def held(lock: Lock) -> LockRecord:
    record = lock.holder()
    assert record is not None
    return record


def until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not fact():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.01)


def test_one_holds_and_the_other_is_told_who(make: Make) -> None:
    ours, theirs = make(), make(THEIRS)
    assert ours.holder() is None
    assert ours.status().verdict is Verdict.FREE
    ours.acquire()
    record = held(theirs)
    assert record.owner == OURS
    assert (record.pid, record.ttl, record.kept) == (os.getpid(), 900.0, False)
    assert abs(record.heartbeat - record.since) < timedelta(seconds=1)
    assert theirs.try_acquire("if_stale") is False
    with pytest.raises(UnavailableError) as caught:
        theirs.acquire()
    assert "held by nightly_decam manual__1 (task lock, try 1)" in caught.value.what
    assert f"since {record.since:%Y-%m-%dT%H:%M:%S} UTC" in caught.value.what
    assert "heartbeat" in caught.value.what
    assert caught.value.where == ours.place
    assert "wait until it is released" in caught.value.remedy
    assert ours.release() is True
    theirs.acquire()
    assert held(ours).owner == THEIRS


def test_the_same_run_takes_it_again_and_releases_it_from_anywhere(make: Make) -> None:
    make().acquire()
    first = held(make())
    retried = LockOwner(OURS.dag_id, OURS.run_id, "another", 3, OURS.facility)
    make(retried).acquire()
    again = held(make())
    assert (again.owner, again.token, again.since) == (retried, first.token, first.since)
    assert again.heartbeat >= first.heartbeat
    teardown = make(LockOwner(OURS.dag_id, OURS.run_id, "unlock", 1, OURS.facility))
    assert teardown.release() is True
    assert teardown.holder() is None
    assert teardown.release() is False


def test_runs_of_the_same_id_in_two_facilities_are_two(make: Make) -> None:
    make().acquire()
    assert make(LockOwner(OURS.dag_id, OURS.run_id, "lock", 1, "kpno")).try_acquire() is False


def test_nobody_but_the_owner_releases(make: Make) -> None:
    make().acquire()
    before = held(make())
    with pytest.raises(BadInputError, match="not released, since it is held by nightly_decam manual__1"):
        make(THEIRS).release()
    with pytest.raises(LockLostError):
        make(THEIRS).renew()
    assert held(make()) == before


def test_a_dead_holder_is_reported_stale_with_its_age_and_broken_by_policy_only(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        lock = make(THEIRS, ttl=0.5)
        lock.acquire()
        lock.renew(kept=True)

    kill(in_another_process(work))
    ours = make()
    assert ours.status(lambda owner: "running").verdict is Verdict.HELD
    until(lambda: ours.status().verdict is Verdict.STALE)
    time.sleep(1.0)
    line = ours.status().line
    assert "held by difference_imaging manual__2" in line
    assert int(line.partition("heartbeat ")[2].partition(" s ago")[0]) >= 1
    assert line.endswith("stale; that process is gone")
    with pytest.raises(UnavailableError, match=r"What to do: see whether its owner still works"):
        ours.acquire()
    assert ours.try_acquire("if_run_ended") is False
    assert ours.try_acquire("if_stale", lambda owner: "running") is False
    assert held(ours).owner == THEIRS
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        ours.acquire("if_stale")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    said = caplog.records[0].message
    assert said.startswith("nightly_decam manual__1 (task lock, try 1) broke the lock ")
    assert "held by difference_imaging manual__2" in said
    assert said.endswith("Reason: policy if_stale: stale")
    assert held(ours).owner == OURS


def test_a_lock_of_a_run_that_has_ended(make: Make) -> None:
    theirs, ours = make(THEIRS), make()
    theirs.acquire()
    asked: list[LockOwner] = []

    def state(owner: LockOwner) -> str:
        asked.append(owner)
        return "failed"

    assert ours.try_acquire("never", state) is False
    assert ours.status(state).verdict is Verdict.ENDED
    theirs.renew(kept=True)
    asked.clear()
    assert ours.try_acquire("if_run_ended", state) is False  # its driver outlived it
    assert asked == []
    theirs.renew(kept=False)
    assert ours.try_acquire("if_run_ended", state) is True
    assert asked == [THEIRS]
    with pytest.raises(LockLostError, match="has lost the lock"):
        theirs.renew()
    with pytest.raises(LockLostError, match="now it is held by nightly_decam"):
        theirs.release()


def test_an_error_of_whoever_is_asked_breaks_nothing(make: Make) -> None:
    make(THEIRS, ttl=0.1).acquire()
    time.sleep(0.3)

    def silent(owner: LockOwner) -> str:
        raise UnavailableError("Airflow is away")

    with pytest.raises(UnavailableError, match="Airflow is away"):
        make().acquire("if_stale", silent)
    assert held(make()).owner == THEIRS


def test_a_stale_verdict_does_not_count_once_the_owner_has_renewed(make: Make) -> None:
    theirs, ours = make(THEIRS), make()
    theirs.acquire()
    seen = held(ours)
    time.sleep(0.02)
    theirs.renew()
    assert ours.break_("stale", seen) is None
    theirs.renew()
    with pytest.raises(BadInputError, match="No reason"):
        ours.break_(" ")
    broken = ours.break_("the machine burned down")
    assert broken is not None
    assert broken.owner == THEIRS
    assert ours.break_("again") is None
    with pytest.raises(LockLostError, match="now it is free"):
        theirs.renew()


def test_of_two_who_break_one_stale_lock_one_takes_it(make: Make) -> None:
    make(THEIRS).acquire()
    third, ours = LockOwner("template_coadds", "manual__3"), make()
    seen = held(ours)
    assert make(third).break_("first", seen) is not None
    make(third).acquire()
    assert ours.break_("second", seen) is None
    assert held(ours).owner == third


def test_a_run_that_lost_its_lock_and_took_it_anew_lost_it_all_the_same(make: Make) -> None:
    driver = make()
    driver.acquire()
    make(THEIRS).break_("too slow")
    make().acquire()
    with pytest.raises(LockLostError):
        driver.renew()


def test_a_keeper_renews_until_the_work_is_done(make: Make) -> None:
    lock = make(ttl=0.3)
    lock.acquire()
    first = held(lock)
    with LockKeeper([from_ticket(json.loads(json.dumps(ticket(lock))))]) as keeper:
        until(lambda: held(lock).heartbeat > first.heartbeat + timedelta(seconds=1))
        record = held(lock)
        assert (record.token, record.since, record.kept) == (first.token, first.since, True)
        keeper.check()
    assert held(lock).kept is False
    assert lock.release() is True


def test_a_keeper_needs_the_lock_to_be_taken(make: Make) -> None:
    with pytest.raises(LockLostError, match="now it is free"), LockKeeper([make()]):
        raise AssertionError
    make(THEIRS).acquire()
    with pytest.raises(LockLostError, match="now it is held by difference_imaging"), LockKeeper([make()]):
        raise AssertionError
    with LockKeeper([]) as keeper:
        keeper.check()


def test_a_keeper_that_was_paused_past_its_ttl_notices_that_it_lost(make: Make, tmp_path: Path) -> None:
    said = tmp_path / "said"

    def keep() -> None:
        lock = make(THEIRS, ttl=0.6)
        lock.acquire()
        LockKeeper([lock], lambda error: said.write_text(str(error)) and None).__enter__()

    pid = in_another_process(keep)
    try:
        ours = make()
        os.kill(pid, signal.SIGSTOP)
        until(lambda: ours.try_acquire("if_stale"))
        os.kill(pid, signal.SIGCONT)
        until(said.exists)
        until(lambda: said.read_text() != "")
        assert "difference_imaging manual__2 (task lock, try 1) has lost the lock" in said.read_text()
        assert "now it is held by nightly_decam manual__1" in said.read_text()
        ours.renew()
        assert ours.release() is True
    finally:
        kill(pid)


def test_a_ticket_holds_no_password() -> None:
    database = "postgresql://tololo@127.0.0.1:1/apdb"
    lock = lock_for("apdb:2019_meanclip", OURS, database=database, password="hunter2")
    content = json.dumps(ticket(lock))
    assert "hunter2" not in content
    again = from_ticket(json.loads(content))
    assert (again.name, again.owner, again.place) == (lock.name, lock.owner, lock.place)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path))
    names = [
        "collection:20190401/drp",
        "collection:20190401/drp_injected",
        "collection:20190401_drp",
        "collection:20190401/drp@/data/other",
        "apdb:2019_meanclip",
        f"collection:{'long/' * 60}a",
        f"collection:{'long/' * 60}b",
    ]
    for name in names:
        lock = lock_for(name)
        assert lock.holder() is None
        lock.acquire()
    assert len({lock_for(name).place for name in names}) == len(names)
    assert (tmp_path / "locks" / "collection%3A20190401%2Fdrp.lock").exists()
    for bad in ("", "20190401/drp", "folder:", "folder:relative", "colection:a", "apdb:a b", "collection:a*"):
        with pytest.raises(BadInputError):
            lock_for(bad)


def test_a_process_that_is_no_dag_run_is_another_owner_each_time(tmp_path: Path) -> None:
    first, second = (lock_for(f"folder:{tmp_path}", process_owner("ingest by hand")) for _ in range(2))
    first.acquire()
    assert second.try_acquire() is False
    assert locks.holder(f"folder:{tmp_path}") == first.holder()


def test_a_facility_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "a"))
    ours = facility_id()
    assert ours
    assert facility_id() == ours
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "b"))
    assert facility_id() != ours
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "file"))
    with pytest.raises(UnavailableError, match="set TOLOLO_HOME"):
        facility_id()


def _check_fight(make: Make, folder: Path, processes: int, seconds: float, kills: float = 0.0) -> None:
    (folder / "witness_folder").mkdir()
    policy: Policy = "if_run_ended" if kills else "never"
    pause = 0.01
    if isinstance(make(), RowLock):  # each try is a connection, and a password's check is meant to be slow
        pause, kills = 0.3, kills / 4
    seen = fight(
        lambda owner: make(owner, ttl=0.2),
        folder / "witness_folder",
        processes=processes,
        seconds=seconds,
        policy=policy,
        kills_per_second=kills,
        pause=pause,
    )
    assert seen.violations == []
    assert seen.holdings >= ENOUGH
    assert bool(seen.killed_holding) == bool(kills)
    # nothing that was left behind stands in the way of the next
    last = make(LockOwner("last", "1-1-1", facility="ring"))
    last.acquire(policy, is_running)
    assert last.release() is True


def test_processes_fight(make: Make, tmp_path: Path) -> None:
    _check_fight(make, tmp_path, processes=20, seconds=5.0)


def test_processes_fight_and_are_killed(make: Make, tmp_path: Path) -> None:
    _check_fight(make, tmp_path, processes=12, seconds=5.0, kills=12.0)


@pytest.mark.long
def test_fifty_processes_fight_for_a_minute(make: Make, tmp_path: Path) -> None:
    _check_fight(make, tmp_path, processes=50, seconds=60.0)


@pytest.mark.long
def test_fifty_processes_fight_for_a_minute_and_are_killed(make: Make, tmp_path: Path) -> None:
    _check_fight(make, tmp_path, processes=50, seconds=60.0, kills=15.0)
