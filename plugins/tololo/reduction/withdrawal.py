"""What was stored of an APDB is taken back, so that it is as it was before.

Rows are deleted, not flagged: dax_apdb's own withdrawal only sets ``timeWithdrawnMjdTai`` on sources, leaves
the diaObjects that were made from them as they are, and keeps the ids, so that the same rows could never be
stored again. What was stored later was associated with what is taken back, so it goes too, in the reverse
order of storing, and waits to be stored again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy
from sqlalchemy import exists, func, select, tuple_

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.ledger import Ledger


@dataclass(frozen=True)
class Withdrawn:
    """What was taken back.

    Parameters
    ----------
    nights : `tuple` [`int`, ...]
        Nights of which something was taken back, in time order.
    waiting : `tuple` [`int`, ...]
        Nights that have to be associated again, of this withdrawal and of earlier ones, in time order.
    rows : `dict` [`str`, `int`]
        Deleted rows by table.
    """

    nights: tuple[int, ...]
    waiting: tuple[int, ...]
    rows: dict[str, int]


@dataclass(frozen=True)
class ApdbRows:
    """The tables of an APDB that withdrawal works on.

    Parameters
    ----------
    objects, sources, forced : `sqlalchemy.Table`
    ledger : `~tololo.reduction.ledger.Ledger`
    name : `str`
        How the APDB is called in messages.
    """

    objects: sqlalchemy.Table
    sources: sqlalchemy.Table
    forced: sqlalchemy.Table
    ledger: Ledger
    name: str

    def withdraw_night(self, connection: sqlalchemy.Connection, night: int) -> Withdrawn:
        """Take back a night, and what was stored after it, which then waits.

        Parameters
        ----------
        connection : `sqlalchemy.Connection`
            In a transaction.
        night : `int`

        Raises
        ------
        NothingToDoError
            If nothing of the night is stored, nor waits.
        BadInputError
            If another program stored rows that would have to be taken back too.
        """
        table, waiting = self.ledger.table, self.ledger.waiting_table
        forgotten = connection.execute(waiting.delete().where(waiting.c.night == night)).rowcount
        first = connection.execute(select(func.min(table.c.sequence)).where(table.c.night == night)).scalar()
        if first is None and not forgotten:
            raise NothingToDoError(f"Nothing of night {night} is stored", f"APDB {self.name}")
        return self._withdraw(connection, first, for_good=night)

    def withdraw_after(self, connection: sqlalchemy.Connection, midpoint: float) -> Withdrawn:
        """Take back all visits after a time (MJD TAI), and what was stored after them; all of it waits.

        Raises
        ------
        BadInputError
            If another program stored rows that would have to be taken back too.
        """
        table = self.ledger.table
        later = select(func.min(table.c.sequence)).where(table.c.midpointMjdTai > midpoint)
        return self._withdraw(connection, connection.execute(later).scalar(), for_good=None)

    def _withdraw(
        self, connection: sqlalchemy.Connection, first: int | None, *, for_good: int | None
    ) -> Withdrawn:
        """Take back all from a place in the order of storing on."""
        table, waiting = self.ledger.table, self.ledger.waiting_table
        rows = {}
        nights: list[int] = []
        if first is not None:
            chosen = table.c.sequence >= first
            query = select(table.c.night).where(chosen).distinct().order_by(table.c.night)
            nights = list(connection.execute(query).scalars())
            self._check_foreign(connection, chosen)
            rows["DiaObject"] = self._restore_objects(connection, chosen)
            detectors = select(table.c.visit, table.c.detector).where(chosen)
            for name, rows_of in (("DiaSource", self.sources), ("DiaForcedSource", self.forced)):
                mine = tuple_(rows_of.c.visit, rows_of.c.detector).in_(detectors)
                rows[name] = connection.execute(rows_of.delete().where(mine)).rowcount
            again = select(table.c.visit, table.c.detector, table.c.night).where(chosen)
            if for_good is not None:
                again = again.where(table.c.night != for_good)
            connection.execute(waiting.insert().from_select(["visit", "detector", "night"], again))
            connection.execute(table.delete().where(chosen))
        query = select(waiting.c.night).distinct().order_by(waiting.c.night)
        return Withdrawn(tuple(nights), tuple(connection.execute(query).scalars()), rows)

    def _restore_objects(self, connection: sqlalchemy.Connection, chosen: Any) -> int:
        """Delete the versions of diaObjects that the chosen detectors made; reopen those that they closed."""
        table, objects, sources = self.ledger.table, self.objects, self.sources
        made = (
            select(sources.c.diaObjectId, table.c.validityStartMjdTai)
            .join_from(
                table,
                sources,
                sqlalchemy.and_(sources.c.visit == table.c.visit, sources.c.detector == table.c.detector),
            )
            .where(chosen, sources.c.diaObjectId.is_not(None))
        )
        closed = tuple_(objects.c.diaObjectId, objects.c.validityEndMjdTai).in_(made)
        connection.execute(objects.update().where(closed).values(validityEndMjdTai=None))
        own = tuple_(objects.c.diaObjectId, objects.c.validityStartMjdTai).in_(made)
        return connection.execute(objects.delete().where(own)).rowcount

    def _check_foreign(self, connection: sqlalchemy.Connection, chosen: Any) -> None:
        """Refuse where rows of a visit that the ledger does not know are as late as what is taken back."""
        table = self.ledger.table
        since = connection.execute(select(func.min(table.c.midpointMjdTai)).where(chosen)).scalar_one()
        for rows_of in (self.sources, self.forced):
            known = exists().where(table.c.visit == rows_of.c.visit, table.c.detector == rows_of.c.detector)
            query = select(rows_of.c.visit).where(rows_of.c.midpointMjdTai >= since, ~known).limit(1)
            if (visit := connection.execute(query).scalar()) is not None:
                raise BadInputError(
                    f"Another program stored visit {visit}, which would have to be withdrawn too",
                    f"APDB {self.name}, {rows_of.name}",
                    "reset the APDB and associate its nights again",
                )
