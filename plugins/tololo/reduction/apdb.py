"""The Alert Production Database (APDB) of a campaign, read and written through dax_apdb.

dax_apdb, felis and sdm_schemas are under the GPL; this is the one module of `reduction` that imports them.
The tables are those of the LSST APDB schema, and the ledger of what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import sqlalchemy
from astropy.time import Time
from felis.datamodel import DataType
from lsst.dax.apdb import ApdbConfig, ApdbTables, IncompatibleVersionError
from lsst.dax.apdb.sql import ApdbSql, ApdbSqlConfig
from lsst.sphgeom import Angle, Circle, LonLat, Region, UnitVector3d
from lsst.utils.db_auth import DbAuthError
from sqlalchemy.exc import InterfaceError, NoSuchTableError, OperationalError
from yaml import YAMLError

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.nights import night_of_mjd_tai
from tololo.reduction.association import AssociationResult, StoredVisit, VisitInfo
from tololo.reduction.dia_objects import FORCED_HISTORY, HISTORY, Columns, Integers
from tololo.reduction.ledger import Ledger, latest_of, writer_lock

LOCK_SECONDS = 600.0
SOURCES = (ApdbTables.DiaSource, ApdbTables.DiaForcedSource)
_FRAME_TYPES = {
    DataType.double: "f8",
    DataType.float: "f4",
    DataType.boolean: "boolean",
    DataType.long: "Int64",
    DataType.int: "Int64",
    DataType.short: "Int64",
}
_ARRAY_TYPES = {DataType.double: "f8", DataType.float: "f4", DataType.boolean: "?"}
_CHUNK = 1000
_MILLISECOND = 1e-3 / 86400


class CampaignApdb(ApdbSql):  # type: ignore[misc]  # dax_apdb carries no types that mypy could follow
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
        self._pending: tuple[VisitInfo, AssociationResult] | None = None

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

    def bands(self, band: str) -> Sequence[str]:
        """Return the bands that have summary columns.

        Raises
        ------
        BadInputError
            If ``band`` is longer than the column is, on a database that minds (SQLite does not).
        """
        column = self._schema.get_table(ApdbTables.DiaSource).c.band
        length = column.type.length
        if self._engine.dialect.name != "sqlite" and length and len(band) > length:
            raise BadInputError(
                f"The APDB cannot store band {band}: its schema has {length} character for a band",
                f"APDB {self.name}, DiaSource.band",
                "difference-image this band into an APDB on SQLite, or leave it out",
            )
        suffix = "_psfFluxMean"
        return [name.removesuffix(suffix) for name in self.object_columns if name.endswith(suffix)]

    def objects(self, region: Region, margin: float) -> Columns:
        """Return the valid diaObjects within ``margin`` arcsec of a region, and perhaps a few more.

        Returns
        -------
        columns : `dict`
            ``diaObjectId``, ``ra``, ``dec``, ``raErr``, ``decErr`` (degrees), ordered by id.
        """
        circle = region.getBoundingCircle().dilatedBy(Angle.fromDegrees(margin / 3600))
        return self._within(circle, ("diaObjectId", "ra", "dec", "raErr", "decErr"))

    def objects_within(self, ra: float, dec: float, radius: float) -> Columns:
        """Return all columns of the valid diaObjects around a position (degrees), and perhaps of a few more.

        ``radius`` is in arcsec.
        """
        centre = UnitVector3d(LonLat.fromDegrees(ra, dec))
        return self._within(Circle(centre, Angle.fromDegrees(radius / 3600)), self.object_columns)

    @property
    def object_columns(self) -> list[str]:
        """Names of the columns of DiaObject."""
        return [column.name for column in self._schema.get_apdb_columns(ApdbTables.DiaObject)]

    def history(self, object_ids: Integers) -> tuple[Columns, Columns]:
        """Return the diaSources and the forced sources of diaObjects, without withdrawn ones."""
        return (
            self.read(ApdbTables.DiaSource, HISTORY, diaObjectId=object_ids),
            self.read(ApdbTables.DiaForcedSource, FORCED_HISTORY, diaObjectId=object_ids),
        )

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
        valid_from = self._valid_from(info, objects["diaObjectId"])
        self._pending = info, result
        try:
            self.store(
                Time(valid_from, format="mjd", scale="tai"),
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

    def read(self, table: ApdbTables | str, names: Sequence[str], *where: Any, **equal: Any) -> Columns:
        """Read columns of the valid rows of a table.

        Parameters
        ----------
        table : `str`
            ``DiaObject``, ``DiaSource`` or ``DiaForcedSource``.
        names : sequence of `str`
            Columns.
        *where
            SQLAlchemy conditions.
        **equal
            Value of a column, or for one column an array of the values to choose.

        Returns
        -------
        columns : `dict`
            Arrays of shape ``(n,)``, ordered by the primary key (within blocks of the chosen values).
        """
        table = ApdbTables(table)
        source = self._schema.get_table(table)
        query = sqlalchemy.select(*(source.c[name] for name in names)).where(self._valid(table), *where)
        choice = {key: value for key, value in equal.items() if isinstance(value, np.ndarray)}
        for key in equal.keys() - choice.keys():
            query = query.where(source.c[key] == equal[key])
        query = query.order_by(*source.primary_key.columns)
        queries = [query]
        for key, values in choice.items():
            blocks = [values[first : first + _CHUNK].tolist() for first in range(0, len(values), _CHUNK)]
            queries = [query.where(source.c[key].in_(block)) for block in blocks]
        rows: list[Any] = []
        with self._engine.begin() as connection:
            for block_query in queries:
                rows += connection.execute(block_query)
        types = {column.name: column.datatype for column in self.tableDef(table).columns}
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        return {name: _array(values, types[name]) for name, values in zip(names, columns, strict=True)}

    def counts(self) -> dict[str, int]:
        """Return how many valid diaObjects, diaSources and forced sources there are, none withdrawn."""
        counts = {}
        with self._engine.begin() as connection:
            for table in (ApdbTables.DiaObject, *SOURCES):
                query = sqlalchemy.select(sqlalchemy.func.count()).select_from(self._schema.get_table(table))
                counts[table.value] = int(connection.execute(query.where(self._valid(table))).scalar_one())
        return counts

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
            "created": metadata.get("tololo:created", ""),
            "schema_version": metadata[self.metadataSchemaVersionKey],
            "code_version": metadata[self.metadataCodeVersionKey],
            "visits": visits,
            "detectors": detectors,
            "latest_visit": latest.visit if latest else None,
            "latest_night": latest.night if latest else None,
            "counts": self.counts(),
        }

    def _valid_from(self, info: VisitInfo, object_ids: Integers) -> float:
        table = self.read(
            ApdbTables.DiaObject, ("diaObjectId", "validityStartMjdTai"), diaObjectId=object_ids
        )
        last = float(np.max(table["validityStartMjdTai"], initial=-np.inf))
        return info.midpoint if last < info.midpoint else last + _MILLISECOND

    def _within(self, region: Region, names: Sequence[str]) -> Columns:
        table = self._schema.get_table(ApdbTables.DiaObject)
        return self.read(ApdbTables.DiaObject, names, self._filterRegion(table, region))

    def _valid(self, table: ApdbTables) -> sqlalchemy.ColumnElement[bool]:
        columns = self._schema.get_table(table).c
        end = columns.validityEndMjdTai if table is ApdbTables.DiaObject else columns.timeWithdrawnMjdTai
        condition: sqlalchemy.ColumnElement[bool] = end.is_(None)
        return condition

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
            elif column.nullable or column.value is not None:
                continue
            elif column.datatype is DataType.int:
                values = np.zeros(n, dtype=np.int64)
            else:
                raise BadInputError(f"The rows have no column {name}", f"APDB {self.name}, {table.value}")
            frame[name] = pandas.Series(values).astype(_FRAME_TYPES.get(column.datatype, "object"))
        return pandas.DataFrame(frame)


def sql_config(db_url: str, namespace: str | None) -> ApdbSqlConfig:
    """Return the configuration of an APDB at dax_apdb's defaults: HTM level 20, index ``baseline``."""
    return ApdbSqlConfig(db_url=db_url, namespace=namespace)


