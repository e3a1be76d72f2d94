from __future__ import annotations

import json
import multiprocessing
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tololo.engine.lock import Lock
from tololo.engine.lock_row import TABLE
from tololo.engine.locks import LockKeeper, lock_for
from tololo.facility.errors import UnavailableError
from tololo.facility.locks import LockOwner, Verdict
from tololo.services import postgres
from tololo.services.home import Home
from tololo.services.postgres import PostgresInfo

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("rows"))
    yield home
    postgres.stop(home)


@pytest.fixture
def server(home: Home) -> PostgresInfo:
    return postgres.start(home)


@pytest.fixture
def database(server: PostgresInfo) -> str:
    return server.url("apdb").replace("+psycopg", "")


def lock_of(database: str, run: str = "ours", name: str = "apdb:2019_meanclip", password: str = "") -> Lock:
    return lock_for(name, LockOwner("dag", run), database=database, password=password)


def _first(database: str, number: int, start: multiprocessing.Barrier, taken: multiprocessing.Queue) -> None:
    start.wait()
    taken.put(lock_of(database, f"run {number}").try_acquire())


def test_the_first_locks_of_a_facility_make_the_table_once(server: PostgresInfo, database: str) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        with server.connect("apdb") as connection:
            connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        assert lock_of(database).holder() is None
        assert lock_of(database).status().verdict is Verdict.FREE
        assert lock_of(database).release() is False
        start, taken = context.Barrier(8), context.Queue()
        processes = [
            context.Process(target=_first, args=(database, number, start, taken)) for number in range(8)
        ]
        for process in processes:
            process.start()
        outcomes = sorted(taken.get(timeout=60) for _ in processes)
        for process in processes:
            process.join()
        assert outcomes == [False] * 7 + [True]
    lock_of(database, "cleaner").break_("the test is over")


def test_the_times_are_the_database_s(server: PostgresInfo, database: str) -> None:
    lock = lock_of(database, name="collection:20190401/drp")
    lock.acquire()
    with server.connect("apdb") as connection:
        connection.execute(
            f"UPDATE {TABLE} SET heartbeat = heartbeat - interval '1 hour' WHERE name = %s", [lock.name]
        )
    status = lock_of(database, "theirs", "collection:20190401/drp").status()
    assert status.verdict is Verdict.STALE
    assert "heartbeat 60 min ago" in status.line
    assert abs((lock.now() - datetime.now(UTC)).total_seconds()) < 60
    lock.renew()
    assert lock_of(database, "theirs", "collection:20190401/drp").status().verdict is Verdict.HELD
    assert lock.release() is True


def test_names_are_only_names(database: str) -> None:
    lock = lock_of(database, name="collection:a@/data/'; DROP TABLE tololo_lock; --%s")
    lock.acquire()
    assert lock.release() is True


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text("*:*:*:*:hunter2\n")
    passfile.chmod(0o600)
    lock = lock_of(f"postgresql://tololo@127.0.0.1:1/apdb?passfile={passfile}")
    for act in (lock.acquire, lock.holder, lock.renew, lock.release, lock.now):
        with pytest.raises(UnavailableError, match="does not answer") as caught:
            act()
        assert "hunter2" not in str(caught.value)
        assert "127.0.0.1:1/apdb" in caught.value.where


def test_passwords(
    server: PostgresInfo, database: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = f"postgresql://{server.user}@{server.host}:{server.port}/apdb"
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    with pytest.raises(UnavailableError, match="no password"):
        lock_of(bare).holder()
    with pytest.raises(UnavailableError, match="authentication failed") as caught:
        lock_of(bare, password="guess").holder()
    assert "guess" not in str(caught.value)
    assert lock_of(bare, password=home.secret("postgres")).holder() is None
    entry = {
        "url": f"postgresql://{server.host}:{server.port}/apdb",
        "username": server.user,
        "password": home.secret("postgres"),
    }
    monkeypatch.setenv("LSST_DB_AUTH_CREDENTIALS", json.dumps([entry]))
    assert lock_of(bare).holder() is None
    assert urlsplit(database).password is None


def test_a_user_who_may_not_make_the_table(server: PostgresInfo) -> None:
    with server.connect("apdb") as connection:
        connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'welcome'")
    guest = f"postgresql://guest@{server.host}:{server.port}/apdb"
    with pytest.raises(UnavailableError, match="permission denied for schema public") as caught:
        lock_of(guest, password="welcome").acquire()
    statement = re.search(r"CREATE TABLE.*?\)(?=;)", caught.value.remedy)
    assert statement is not None
    with server.connect("apdb") as connection:
        connection.execute(statement[0].encode())
        connection.execute(f"GRANT ALL ON {TABLE} TO guest")
    lock = lock_of(guest, password="welcome")
    lock.acquire()
    assert lock.release() is True


def test_a_keeper_outlives_a_restart_of_the_database(
    home: Home, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    lock = lock_for("apdb:2019_meanclip", LockOwner("dag", "ours"), ttl=1.5, database=database)
    lock.acquire()
    with LockKeeper([lock]) as keeper:
        postgres.stop(home)
        while "was not renewed and will be tried again" not in caplog.text:
            time.sleep(0.02)
        postgres.start(home)
        before = lock.holder()
        assert before is not None
        while (now := lock.holder()) is not None and now.heartbeat == before.heartbeat:
            time.sleep(0.02)
        keeper.check()
    assert lock.release() is True
