"""Killed writers, databases that go away, and writers that wait for each other."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest
import sqlalchemy

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.hooks.apdb import ApdbHook
from tololo.reduction.apdb import open_apdb
from tololo.services import postgres as services

from .sky import MIDPOINTS, NAME, TEMPLATE, as_child, connect, dump, run


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
def test_killed_while_storing_then_run_again(hook, apdb, tmp_path, moment):
    run(apdb, *MIDPOINTS)
    undisturbed = dump(apdb, timeless=True)
    hook.create(NAME, policy="reset", **TEMPLATE)
    kill = {
        # the fourth detector: all its rows are inserted, none is committed
        "before commit": """
insert, seen = apdb.ledger.insert, []
def fourth(*args):
    insert(*args); seen.append(1)
    if len(seen) == 4: die()
apdb.ledger.insert = fourth""",
        "after commit": """
store, seen = CampaignApdb.store, []
def fourth(*args):
    store(*args); seen.append(1)
    if len(seen) == 4: die()
CampaignApdb.store = fourth""",
    }[moment]
    done = as_child(f"{kill}\nt.run(apdb, 1001, 1002, 1003)", hook.config_path(NAME))
    assert done.returncode == -9, done.stderr
    apdb = open_apdb(hook.config_path(NAME))
    assert hook.describe(NAME)["detectors"] == (3 if moment == "before commit" else 4)
    results = run(apdb, *MIDPOINTS)
    assert sum(r.already_stored for r in results) == (3 if moment == "before commit" else 4)
    assert dump(apdb, timeless=True) == undisturbed


@pytest.mark.parametrize("step", ["_storeDiaSources", "_storeDiaForcedSources"])
def test_a_database_that_goes_down_while_storing(apdb, backend, monkeypatch, step):
    if backend == "sqlite":
        pytest.skip("a SQLite file has no server that could go down")
    run(apdb, 1001)
    before = dump(apdb)
    plain = getattr(type(apdb), step)

    def cut_off(self, rows, chunk, connection):
        if len(rows):
            monkeypatch.undo()
            with apdb._engine.connect() as other:
                own = connection.execute(sqlalchemy.text("SELECT pg_backend_pid()")).scalar_one()
                other.execute(sqlalchemy.text(f"SELECT pg_terminate_backend({own}, 5000)"))
        plain(self, rows, chunk, connection)

    monkeypatch.setattr(type(apdb), step, cut_off)
    with pytest.raises(UnavailableError, match="run again"):
        run(apdb, 1002)
    assert dump(apdb) == before
    assert [r.already_stored for r in run(apdb, 1002)] == [False, False]
    assert apdb.counts() == {"DiaObject": 3, "DiaSource": 4, "DiaForcedSource": 4}


@pytest.mark.services
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_the_database_restarts_while_a_visit_is_stored(hook, apdb, postgres_home, monkeypatch):
    if postgres_home.postgres_url:
        pytest.skip("an existing server is not ours to restart")
    run(apdb, *MIDPOINTS)
    undisturbed = dump(apdb, timeless=True)
    hook.create(NAME, policy="reset", **TEMPLATE)
    apdb = open_apdb(hook.config_path(NAME))
    insert, seen = apdb.ledger.insert, []

    def fourth(*args):
        insert(*args)
        seen.append(1)
        if len(seen) == 4:  # all rows of the detector are there, none is committed
            assert services.stop(postgres_home)
            services.start(postgres_home)

    monkeypatch.setattr(apdb.ledger, "insert", fourth)
    with pytest.raises(UnavailableError, match="nothing is half-stored, run again"):
        run(apdb, *MIDPOINTS)
    apdb = open_apdb(hook.config_path(NAME))
    assert hook.describe(NAME)["detectors"] == 3
    assert sum(r.already_stored for r in run(apdb, *MIDPOINTS)) == 3
    assert dump(apdb, timeless=True) == undisturbed


def test_another_writer_is_waited_for(hook, apdb):
    other = open_apdb(hook.config_path(NAME))
    with ExitStack() as held:
        held.enter_context(apdb.exclusive())
        with pytest.raises(UnavailableError, match="Another run writes"), other.exclusive(timeout=0.3):
            pass
    with other.exclusive(timeout=0.3):
        assert other.is_empty()


def test_a_killed_creation_is_completed(hook, tmp_path):
    hook.create(NAME, **TEMPLATE)
    whole = dump(open_apdb(hook.config_path(NAME)), timeless=True)
    config = hook.config_path(NAME).read_bytes()
    for step in (1, 5):  # tables without a version; an APDB without its instrument
        hook.create(NAME, policy="reset", **TEMPLATE)
        hook.config_path(NAME).unlink()
        url = hook.place.url or f"sqlite:///{tmp_path}/{NAME}.db"
        space = NAME if hook.place.url else None
        child = f"""
import os, signal
from pathlib import Path
from lsst.dax.apdb.sql.apdbMetadataSql import ApdbMetadataSql
from tololo.reduction.campaign import Campaign, create_apdb
plain, seen = ApdbMetadataSql.set, []
def counted(self, *args, **kwargs):
    seen.append(1)
    if len(seen) == {step}: os.kill(os.getpid(), signal.SIGKILL)
    plain(self, *args, **kwargs)
ApdbMetadataSql.set = counted
campaign = Campaign("DECam", {NAME!r}, **{TEMPLATE!r})
create_apdb({url!r}, {space!r}, Path({str(hook.config_path(NAME))!r}), campaign, "reset")
"""
        done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=False)
        assert done.returncode == -9, done.stderr
        assert not hook.config_path(NAME).exists()
        hook.create(NAME, **TEMPLATE)
        assert dump(open_apdb(hook.config_path(NAME)), timeless=True) == whole
        assert hook.config_path(NAME).read_bytes() == config


def test_a_database_that_is_away(tmp_path, monkeypatch):
    fields = {"host": "127.0.0.1", "port": 9, "login": "tololo", "password": "s3cret-s3cret"}
    connect(monkeypatch, **fields, extra={"config_folder": str(tmp_path)})
    hook = ApdbHook()
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        hook.create(NAME)
    assert "s3cret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    answered, reason = hook.test_connection()
    assert not answered
    assert "127.0.0.1:9" in reason


def test_an_apdb_file_that_went_away(tmp_path, monkeypatch):
    connect(monkeypatch, extra={"backend": "sqlite", "config_folder": str(tmp_path)})
    hook = ApdbHook()
    hook.create(NAME)
    (tmp_path / f"{NAME}.db").unlink()
    with pytest.raises(BadInputError, match="There is no APDB"):
        hook.counts(NAME)