def read_config(path: Path | str) -> ApdbSqlConfig:
    """Read the configuration file of an APDB.

    Raises
    ------
    BadInputError
        If it is not there, not readable, or not of an SQL database.
    """
    where = f"APDB configuration {path}"
    try:
        config = ApdbConfig.from_uri(str(path))
    except (OSError, ValueError, TypeError, LookupError, YAMLError) as error:
        what = f"There is no usable APDB configuration: {error}"
        raise BadInputError(what, where, "create the APDB, or name its file") from error
    if not isinstance(config, ApdbSqlConfig):
        raise BadInputError("This APDB is not in an SQL database", where, "use PostgreSQL or SQLite")
    return config


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
    where = f"{where_is(config)}, configuration {config_path}"
    if config.db_url.startswith("sqlite") and not Path(where_is(config)).exists():
        raise BadInputError("There is no APDB", where, "create it")
    with reachable(where):
        return CampaignApdb(config)


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


def _array(values: Sequence[Any], datatype: DataType) -> np.ndarray[Any, Any]:
    if datatype in (DataType.char, DataType.string):
        return np.array([value or "" for value in values], dtype=str)
    if datatype in _ARRAY_TYPES:
        return np.array(values, dtype=_ARRAY_TYPES[datatype])
    return np.array([value or 0 for value in values], dtype=np.int64)
