"""Which detectors of which visits an APDB holds, and who may write to it.

The ledger is one table beside the LSST tables, ``tololo_visit_detector``. Its rows are written in the
transaction that stores the rows of a detector, so that it tells what is done even where there was nothing to
store.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from astropy.time import Time

from tololo.facility.errors import UnavailableError
from tololo.facility.nights import night_of_mjd_tai
from tololo.reduction.association import AssociationResult, StoredVisit, VisitInfo

TABLE = "tololo_visit_detector"
_POLL_SECONDS = 0.1


class Ledger:
    """The table of what is stored.

    Parameters
    ----------
    engine : `sqlalchemy.engine.Engine`
    namespace : `str` or `None`
        Schema of PostgreSQL that holds the APDB.
    """

    def __init__(self, engine: sqlalchemy.Engine, namespace: str | None) -> None:
        column, integer, double = sqlalchemy.Column, sqlalchemy.Integer, sqlalchemy.Double
        self._engine = engine
        self._table = sqlalchemy.Table(
            TABLE,
            sqlalchemy.MetaData(schema=namespace),
            column("visit", sqlalchemy.BigInteger, primary_key=True, autoincrement=False),
            column("detector", sqlalchemy.SmallInteger, primary_key=True, autoincrement=False),
            column("night", integer, nullable=False),
            column("band", sqlalchemy.Text, nullable=False),
            column("midpointMjdTai", double, nullable=False),
            column("nDiaSources", integer, nullable=False),
            column("nRejected", integer, nullable=False),
            column("nNewDiaObjects", integer, nullable=False),
            column("nDiaForcedSources", integer, nullable=False),
            column("timeProcessedMjdTai", double, nullable=False),
            sqlalchemy.Index(f"{TABLE}_midpoint", "midpointMjdTai"),
        )

    def create(self) -> None:
        """Make the table where it is missing."""
        self._table.create(self._engine, checkfirst=True)

    def drop(self) -> None:
        """Forget everything."""
        self._table.drop(self._engine, checkfirst=True)

    def stored(self, visit: int, detector: int) -> AssociationResult | None:
        """Return what is stored of a detector of a visit, or `None`."""
        c = self._table.c
        with self._engine.begin() as connection:
            query = self._table.select().where(c.visit == visit, c.detector == detector)
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return AssociationResult(
            visit,
            detector,
            row.night,
            already_stored=True,
            sources=row.nDiaSources,
            rejected=row.nRejected,
            new_objects=row.nNewDiaObjects,
            forced=row.nDiaForcedSources,
        )

    def latest(self) -> StoredVisit | None:
        """Return the latest visit, by its midpoint."""
        return latest_of(self._engine, self._table)

    def counts(self) -> tuple[int, int]:
        """Return the number of visits and of detectors of visits."""
        visits = sqlalchemy.func.count(sqlalchemy.distinct(self._table.c.visit))
        query = sqlalchemy.select(visits, sqlalchemy.func.count()).select_from(self._table)
        with self._engine.begin() as connection:
            row = connection.execute(query).one()
        return int(row[0]), int(row[1])

    def insert(self, connection: sqlalchemy.Connection, info: VisitInfo, result: AssociationResult) -> None:
        """Record a detector of a visit in a transaction that is open."""
        connection.execute(
            self._table.insert(),
            {
                "visit": info.visit,
                "detector": info.detector,
                "night": info.night,
                "band": info.band,
                "midpointMjdTai": info.midpoint,
                "nDiaSources": result.sources,
                "nRejected": result.rejected,
                "nNewDiaObjects": result.new_objects,
                "nDiaForcedSources": result.forced,
                "timeProcessedMjdTai": float(Time.now().tai.mjd),
            },
        )


def latest_of(engine: sqlalchemy.Engine, *tables: sqlalchemy.Table) -> StoredVisit | None:
    """Return the visit with the latest ``midpointMjdTai`` in tables, or `None` where they are empty."""
    found: list[StoredVisit] = []
    for table in tables:
        query = sqlalchemy.select(table.c.visit, table.c.midpointMjdTai)
        query = query.order_by(table.c.midpointMjdTai.desc(), table.c.visit.desc()).limit(1)
        with engine.begin() as connection:
            for visit, midpoint in connection.execute(query):
                found.append(StoredVisit(visit, night_of_mjd_tai(midpoint), midpoint))
    return max(found, key=lambda stored: (stored.midpoint, stored.visit), default=None)


@contextmanager
def writer_lock(engine: sqlalchemy.Engine, namespace: str | None, timeout: float) -> Iterator[None]:
    """Keep every other writer of an APDB out: an advisory lock of PostgreSQL, or a file beside SQLite's.

    Either ends with the process that holds it.

    Raises
    ------
    UnavailableError
        If another writer does not finish in ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    if engine.dialect.name == "sqlite":
        path = str(engine.url.database).removeprefix("file:")
        with open(f"{path}.lock", "w") as file:
            while not _flock(file.fileno()):
                _wait(deadline, path)
            yield
        return
    digest = hashlib.blake2b(f"tololo apdb {namespace}".encode(), digest_size=8).digest()
    take = sqlalchemy.select(sqlalchemy.func.pg_try_advisory_lock(int.from_bytes(digest, signed=True)))
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()  # back in the pool, the session would keep the lock
        while not connection.execute(take).scalar_one():
            _wait(deadline, str(namespace))
        yield


def _flock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(deadline: float, apdb: str) -> None:
    if time.monotonic() > deadline:
        raise UnavailableError(
            "Another run writes this APDB and does not finish", f"APDB {apdb}", "try again later"
        )
    time.sleep(_POLL_SECONDS)
