"""What the alerts of a detector tell, read from the APDB: sources, their history, their objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy

if TYPE_CHECKING:
    from tololo.reduction.apdb import CampaignApdb

type Row = dict[str, Any]

HISTORY_DAYS = 365.0
"""How far back the history of an alert goes, as LSST's do: twelve months."""

SAME_VISIT = 0.1 / 86400
"""Days: versions of an object that the detectors of one visit make are milliseconds apart."""


def alert_records(
    apdb: CampaignApdb, visit: int, detector: int, history_days: float = HISTORY_DAYS
) -> list[Row]:
    """Return the alerts of a detector of a visit, without their cutouts.

    Everything in them is as it was known at the visit, so they are the same whenever they are read: of later
    visits they tell nothing.

    Parameters
    ----------
    apdb : `~tololo.reduction.apdb.CampaignApdb`
    visit, detector : `int`
    history_days : `float`, optional
        How far back the history goes.

    Returns
    -------
    records : `list` [`dict`]
        One for each diaSource, by id: ``diaSourceId``, ``diaSource``, ``prvDiaSources`` (earlier ones of its
        object), ``prvDiaForcedSources`` (until this visit, this one included), ``diaObject`` (its version at
        this visit, `None` for a known solar-system body), ``ssSource`` (`None` for anything else). Rows are
        dictionaries with the columns of the APDB; what is NULL there is `None`.
    """
    sources = apdb.rows("DiaSource", visit=visit, detector=detector)
    if not sources:
        return []
    now = float(sources[0]["midpointMjdTai"])
    ids = np.unique([row["diaObjectId"] for row in sources if row["diaObjectId"]]).astype(np.int64)
    lately = sqlalchemy.column("midpointMjdTai").between(now - history_days, now)
    history, forced = (
        _by_object(apdb.rows(table, lately, diaObjectId=ids)) for table in ("DiaSource", "DiaForcedSource")
    )
    versions = _by_object(apdb.rows("DiaObject", ended=True, diaObjectId=ids))
    known = _solar_system(sources)
    records = []
    for row in sorted(sources, key=lambda source: int(source["diaSourceId"])):
        owner = row["diaObjectId"] or None
        earlier = [other for other in history[owner] if other["midpointMjdTai"] < now]
        records.append(
            {
                "diaSourceId": row["diaSourceId"],
                "diaSource": row,
                "prvDiaSources": sorted(earlier, key=_time),
                "prvDiaForcedSources": sorted(forced[owner], key=_time),
                "diaObject": _version(versions[owner], now),
                "ssSource": known.get(row["diaSourceId"]),
            }
        )
    return records


def _time(row: Row) -> tuple[float, int, int]:
    return row["midpointMjdTai"], row["visit"], row["detector"]


def _by_object(rows: Iterable[Row]) -> defaultdict[int | None, list[Row]]:
    groups: defaultdict[int | None, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["diaObjectId"]].append(row)
    return groups


def _version(versions: list[Row], now: float) -> Row | None:
    """Return the version of an object that this visit made; the first one, if all are of later visits."""
    ordered = sorted(versions, key=lambda row: float(row["validityStartMjdTai"]))
    made = [row for row in ordered if row["validityStartMjdTai"] <= now + SAME_VISIT]
    return made[-1] if made else next(iter(ordered), None)


def _solar_system(sources: list[Row]) -> dict[int, Row]:
    """Return what is told of known solar-system bodies: who they are, and where in the sky."""
    from astropy.coordinates import SkyCoord

    from tololo.reduction.ephemerides import designation_of

    bodies = [row for row in sources if row["ssObjectId"]]
    if not bodies:
        return {}
    places = SkyCoord([row["ra"] for row in bodies], [row["dec"] for row in bodies], unit="deg", frame="icrs")
    ecliptic, galactic = places.barycentrictrueecliptic, places.galactic
    return {
        row["diaSourceId"]: {
            "diaSourceId": row["diaSourceId"],
            "ssObjectId": row["ssObjectId"],
            "designation": designation_of(row["ssObjectId"]),
            "eclLambda": float(ecliptic.lon.deg[n]),
            "eclBeta": float(ecliptic.lat.deg[n]),
            "galLon": float(galactic.l.deg[n]),
            "galLat": float(galactic.b.deg[n]),
        }
        for n, row in enumerate(bodies)
    }
