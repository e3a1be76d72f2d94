"""A lock that is a row in PostgreSQL: one table, made when the first lock is taken.

Each step is one statement with its condition in it, and the times are the database's. Every statement has a
connection of its own: a lock is renewed every few minutes, and the server may have been started anew since.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tololo.engine.lock import Lock
from tololo.facility.errors import UnavailableError
from tololo.facility.locks import TTL, LockOwner, LockRecord

if TYPE_CHECKING:
    import psycopg

TABLE = "public.tololo_lock"
_CREATE = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    name text PRIMARY KEY,
    since timestamptz NOT NULL,
    heartbeat timestamptz NOT NULL,
    ttl double precision NOT NULL,
    kept boolean NOT NULL,
    owner jsonb NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    pid_started text NOT NULL,
    token text NOT NULL
)"""
_ALONE = 7021837
"""Key of the advisory lock under which the table is made: IF NOT EXISTS alone does not keep two apart."""

_FIELDS = "since, heartbeat, owner, ttl, host, pid, pid_started, kept, token"


class RowLock(Lock):
    """A lock in a table.

    Parameters
    ----------
    name : `str`
        Name of the lock.
    database : `str`
        URL of libpq's form, without a password: ``postgresql://user@host:port/database?passfile=/path``.
    owner : `LockOwner`
        As in `Lock`.
    ttl : `float`, optional
        As in `Lock`.
    password : `str`, optional
        If none is given, libpq and ``LSST_DB_AUTH`` know it where one is needed.
    """

    def __init__(
        self, name: str, database: str, owner: LockOwner, ttl: float = TTL, password: str = ""
    ) -> None:
        super().__init__(name, owner, ttl)
        self.database = database
        self._password = password

    @property
    def place(self) -> str:
        """The server and the table."""
        url = urlsplit(self.database)
        return f"{url.hostname or ''}:{url.port or 5432}{url.path}, table {TABLE}, row {self.name}"

    def holder(self) -> LockRecord | None:
        """Return what the lock says."""
        return self._look()[0]

    def _look(self) -> tuple[LockRecord | None, datetime]:
        from psycopg.errors import UndefinedTable

        statement = f"SELECT clock_timestamp(), {_FIELDS} FROM {TABLE} WHERE name = %s"
        row = None
        with self._connected() as connection, suppress(UndefinedTable):
            row = connection.execute(statement, [self.name]).fetchone()
        if row is None:
            return None, datetime.now(UTC)
        now, since, heartbeat = (moment.astimezone(UTC) for moment in row[:3])
        return LockRecord(since, heartbeat, LockOwner(**row[3]), *row[4:]), now

    def now(self) -> datetime:
        """Return the database's time."""
        with self._connected() as connection:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
            assert row is not None
            now: datetime = row[0]
            return now.astimezone(UTC)

    def _create(self, record: LockRecord) -> bool:
        from psycopg.errors import UndefinedTable

        statement = (
            f"INSERT INTO {TABLE} (name, since, heartbeat, owner, ttl, host, pid, pid_started, kept, token) "
            "SELECT %(name)s, moment, moment, %(owner)s::jsonb, %(ttl)s, %(host)s, %(pid)s, %(pid_started)s, "
            "%(kept)s, %(token)s FROM clock_timestamp() AS moment ON CONFLICT (name) DO NOTHING"
        )
        with self._connected() as connection:
            try:
                return connection.execute(statement, self._values(record)).rowcount == 1
            except UndefinedTable:
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_ALONE])
                    connection.execute(_CREATE)
                return connection.execute(statement, self._values(record)).rowcount == 1

    def _rewrite(self, record: LockRecord) -> bool:
        return self._change(
            f"UPDATE {TABLE} SET heartbeat = clock_timestamp(), owner = %(owner)s::jsonb, ttl = %(ttl)s, "
            "host = %(host)s, pid = %(pid)s, pid_started = %(pid_started)s, kept = %(kept)s "
            "WHERE name = %(name)s AND token = %(token)s",
            record,
        )

    def _remove(self, record: LockRecord, *, unchanged: bool) -> bool:
        also = " AND heartbeat = %(heartbeat)s" if unchanged else ""
        return self._change(f"DELETE FROM {TABLE} WHERE name = %(name)s AND token = %(token)s{also}", record)

    def _change(self, statement: str, record: LockRecord) -> bool:
        from psycopg.errors import UndefinedTable

        with self._connected() as connection:
            try:
                return connection.execute(statement, self._values(record)).rowcount == 1
            except UndefinedTable:
                return False

    def _values(self, record: LockRecord) -> dict[str, Any]:
        assert record.owner is not None
        return {**vars(record), "name": self.name, "owner": json.dumps(asdict(record.owner))}

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        import psycopg

        try:
            with psycopg.connect(
                self.database,
                password=self._password or _known_password(self.database) or None,
                connect_timeout=10,
                tcp_user_timeout=30000,
                autocommit=True,
                application_name="tololo lock",
            ) as connection:
                yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise UnavailableError(
                f"The database does not let us keep locks: {_first_line(error)}",
                self.place,
                f"as its owner: {' '.join(_CREATE.split())}; and grant all on it to this user",
            ) from error
        except psycopg.Error as error:
            raise UnavailableError(
                f"The database that keeps the locks does not answer: {_first_line(error)}",
                self.place,
                "start it, or mend the connection postgres_default",
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def _known_password(database: str) -> str:
    """Ask LSST's list of passwords, where the environment names one; a password file is libpq's affair."""
    if "passfile=" in database or not {"LSST_DB_AUTH", "LSST_DB_AUTH_CREDENTIALS"} & set(os.environ):
        return ""
    from lsst.utils.db_auth import DbAuth, DbAuthError

    url = urlsplit(database)
    try:
        found = DbAuth().getAuth(
            "postgresql", url.username, url.hostname, str(url.port or ""), url.path.lstrip("/")
        )
    except DbAuthError:
        return ""
    return str(found[1] or "")
