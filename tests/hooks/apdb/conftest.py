"""APDBs on both kinds of database."""

from __future__ import annotations

import os

import pytest
import sqlalchemy

from tololo.hooks.apdb import ApdbHook
from tololo.reduction.apdb import open_apdb

from .sky import NAME, TEMPLATE, connect


@pytest.fixture(scope="session")
def postgres_home(tmp_path_factory):
    services = pytest.importorskip("tololo.services.postgres")
    from tololo.services.home import Home

    home = Home(
        root=tmp_path_factory.mktemp("facility"), postgres_url=os.environ.get("TOLOLO_POSTGRES_URL", "")
    )
    services.start(home)
    yield home
    services.stop(home)


@pytest.fixture(scope="session")
def postgres(postgres_home):
    from tololo.services import postgres

    return postgres.start(postgres_home)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def backend(request, tmp_path, monkeypatch):
    """A connection of each kind; on PostgreSQL an APDB is dropped after its test."""
    extra = {"backend": request.param, "config_folder": str(tmp_path)}
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    if server is not None:
        extra["db_url"] = server.url("apdb", driver="psycopg2")
    connect(monkeypatch, extra=extra)
    yield request.param
    if server is not None:
        engine = sqlalchemy.create_engine(server.url("apdb", driver="psycopg2"))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(f'DROP SCHEMA IF EXISTS "{NAME}" CASCADE'))
        engine.dispose()


@pytest.fixture
def hook(backend):
    return ApdbHook()


@pytest.fixture
def apdb(hook):
    hook.create(NAME, **TEMPLATE)
    return open_apdb(hook.config_path(NAME))
