"""Which detectors of which visits an APDB holds, which it has to take again, and who may write to it.

The ledger is two tables beside the LSST tables. ``tololo_visit_detector`` has a row for each detector of a
visit that is stored, in the order of storing; it is written in the transaction that stores the rows of the
detector, so that it tells what is done even where there was nothing to store. ``tololo_waiting`` has a row
for each detector that was withdrawn in order to be stored again after an earlier visit.
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
WAITING = "tololo_waiting"
_POLL_SECONDS = 0.1


class Ledger:
    """The tables of what is stored and of what waits to be stored again.

    Parameters
    ----------
    engine : `sqlalchemy.engine.Engine`
    namespace : `str` or `None`
        Schema of PostgreSQL that holds the APDB.

    Attributes
    ----------
    table, waiting_table : `sqlalchemy.Table`
    """

    def __init__(self, engine: sqlalchemy.Engine, namespace: str | None) -> None:
        column, integer, double = sqlalchemy.Column, sqlalchemy.Integer, sqlalchemy.Double
        metadata = sqlalchemy.MetaData(schema=namespace)
        self._engine = engine
        self.table = sqlalchemy.Table(
            TABLE,
            metadata,
            column("visit", sqlalchemy.BigInteger, primary_key=True, autoincrement=False),
            column("detector", sqlalchemy.SmallInteger, primary_key=True, autoincrement=False),
            column("sequence", sqlalchemy.BigInteger, nullable=False, unique=True),
            column("night", integer, nullable=False),
            column("band", sqlalchemy.Text, nullable=False),
            column("midpointMjdTai", double, nullable=False),
            column("validityStartMjdTai", double, nullable=False),
            column("nDiaSources", integer, nullable=False),
            column("nRejected", integer, nullable=False),
            column("nNewDiaObjects", integer, nullable=False),
            column("nDiaForcedSources", integer, nullable=False),
            column("timeProcessedMjdTai", double, nullable=False),
            sqlalchemy.Index(f"{TABLE}_midpoint", "midpointMjdTai"),
            sqlalchemy.Index(f"{TABLE}_night", "night"),
        )
        self.waiting_table = sqlalchemy.Table(
            WAITING,
            metadata,
            column("visit", sqlalchemy.BigInteger, primary_key=True, autoincrement=False),
            column("detector", sqlalchemy.SmallInteger, primary_key=True, autoincrement=False),
            column("night", integer, nullable=False),
        )

    def create(self) -> None:
        """Make the tables where they are missing."""
        self.table.metadata.create_all(self._engine)

    def drop(self) -> None:
        """Forget everything."""
        self.table.metadata.drop_all(self._engine)

    def stored(self, visit: int, detector: int) -> AssociationResult | None:
        """Return what is stored of a detector of a visit, or `None`."""
        c = self.table.c
        with self._engine.begin() as connection:
            query = self.table.select().where(c.visit == int(visit), c.detector == int(detector))
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
        return latest_of(self._engine, self.table)

    def nights(self) -> list[int]:
        """Return the nights of which something is stored."""
        return self._nights(self.table)

    def waiting(self) -> list[int]:
        """Return the nights of which something has to be stored again."""
        return self._nights(self.waiting_table)

    def detectors(self, night: int) -> set[tuple[int, int]]:
        """Return visit and detector of what is stored of a night."""
        table = self.table
        return set(self._detectors(table.c.night == night))

    def later_than(self, midpoint: float) -> list[tuple[int, int]]:
        """Return visit and detector of what was stored from the first visit after a time (MJD TAI) on."""
        table = self.table
        later = sqlalchemy.select(sqlalchemy.func.min(table.c.sequence))
        first = later.where(table.c.midpointMjdTai > midpoint).scalar_subquery()
        return self._detectors(table.c.sequence >= first)

    def counts(self) -> tuple[int, int]:
        """Return the number of visits and of detectors of visits."""
        visits = sqlalchemy.func.count(sqlalchemy.distinct(self.table.c.visit))
        query = sqlalchemy.select(visits, sqlalchemy.func.count()).select_from(self.table)
        with self._engine.begin() as connection:
            row = connection.execute(query).one()
        return int(row[0]), int(row[1])

    def insert(
        self, connection: sqlalchemy.Connection, info: VisitInfo, result: AssociationResult, valid_from: float
    ) -> None:
        """Record a detector of a visit in a transaction that is open; it waits no more.

        ``valid_from`` is the time (MJD TAI) from which its versions of diaObjects are valid, as stored.
        """
        waiting = self.waiting_table
        mine = (waiting.c.visit == info.visit, waiting.c.detector == info.detector)
        connection.execute(waiting.delete().where(*mine))
        last = sqlalchemy.func.max(self.table.c.sequence)
        sequence = connection.execute(sqlalchemy.select(sqlalchemy.func.coalesce(last, 0))).scalar_one() + 1
        connection.execute(
            self.table.insert(),
            {
                "visit": info.visit,
                "detector": info.detector,
                "sequence": sequence,
                "night": info.night,
                "band": info.band,
                "midpointMjdTai": info.midpoint,
                "validityStartMjdTai": valid_from,
                "nDiaSources": result.sources,
                "nRejected": result.rejected,
                "nNewDiaObjects": result.new_objects,
                "nDiaForcedSources": result.forced,
                "timeProcessedMjdTai": float(Time.now().tai.mjd),
            },
        )

    def give_up(self, night: int) -> list[int]:
        """Let nothing of a night wait any more; returns the visits that did."""
        waiting = self.waiting_table
        query = sqlalchemy.select(waiting.c.visit).where(waiting.c.night == night).distinct()
        with self._engine.begin() as connection:
            visits = sorted(connection.execute(query).scalars())
            connection.execute(waiting.delete().where(waiting.c.night == night))
        return visits

    def _detectors(self, chosen: sqlalchemy.ColumnElement[bool]) -> list[tuple[int, int]]:
        query = sqlalchemy.select(self.table.c.visit, self.table.c.detector).where(chosen)
        with self._engine.begin() as connection:
            return [(int(row.visit), int(row.detector)) for row in connection.execute(query)]

    def _nights(self, table: sqlalchemy.Table) -> list[int]:
        query = sqlalchemy.select(table.c.night).distinct().order_by(table.c.night)
        with self._engine.begin() as connection:
            return list(connection.execute(query).scalars())


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
