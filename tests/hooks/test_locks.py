from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from operators.airflow_context import context
from tololo.engine.locks import LockKeeper, facility_id, from_ticket, lock_for
from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.facility.locks import LockOwner, Verdict
from tololo.hooks.credentials import CREDENTIALS
from tololo.hooks.locks import LockHook, main, owner_of
from tololo.services import postgres
from tololo.services.home import Home
from tololo.services.postgres import PostgresInfo

APDB, DRP = "apdb:2019_meanclip", "collection:20190401/drp"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AIRFLOW_CONN_POSTGRES_DEFAULT", raising=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("hook"))
    yield home
    postgres.stop(home)


@pytest.fixture
def server(home: Home) -> PostgresInfo:
    return postgres.start(home)


def connect(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_DEFAULT", json.dumps({"conn_type": "postgres", **fields}))


def hook_of(run: str) -> LockHook:
    return LockHook(LockOwner("dag", run, facility=facility_id()))


def test_the_owner_is_the_dag_run_of_the_task() -> None:
    owner = owner_of(context())
    assert owner == LockOwner("dag", "manual__1", "task", 1, facility_id())


def test_without_a_database_locks_are_files_of_the_home(tmp_path: Path) -> None:
    red = tmp_path / "red"
    red.mkdir()
    hook = hook_of("a")
    hook.acquire([APDB, DRP, f"folder:{red}"])
    assert hook.lock(APDB).place == str(tmp_path / "home" / "locks" / "apdb%3A2019_meanclip.lock")
    assert hook.lock(str(red)).place == str(red / "dataset.lock")
    for name in (APDB, DRP, str(red)):
        holder = hook_of("b").holder(name)
        assert holder is not None
        assert holder.owner == hook.owner
        assert hook_of("b").status(name).verdict is Verdict.HELD
    hook.release([APDB, DRP, str(red)])
    assert [hook.holder(name) for name in (APDB, DRP, str(red))] == [None] * 3


def test_all_or_none(tmp_path: Path) -> None:
    ours, theirs = hook_of("a"), hook_of("b")
    theirs.acquire([DRP])
    ours.acquire([APDB])
    with pytest.raises(UnavailableError, match=f"The lock {DRP} is held by dag b"):
        hook_of("a").acquire([f"folder:{tmp_path}", DRP, APDB])
    assert ours.holder(f"folder:{tmp_path}") is None
    held = ours.holder(APDB)
    assert held is not None, "what the run had before stays"
    other = hook_of("c")
    other.acquire([f"folder:{tmp_path}"])
    other.give_back()
    assert ours.holder(f"folder:{tmp_path}") is None


def test_all_that_are_ours_are_released_whatever_is_wrong_with_one() -> None:
    ours, theirs = hook_of("a"), hook_of("b")
    ours.acquire([APDB, DRP])
    theirs.break_(DRP, "by mistake")
    theirs.acquire([DRP])
    with pytest.raises(BadInputError, match="only its owner releases it"):
        ours.release([APDB, DRP])
    assert ours.holder(APDB) is None
    assert ours.holder(DRP) is not None
    with pytest.raises(BadInputError, match="not the name of a lock"):
        ours.release(["what"])


def test_breaking(tmp_path: Path) -> None:
    hook_of("a").acquire([APDB])
    hook = hook_of("b")
    with pytest.raises(UnavailableError, match=r"policy if_stale does not let us .*held by dag a"):
        hook.break_(APDB, "in the way", "if_stale")
    with pytest.raises(BadInputError, match="no lock policy 'if_old'"):
        hook.break_(APDB, "in the way", "if_old")
    with pytest.raises(BadInputError, match="No reason"):
        hook.break_(APDB, "")
    assert "held by dag a" in hook.break_(APDB, "in the way")
    with pytest.raises(NothingToDoError, match="Nobody holds"):
        hook.break_(APDB, "in the way")
    assert hook_of("b").holder(APDB) is None


def test_a_ticket_is_for_what_the_run_holds(tmp_path: Path) -> None:
    LockHook(hook_of("a").owner, ttl=77.0).acquire([APDB, f"folder:{tmp_path}"])
    hook = hook_of("a")
    tickets = json.loads(json.dumps(hook.tickets([f"folder:{tmp_path}", APDB])))
    with LockKeeper([from_ticket(ticket) for ticket in tickets]):
        for name in (APDB, f"folder:{tmp_path}"):
            holder = hook.holder(name)
            assert holder is not None
            assert (holder.kept, holder.ttl) == (True, 77.0)
    with pytest.raises(BadInputError, match=f"does not hold the lock {DRP}"):
        hook.tickets([APDB, DRP])
    with pytest.raises(BadInputError, match="clear the task that takes it"):
        hook_of("b").tickets([APDB])


def test_outside_of_airflow_nobody_knows_the_state_of_a_run() -> None:
    assert LockHook().run_state(LockOwner("dag", "a", facility=facility_id())) is None
    assert LockHook().run_state(LockOwner("dag", "a", facility="another")) is None


@pytest.mark.services
def test_locks_are_rows_of_the_facility_s_database(
    server: PostgresInfo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connect(
        monkeypatch,
        host=server.host,
        port=server.port,
        login=server.user,
        schema="apdb",
        extra={"passfile": str(server.passfile), "cursor": "dictcursor", "keepalives": 1, "password": "no"},
    )
    hook = hook_of("a")
    hook.acquire([APDB, DRP])
    assert hook.lock(APDB).place == f"127.0.0.1:{server.port}/apdb, table public.tololo_lock, row {APDB}"
    with server.connect("apdb") as connection:
        rows = connection.execute("SELECT name FROM tololo_lock ORDER BY name").fetchall()
    assert rows == [(APDB,), (DRP,)]
    for ticket in hook.tickets([APDB, DRP]):
        from_ticket(ticket).renew(kept=True)
    assert not list((tmp_path / "home" / "locks").glob("*.lock"))
    hook_of("a").release([APDB, DRP])


@pytest.mark.services
def test_a_password_reaches_the_driver_by_its_environment_only(
    server: PostgresInfo, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    password = home.secret("postgres")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    monkeypatch.delenv(CREDENTIALS, raising=False)
    connect(
        monkeypatch,
        host=server.host,
        port=server.port,
        login=server.user,
        password=password,
        schema="apdb",
    )
    hook = hook_of("a")
    hook.acquire([APDB])
    tickets = hook.tickets([APDB])
    assert password not in json.dumps(tickets)
    assert password not in hook.lock(APDB).place
    with hook.authorised():
        from_ticket(tickets[0]).renew()
    assert CREDENTIALS not in os.environ
    with pytest.raises(UnavailableError, match="no password"):
        from_ticket(tickets[0]).renew()
    hook.release([APDB])


def test_a_database_that_is_away_is_not_replaced_by_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connect(monkeypatch, host="127.0.0.1", port=1, login="a@b:c/d", password="hunter2", schema="apdb")
    hook = hook_of("a")
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        hook.acquire([APDB])
    assert "hunter2" not in str(caught.value)
    assert not list((tmp_path / "home").rglob("*.lock"))
    hook.acquire([f"folder:{tmp_path}"])  # needs no database
    hook.release([f"folder:{tmp_path}"])
    connect(monkeypatch, login="nobody")
    hook_of("a").acquire([APDB])
    assert len(list((tmp_path / "home").rglob("*.lock"))) == 1


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock_for(f"folder:{tmp_path}", LockOwner("dag", "a")).acquire()
    assert main(["show", f"folder:{tmp_path}", APDB]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith(f"folder:{tmp_path}: held by dag a on ")
    assert shown[1] == f"{APDB}: free"
    assert main(["break", f"folder:{tmp_path}"]) == 1
    assert "No reason is given" in capsys.readouterr().out
    assert main(["break", "--reason", "the night is over", f"folder:{tmp_path}"]) == 0
    assert list(tmp_path.glob("dataset.lock")) == []
    assert main(["break", "--reason", "again", f"folder:{tmp_path}"]) == 1
    assert "Nobody holds the lock" in capsys.readouterr().out
