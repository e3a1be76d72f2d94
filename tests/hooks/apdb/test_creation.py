"""Creation of APDBs, what they are made for, and the connection that leads to them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from lsst.dax.apdb import Apdb
from lsst.dax.apdb.scripts import create_sql, metadata_set

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.hooks.apdb import ApdbHook
from tololo.reduction.apdb import open_apdb
from tololo.reduction.apdb_config import open_stock, read_config

from .sky import NAME, TEMPLATE, connect, dump, run


def test_creation_is_recorded_and_repeated(hook, tmp_path):
    made = hook.create(NAME, **TEMPLATE)
    assert made["outcome"] == "created"
    assert made["config"] == str(tmp_path / f"{NAME}.yaml")
    assert (made["instrument"], made["template"], made["template_version"]) == ("DECam", *TEMPLATE.values())
    assert made["schema_version"].split(".")[0].isdecimal()
    plain = Apdb.from_uri(made["config"])  # what every tool made for an APDB does
    assert plain.metadata.get("instrument") == "DECam"
    text = Path(made["config"]).read_bytes()
    again = hook.create(NAME, **TEMPLATE)
    assert again == made | {"outcome": "used"}
    assert Path(made["config"]).read_bytes() == text
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_policies_with_an_existing_apdb(hook, apdb):
    with pytest.raises(BadInputError, match="The APDB exists"):
        hook.create(NAME, policy="refuse", **TEMPLATE)
    run(apdb, 1001)
    before = dump(apdb)
    for change in ({"instrument": "LSSTCam"}, {"template": "2019/median/coadd"}):
        with pytest.raises(BadInputError, match="was made for"):
            hook.create(NAME, **(TEMPLATE | change))
    assert dump(apdb) == before
    reset = hook.create(NAME, policy="reset", **(TEMPLATE | {"template_version": "v2"}))
    assert reset["outcome"] == "reset"
    assert reset["template_version"] == "v2"
    assert reset["counts"] == {"DiaObject": 0, "DiaSource": 0, "DiaForcedSource": 0}
    assert reset["detectors"] == 0
    assert run(open_apdb(hook.config_path(NAME)), 1001)[0].new_objects == 1
    with pytest.raises(BadInputError, match="no APDB policy 'keep'"):
        hook.create(NAME, policy="keep")


def test_bad_names_and_absent_apdbs(hook):
    for name in ("", "a b", "x" * 64, "2018/meanclip", 'a"b', "pg_apdb"):
        with pytest.raises(BadInputError, match="cannot be the name"):
            hook.create(name)
    with pytest.raises(BadInputError, match="no usable APDB configuration"):
        hook.counts("nothing")


def test_what_the_connection_says_becomes_the_place(tmp_path, monkeypatch):
    folder = {"config_folder": str(tmp_path)}
    urls = {
        "postgresql+psycopg2://me@db.example.org:5433/alerts?sslmode=require": {
            "host": "db.example.org",
            "port": 5433,
            "login": "me",
            "password": "s3cret",
            "schema": "alerts",
            "extra": folder | {"sslmode": "require"},
        },
        "postgresql+psycopg2://me@db.example.org/apdb?passfile=%2Fhome%2Fme%2Fpgpass": {
            "extra": folder
            | {"db_url": "postgresql+psycopg://me@db.example.org/apdb?passfile=/home/me/pgpass"}
        },
        "postgresql+psycopg2:///apdb?host=%2Frun%2Fpostgresql": {"host": "/run/postgresql", "extra": folder},
    }
    for url, fields in urls.items():
        connect(monkeypatch, **fields)
        place = ApdbHook().place
        assert place.url == url
        assert place.folder == tmp_path
        expected = {"url": "postgresql://db.example.org:5433/alerts", "username": "me", "password": "s3cret"}
        assert place.credentials == (expected if "password" in fields else {})
    for fields, words in [
        ({"extra": {}}, "names no database"),
        ({"extra": {"db_url": "mysql://me@db/apdb"}}, "not PostgreSQL"),
        ({"extra": {"db_url": "nonsense"}}, "not a database URL"),
    ]:
        connect(monkeypatch, **fields)
        with pytest.raises(BadInputError, match=words):
            _ = ApdbHook().place
    with pytest.raises(BadInputError, match="no such connection"):
        _ = ApdbHook("apdb_elsewhere").place


@pytest.mark.services
def test_the_password_of_the_connection_reaches_the_database_and_no_file(postgres, tmp_path, monkeypatch):
    password = postgres.passfile.read_text().strip().split(":")[-1]
    monkeypatch.delenv("LSST_DB_AUTH", raising=False)
    fields = {"host": postgres.host, "port": postgres.port, "login": postgres.user, "schema": "apdb"}
    connect(monkeypatch, **fields, password=password, extra={"config_folder": str(tmp_path)})
    hook = ApdbHook()
    assert hook.test_connection() == (True, hook.test_connection()[1])
    try:
        assert hook.create("with_password")["outcome"] == "created"
        assert hook.counts("with_password")["DiaObject"] == 0
        assert password not in hook.config_path("with_password").read_text()
        assert "LSST_DB_AUTH_CREDENTIALS" not in os.environ
        with pytest.raises(UnavailableError):
            open_apdb(hook.config_path("with_password"))
        with hook.authorised():
            assert open_apdb(hook.config_path("with_password")).is_empty()
    finally:
        with postgres.connect("apdb") as connection:
            connection.execute("DROP SCHEMA IF EXISTS with_password CASCADE")


def test_an_apdb_of_other_tools_is_taken_only_when_it_says_what_it_is(tmp_path, monkeypatch):
    connect(monkeypatch, extra={"backend": "sqlite", "config_folder": str(tmp_path)})
    hook, config = ApdbHook(), tmp_path / f"{NAME}.yaml"
    # what `apdb-cli create-sql` and `apdb-cli metadata set` call
    create_sql(str(config), None, db_url=f"sqlite:///{tmp_path}/{NAME}.db")
    apdb = open_apdb(config)
    run(apdb, 1001, 1002)
    apdb.ledger.drop()  # as if another program had stored them
    with pytest.raises(BadInputError, match="no record of its instrument"):
        hook.create(NAME)
    for key, value in (("instrument", "DECam"), ("tololo:campaign", NAME)):
        metadata_set(str(config), key, value, force=False)
    assert hook.create(NAME)["outcome"] == "used"
    apdb = open_apdb(config)
    assert apdb.latest().visit == 1002
    assert apdb.stored(1001, 1).already_stored
    with pytest.raises(BadInputError, match="earlier than visit 1002"):
        run(apdb, 1001)  # its detector 2 stored nothing, so that only its order speaks against it


def test_another_version_of_the_template_is_refused_unless_told(hook, apdb):
    run(apdb, 1001)
    other = TEMPLATE | {"template_version": "v2"}
    with pytest.raises(
        BadInputError, match=r"template_version v1, not v2: a change of template.*apdb_templates"
    ):
        hook.create(NAME, **other)
    taken = hook.create(NAME, **other, template_policy="use")
    assert taken["outcome"] == "used"
    assert (taken["template_version"], taken["template_versions_accepted"]) == ("v1", "v2")
    assert hook.create(NAME, **other)["outcome"] == "used"  # once and for all
    assert hook.create(NAME, **TEMPLATE)["outcome"] == "used"
    with pytest.raises(BadInputError, match="not v3"):
        hook.create(NAME, **TEMPLATE | {"template_version": "v3"})
    hook.create(NAME, **TEMPLATE | {"template_version": "v3"}, template_policy="use")
    assert hook.describe(NAME)["template_versions_accepted"] == "v2,v3"
    with pytest.raises(BadInputError, match="made for tololo:template 2018/meanclip/coadd"):
        hook.create(NAME, template="2019/median/coadd", template_version="v1", template_policy="use")
    with pytest.raises(BadInputError, match="no template policy 'maybe'"):
        hook.create(NAME, template_policy="maybe")


def test_a_configuration_of_cassandra_is_read(tmp_path):
    path = tmp_path / "cassandra.yaml"
    path.write_text("implementation_type: cassandra\ncontact_points: [10.0.0.1]\nkeyspace: apdb_2019\n")
    assert read_config(path).keyspace == "apdb_2019"
    with pytest.raises(BadInputError, match="one transaction; this APDB is in Cassandra"):
        open_apdb(path)
    if find_spec("cassandra") is None:
        with pytest.raises(BadInputError, match="pip install cassandra-driver"):
            open_stock(path)
    else:
        assert type(open_stock(path)).__name__ == "ApdbCassandra"
    path.write_text("implementation_type: cassandra\nno_such_key: [\n")
    with pytest.raises(BadInputError, match="no usable APDB configuration"):
        read_config(path)
