"""The rows of an SQL APDB, read as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sqlalchemy
from felis.datamodel import DataType
from lsst.dax.apdb import ApdbTables
from lsst.dax.apdb.sql import ApdbSql
from lsst.sphgeom import Angle, Circle, LonLat, Region, UnitVector3d

from tololo.reduction.dia_objects import FORCED_HISTORY, HISTORY, Columns, Integers

SOURCES = (ApdbTables.DiaSource, ApdbTables.DiaForcedSource)
_ARRAY_TYPES = {DataType.double: "f8", DataType.float: "f4", DataType.boolean: "?"}
_CHUNK = 1000


class ReadableApdb(ApdbSql):  # type: ignore[misc]  # dax_apdb carries no types that mypy could follow
    """An SQL APDB whose valid rows are read as arrays: the last version of objects, sources not withdrawn.

    Parameters
    ----------
    config : `lsst.dax.apdb.sql.ApdbSqlConfig`
    """

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
        rows = self._select(table, names, *where, **equal)
        types = {column.name: column.datatype for column in self.tableDef(table).columns}
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        return {name: _array(values, types[name]) for name, values in zip(names, columns, strict=True)}

    def _select(
        self,
        table: ApdbTables,
        names: Sequence[str],
        *where: Any,
        ended: bool = False,
        first: Callable[[Any], Any] | None = None,
        limit: int | None = None,
        offset: int = 0,
        **equal: Any,
    ) -> list[Any]:
        source = self._schema.get_table(table)
        query = sqlalchemy.select(*(source.c[name] for name in names)).where(*where)
        if not ended:
            query = query.where(self._valid(table))
        choice = {key: value for key, value in equal.items() if isinstance(value, np.ndarray)}
        for key in equal.keys() - choice.keys():
            query = query.where(source.c[key] == equal[key])
        order = [first(source.c)] if first else []
        query = query.order_by(*order, *source.primary_key.columns).limit(limit).offset(offset or None)
        queries = [query]
        for key, values in choice.items():
            blocks = [values[first : first + _CHUNK].tolist() for first in range(0, len(values), _CHUNK)]
            queries = [query.where(source.c[key].in_(block)) for block in blocks]
        rows: list[Any] = []
        with self._engine.begin() as connection:
            for block_query in queries:
                rows += connection.execute(block_query)
        return rows

    def rows(
        self,
        table: ApdbTables | str,
        *where: Any,
        ended: bool = False,
        first: Callable[[Any], Any] | None = None,
        limit: int | None = None,
        offset: int = 0,
        **equal: Any,
    ) -> list[dict[str, Any]]:
        """Read all columns of LSST's schema of the valid rows of a table, NULL as `None`.

        Parameters are those of `read`; rows come ordered by the primary key. With ``ended`` come also
        rows that are not valid any more: the earlier versions of diaObjects. ``first`` takes the columns
        of the table and returns what goes before the primary key in the order (an SQLAlchemy expression);
        ``limit`` and ``offset`` cut a piece out of it.
        """
        table = ApdbTables(table)
        names = [column.name for column in self._schema.get_apdb_columns(table)]
        found = self._select(
            table, names, *where, ended=ended, first=first, limit=limit, offset=offset, **equal
        )
        return [dict(zip(names, row, strict=True)) for row in found]

    def counts(self) -> dict[str, int]:
        """Return how many valid diaObjects, diaSources and forced sources there are, none withdrawn."""
        counts = {}
        with self._engine.begin() as connection:
            for table in (ApdbTables.DiaObject, *SOURCES):
                query = sqlalchemy.select(sqlalchemy.func.count()).select_from(self._schema.get_table(table))
                counts[table.value] = int(connection.execute(query.where(self._valid(table))).scalar_one())
        return counts

    def _within(self, region: Region, names: Sequence[str]) -> Columns:
        table = self._schema.get_table(ApdbTables.DiaObject)
        return self.read(ApdbTables.DiaObject, names, self._filterRegion(table, region))

    def _valid(self, table: ApdbTables) -> sqlalchemy.ColumnElement[bool]:
        columns = self._schema.get_table(table).c
        end = columns.validityEndMjdTai if table is ApdbTables.DiaObject else columns.timeWithdrawnMjdTai
        condition: sqlalchemy.ColumnElement[bool] = end.is_(None)
        return condition


def _array(values: Sequence[Any], datatype: DataType) -> np.ndarray[Any, Any]:
    if datatype in (DataType.char, DataType.string):
        return np.array([value or "" for value in values], dtype=str)
    if datatype in _ARRAY_TYPES:
        return np.array(values, dtype=_ARRAY_TYPES[datatype])
    return np.array([value or 0 for value in values], dtype=np.int64)
