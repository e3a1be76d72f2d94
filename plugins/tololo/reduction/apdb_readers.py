"""What is read from an APDB for people and for a TOM: light curves, objects near a position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from tololo.facility.errors import BadInputError

if TYPE_CHECKING:
    from tololo.reduction.apdb import CampaignApdb

FORCED = "DiaForcedSource"
SOURCE = "DiaSource"
OBJECT = "DiaObject"
POINT = (
    "midpointMjdTai",
    "visit",
    "detector",
    "band",
    "ra",
    "dec",
    "psfFlux",
    "psfFluxErr",
    "scienceFlux",
    "scienceFluxErr",
)
_UNITS = {"midpointMjdTai": "d", "ra": "deg", "dec": "deg", "raErr": "deg", "decErr": "deg"}


def light_curve(apdb: CampaignApdb, dia_object_id: int) -> Table:
    """Return all points of a diaObject in time order.

    Returns
    -------
    table : `astropy.table.Table`
        ``midpointMjdTai`` (MJD TAI), ``visit``, ``detector``, ``band``, ``ra``, ``dec`` (deg), ``psfFlux``,
        ``psfFluxErr`` (nJy, on the difference), ``scienceFlux``, ``scienceFluxErr`` (nJy) and ``kind``:
        ``detected`` for a diaSource, ``forced`` for photometry at the position of the object. A visit in
        which the object was detected has both.

    Raises
    ------
    BadInputError
        If there is no such object.
    """
    ids = np.array([dia_object_id] if abs(dia_object_id) < 2**63 else [], dtype=np.int64)
    parts = [apdb.read(table, POINT, diaObjectId=ids) for table in (SOURCE, FORCED)]
    table = Table({name: np.concatenate([part[name] for part in parts]) for name in POINT})
    if not len(table):
        raise BadInputError(
            f"There is no diaObject {dia_object_id}", f"APDB {apdb.name}", "look for one near the position"
        )
    table["kind"] = np.repeat(["detected", "forced"], [len(part["ra"]) for part in parts])
    table.sort(["midpointMjdTai", "visit", "detector", "kind"])
    table.meta.update(diaObjectId=int(dia_object_id), apdb=apdb.name, time_scale="TAI")
    return _with_units(table)


def objects_near(apdb: CampaignApdb, ra: float, dec: float, radius: float) -> Table:
    """Return the valid diaObjects within ``radius`` arcsec of a position (degrees), nearest first.

    Returns
    -------
    table : `astropy.table.Table`
        The columns of DiaObject and ``separation`` (arcsec).
    """
    columns = apdb.objects_within(ra, dec, radius)
    table = Table(dict(columns))
    d_ra = np.radians(columns["ra"] - ra)
    d_dec = np.radians(columns["dec"] - dec)
    both = np.cos(np.radians(dec)) * np.cos(np.radians(columns["dec"]))
    haversine = np.sin(d_dec / 2) ** 2 + both * np.sin(d_ra / 2) ** 2
    table["separation"] = np.degrees(2 * np.arcsin(np.sqrt(haversine))) * 3600
    table["separation"].unit = "arcsec"
    table = table[table["separation"] <= radius]
    table.sort(["separation", "diaObjectId"])
    return _with_units(table)


def all_objects(apdb: CampaignApdb, minimum_sources: int = 1) -> Table:
    """Return the valid diaObjects with at least so many diaSources."""
    table = Table(dict(apdb.read(OBJECT, apdb.object_columns)))
    return _with_units(table[table["nDiaSources"] >= minimum_sources])


def sources_of(apdb: CampaignApdb, visit: int, detector: int) -> tuple[Table, Table]:
    """Return what is stored of a detector of a visit.

    Returns
    -------
    associations : `astropy.table.Table`
        ``diaSourceId`` and the ``diaObjectId`` it belongs to.
    forced : `astropy.table.Table`
        Forced sources, with their ids and the columns of `POINT`.
    """
    sources = apdb.read(SOURCE, ("diaSourceId", "diaObjectId"), visit=visit, detector=detector)
    points = apdb.read(FORCED, ("diaForcedSourceId", "diaObjectId", *POINT), visit=visit, detector=detector)
    return Table(dict(sources)), _with_units(Table(dict(points)))


def _with_units(table: Table) -> Table:
    for name in table.colnames:
        if name in _UNITS:
            table[name].unit = _UNITS[name]
        elif name.endswith("MaxSlope"):
            table[name].unit = "nJy / d"
        elif "Flux" in name and not name.endswith("Ndata"):
            table[name].unit = "nJy"
    return table
