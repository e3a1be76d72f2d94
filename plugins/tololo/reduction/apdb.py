"""The Alert Production Database (APDB) of a campaign, read and written through dax_apdb.

dax_apdb, felis and sdm_schemas are under the GPL; of `reduction` this module, `apdb_rows` and `apdb_config`
alone import them. The tables are those of the LSST APDB schema with the extension of
`tololo.reduction.apdb_schema`, and the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from astropy.time import Time
from felis.datamodel import DataType
from lsst.dax.apdb import ApdbTables
from lsst.dax.apdb.sql import ApdbSqlConfig
from sqlalchemy.exc import InterfaceError, OperationalError

from tololo.facility.errors import BadInputError
from tololo.facility.nights import night_of_mjd_tai
from tololo.reduction.apdb_config import reachable, read_config, where_is
from tololo.reduction.apdb_rows import SOURCES, ReadableApdb
from tololo.reduction.apdb_schema import band_length
from tololo.reduction.association import AssociationResult, StoredVisit, VisitInfo
from tololo.reduction.dia_objects import Columns, Integers
from tololo.reduction.ledger import Ledger, latest_of, writer_lock
from tololo.reduction.withdrawal import ApdbRows, Withdrawn

__all__ = ["CampaignApdb", "open_apdb", "reachable"]

LOCK_SECONDS = 600.0
_FRAME_TYPES = {
    DataType.double: "f8",
    DataType.float: "f4",
    DataType.boolean: "boolean",
    DataType.long: "Int64",
    DataType.int: "Int64",
    DataType.short: "Int64",
}
_OPTIONAL_IDS = ("diaObjectId", "ssObjectId")  # 0 where a source belongs to none: NULL in the database
_MILLISECOND = 1e-3 / 86400


class CampaignApdb(ReadableApdb):
    """An SQL APDB that remembers which detectors of which visits are done.

    It is the `~tololo.reduction.association.Catalogue` that association works on.

    Parameters
    ----------
    config : `lsst.dax.apdb.sql.ApdbSqlConfig`
    """

    def __init__(self, config: ApdbSqlConfig) -> None:
        super().__init__(config)
        self.ledger = Ledger(self._engine, config.namespace)
        self.ledger.create()
        self._pending: tuple[VisitInfo, AssociationResult, float] | None = None

    @property
    def name(self) -> str:
        """Name of the campaign; of the database where it has none."""
        return self.metadata.get("tololo:campaign") or where_is(self.config)

    def stored(self, visit: int, detector: int) -> AssociationResult | None:
        """Return what is stored of a detector of a visit, or `None`.

        Of rows that another program stored, new objects are not known and counted as matched sources.
        """
        with reachable(where_is(self.config)):
            done = self.ledger.stored(visit, detector)
            if done is not None:
                return done
            if not self.containsVisitDetector(visit, detector):
                return None
            columns = ("midpointMjdTai",)
            sources, forced = (self.read(table, columns, visit=visit, detector=detector) for table in SOURCES)
        times = np.concatenate([sources["midpointMjdTai"], forced["midpointMjdTai"]])
        return AssociationResult(
            visit,
            detector,
            night_of_mjd_tai(float(times[0])),
            already_stored=True,
            sources=len(sources["midpointMjdTai"]),
            rejected=0,
            new_objects=0,
            forced=len(forced["midpointMjdTai"]),
        )

    def latest(self) -> StoredVisit | None:
        """Return the latest visit, by its midpoint, also of what another program stored."""
        tables = (self._schema.get_table(ApdbTables(table)) for table in SOURCES)
        return self.ledger.latest() or latest_of(self._engine, *tables)

    @contextmanager
    def exclusive(self, timeout: float = LOCK_SECONDS) -> Iterator[None]:
        """Keep every other writer of this APDB out, in all processes; a process that dies lets go.

        Raises
        ------
        UnavailableError
            If another writer does not finish in ``timeout`` seconds, or the database is away.
        """
        with reachable(where_is(self.config)), writer_lock(self._engine, self.config.namespace, timeout):
            yield

    def nights(self) -> list[int]:
        """Return the nights of which something is stored, in time order."""
        return self.ledger.nights()

    def waiting(self) -> list[int]:
        """Return the nights that were withdrawn and have to be associated again, in time order."""
        return self.ledger.waiting()

    def withdraw(self, night: int) -> Withdrawn:
        """Take a night out, as if it had never been stored; what was stored after it waits for its replay.

        One transaction: a process that is killed has withdrawn all of it, or nothing.

        Raises
        ------
        NothingToDoError
            If nothing of the night is stored, nor waits.
        BadInputError
            If another program stored rows that would have to be taken out too.
        UnavailableError
            If the database is away or another writer holds it for long.
        """
        with self.exclusive(), self._engine.begin() as connection:
            return self._rows.withdraw_night(connection, night)

    def later_than(self, midpoint: float) -> list[tuple[int, int]]:
        """Return visit and detector of what `withdraw_after` would take out."""
        with reachable(where_is(self.config)):
            return self.ledger.later_than(midpoint)

    def withdraw_after(self, midpoint: float) -> Withdrawn:
        """Take out all visits after a time (MJD TAI); they wait for their replay. Errors as of `withdraw`."""
        with self.exclusive(), self._engine.begin() as connection:
            return self._rows.withdraw_after(connection, midpoint)

    def bands(self, band: str) -> Sequence[str]:
        """Return the bands that have summary columns.

        Raises
        ------
        BadInputError
            If ``band`` is longer than the columns of this database are: LSST's own schema has one letter.
        """
        if self._band_length and len(band) > self._band_length:
            raise BadInputError(
                f"The APDB cannot store band {band}: its schema has {self._band_length} letters for a band",
                f"APDB {self.name}, DiaSource.band",
                "widen the columns as docs/apdb.md says, or let Tololo make the APDB",
            )
        suffix = "_psfFluxMean"
        return [name.removesuffix(suffix) for name in self.object_columns if name.endswith(suffix)]

    def store_visit(
        self, info: VisitInfo, objects: Columns, sources: Columns, forced: Columns, result: AssociationResult
    ) -> None:
        """Store one detector of a visit in one transaction: all of it, or nothing.

        New versions of diaObjects are valid from the midpoint of the visit on; where one of the objects has a
        version of that time or later (detectors overlap, visits out of order), from a millisecond after it.

        Raises
        ------
        BadInputError
            If the schema does not take the rows.
        """
        now = float(Time.now().tai.mjd)
        valid_from = Time(self._valid_from(info, objects["diaObjectId"]), format="mjd", scale="tai")
        self._pending = info, result, float(valid_from.tai.mjd)
        try:
            self.store(
                valid_from,
                self._frame(ApdbTables.DiaObject, objects),
                self._frame(ApdbTables.DiaSource, sources, timeProcessedMjdTai=now),
                self._frame(ApdbTables.DiaForcedSource, forced, timeProcessedMjdTai=now),
            )
        except pandas.errors.DatabaseError as error:  # pandas wraps what SQLAlchemy raises
            cause = error.__cause__
            if isinstance(cause, OperationalError | InterfaceError):
                raise cause from error
            raise BadInputError(
                f"The APDB refused the rows, nothing of them is stored: {getattr(cause, 'orig', error)}",
                f"APDB {self.name}, {info}",
                "number diaSources uniquely over all visits and detectors, and keep to the schema's types",
            ) from error
        finally:
            self._pending = None

    def _storeDiaForcedSources(self, sources: pandas.DataFrame, replica_chunk: Any, connection: Any) -> None:
        # The last step of dax_apdb's transaction: what is done is recorded with it or not at all.
        super()._storeDiaForcedSources(sources, replica_chunk, connection)
        if self._pending is not None:
            self.ledger.insert(connection, *self._pending)

    def is_empty(self) -> bool:
        """Tell whether no visit was ever stored."""
        return self.latest() is None

    def describe(self) -> dict[str, Any]:
        """Return what the APDB was made for, its versions, and what it holds."""
        metadata = dict(self.metadata.items())
        latest = self.latest()
        visits, detectors = self.ledger.counts()
        return {
            "name": self.name,
            "database": where_is(self.config),
            "instrument": metadata.get("instrument", ""),
            "template": metadata.get("tololo:template", ""),
            "template_version": metadata.get("tololo:template_version", ""),
            "template_versions_accepted": metadata.get("tololo:template_versions_accepted", ""),
            "created": metadata.get("tololo:created", ""),
            "schema_version": metadata[self.metadataSchemaVersionKey],
            "code_version": metadata[self.metadataCodeVersionKey],
            "visits": visits,
            "detectors": detectors,
            "latest_visit": latest.visit if latest else None,
            "latest_night": latest.night if latest else None,
            "waiting_nights": self.waiting(),
            "counts": self.counts(),
        }

    @cached_property
    def _band_length(self) -> int | None:
        return band_length(self._engine, self.config.namespace, self.config.prefix + "DiaSource")

    @property
    def _rows(self) -> ApdbRows:
        objects, sources, forced = (
            self._schema.get_table(table) for table in (ApdbTables.DiaObject, *SOURCES)
        )
        return ApdbRows(objects, sources, forced, self.ledger, self.name)

    def _valid_from(self, info: VisitInfo, object_ids: Integers) -> float:
        table = self.read(
            ApdbTables.DiaObject, ("diaObjectId", "validityStartMjdTai"), diaObjectId=object_ids
        )
        last = float(np.max(table["validityStartMjdTai"], initial=-np.inf))
        return info.midpoint if last < info.midpoint else last + _MILLISECOND

    def _frame(self, table: ApdbTables, columns: Columns, **constants: float) -> pandas.DataFrame:
        """Fit columns to a table: those that its schema has, in its types; missing required counts are 0."""
        n = len(columns["diaObjectId"])
        filled_by_dax = (
            "validityStartMjdTai",
            "validityEndMjdTai",
            self.config.pixelization.htm_index_column,
        )
        frame = {}
        for column in self.tableDef(table).columns:
            name = column.name
            if name in filled_by_dax:
                continue
            if name in constants:
                values = np.full(n, constants[name])
            elif name in columns:
                values = columns[name]
                if name in _OPTIONAL_IDS:
                    values = pandas.Series(values, dtype="Int64").mask(np.equal(values, 0))
            elif column.nullable or column.value is not None:
                continue
            elif column.datatype is DataType.int:
                values = np.zeros(n, dtype=np.int64)
            else:
                raise BadInputError(f"The rows have no column {name}", f"APDB {self.name}, {table.value}")
            frame[name] = pandas.Series(values).astype(_FRAME_TYPES.get(column.datatype, "object"))
        return pandas.DataFrame(frame)


def open_apdb(config_path: Path | str) -> CampaignApdb:
    """Open an APDB by its configuration file.

    Raises
    ------
    BadInputError
        If the file or the APDB is not there, is not SQL, or is of another schema version.
    UnavailableError
        If the database does not answer.
    """
    config = read_config(config_path)
    if not isinstance(config, ApdbSqlConfig):
        raise BadInputError(
            "Nights are associated in an SQL database, where a visit is stored as one transaction; this APDB"
            " is in Cassandra",
            f"APDB configuration {config_path}",
            "use PostgreSQL or SQLite; dax_apdb itself reads this one",
        )
    where = f"{where_is(config)}, configuration {config_path}"
    if config.db_url.startswith("sqlite") and not Path(where_is(config)).exists():
        raise BadInputError("There is no APDB", where, "create it")
    with reachable(where):
        return CampaignApdb(config)
