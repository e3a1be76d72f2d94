"""Configurations of APDBs, dax_apdb's own objects made from them, and what their databases say when away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from lsst.dax.apdb import Apdb, ApdbConfig, IncompatibleVersionError
from lsst.dax.apdb.cassandra.exceptions import CassandraMissingError
from lsst.dax.apdb.sql import ApdbSqlConfig
from lsst.utils.db_auth import DbAuthError
from sqlalchemy.exc import InterfaceError, NoSuchTableError, OperationalError
from yaml import YAMLError

from tololo.facility.errors import BadInputError, UnavailableError


def sql_config(db_url: str, namespace: str | None) -> ApdbSqlConfig:
    """Return the configuration of an APDB at dax_apdb's defaults: HTM level 20, index ``baseline``."""
    return ApdbSqlConfig(db_url=db_url, namespace=namespace)


def read_config(path: Path | str) -> ApdbConfig:
    """Read the configuration file of an APDB, in an SQL database or in Cassandra.

    Raises
    ------
    BadInputError
        If it is not there or not readable.
    """
    where = f"APDB configuration {path}"
    try:
        return ApdbConfig.from_uri(str(path))
    except (OSError, ValueError, TypeError, LookupError, YAMLError) as error:
        what = f"There is no usable APDB configuration: {error}"
        raise BadInputError(what, where, "create the APDB, or name its file") from error


def open_stock(path: Path | str) -> Apdb:
    """Return dax_apdb's own object of an APDB, whatever database it is in.

    Raises
    ------
    BadInputError
        If the configuration is not usable, or the driver of its database is not installed.
    UnavailableError
        If the database does not answer.
    """
    config = read_config(path)
    try:
        with reachable(f"APDB configuration {path}"):
            return Apdb.from_config(config)
    except CassandraMissingError as error:
        raise BadInputError(
            "This APDB is in Cassandra, whose driver is not installed",
            f"APDB configuration {path}",
            "pip install cassandra-driver",
        ) from error


@contextmanager
def reachable(where: str) -> Iterator[None]:
    """Turn what a database says when it is away, or is no APDB, into an error that a person can act on."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        reason = str(error.orig).strip()
        remedy = "start the database, or correct its address; nothing is half-stored, run again"
        raise UnavailableError(f"The APDB's database does not answer: {reason}", where, remedy) from error
    except NoSuchTableError as error:
        raise BadInputError("There is no APDB", where, "create it") from error
    except IncompatibleVersionError as error:
        remedy = "migrate it with dax_apdb_migrate, or reset it"
        raise BadInputError(f"The APDB is of another version: {error}", where, remedy) from error
    except DbAuthError as error:
        raise BadInputError(f"The database passwords cannot be read: {error}", where, "chmod 600") from error


def where_is(config: ApdbSqlConfig) -> str:
    """Return the place of an APDB, without user and password."""
    url = sqlalchemy.make_url(config.db_url)
    if url.get_backend_name() == "sqlite":
        return str(url.database).removeprefix("file:")
    return f"{url.host or 'local socket'}:{url.port or 5432}/{url.database}/{config.namespace or 'public'}"
