"""Candidates: what people look at of an APDB, from a list of its diaObjects to one with all that it did."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from tololo.facility.errors import BadInputError
from tololo.reduction.apdb_readers import SOURCE
from tololo.reduction.light_curves import object_light_curve

if TYPE_CHECKING:
    from astropy.table import Table

    from tololo.reduction.apdb import CampaignApdb

NEWEST, SIGNIFICANT = "newest", "significant"
ORDERS = (NEWEST, SIGNIFICANT)
"""The latest diaSource first; or the largest mean flux over its error, in any band."""

DETECTIONS = 6
"""So many of the last detections are told, with their place on the detector."""

DETECTION = (
    "diaSourceId",
    "visit",
    "detector",
    "band",
    "midpointMjdTai",
    "x",
    "y",
    "psfFlux",
    "psfFluxErr",
    "snr",
    "reliability",
)
_MEAN = "_psfFluxMean"


def candidates(
    apdb: CampaignApdb, order: str = NEWEST, limit: int = 50, offset: int = 0
) -> list[dict[str, Any]]:
    """List diaObjects.

    Parameters
    ----------
    apdb : `~tololo.reduction.apdb.CampaignApdb`
    order : `str`, optional
        One of `ORDERS`.
    limit, offset : `int`, optional
        How many, after how many.

    Returns
    -------
    found : `list` [`dict`]
        ``diaObjectId``, ``ra``, ``dec`` (deg), ``sources`` (how many), ``bands`` (how many in each),
        ``first`` and ``last`` (MJD TAI of its first and last diaSource), ``significance``, and of its last
        diaSource ``band``, ``psfFlux``, ``psfFluxErr`` (nJy), ``reliability``.

    Raises
    ------
    BadInputError
        If there is no such order.
    """
    if order not in ORDERS:
        raise BadInputError(f"Candidates have no order {order!r}", "order", f"use {' or '.join(ORDERS)}")

    def rank(columns: Any) -> Any:
        if order == SIGNIFICANT:
            return _significance(columns, apdb.object_columns).desc()
        return columns.lastDiaSourceMjdTai.desc()

    objects = apdb.rows("DiaObject", first=rank, limit=limit, offset=offset)
    ids = np.array([row["diaObjectId"] for row in objects], dtype=np.int64)
    names = ("diaObjectId", "midpointMjdTai", "band", "psfFlux", "psfFluxErr", "reliability")
    sources = apdb.read(SOURCE, names, diaObjectId=ids)
    by_object: defaultdict[int, list[int]] = defaultdict(list)
    for row in np.argsort(sources["midpointMjdTai"], kind="stable"):
        by_object[int(sources["diaObjectId"][row])].append(int(row))
    return [_told(row, sources, by_object[row["diaObjectId"]]) for row in objects]


def candidate(apdb: CampaignApdb, dia_object_id: int) -> dict[str, Any]:
    """Return one diaObject with its light curve and its last detections.

    Returns
    -------
    candidate : `dict`
        As one of `candidates`, and ``light_curve`` (`astropy.table.Table`, see
        `~tololo.reduction.light_curves.object_light_curve`), ``detections``: of its last diaSources, the
        newest first, ``diaSourceId``, ``visit``, ``detector``, ``band``, ``midpointMjdTai``, ``x``, ``y``,
        ``psfFlux``, ``psfFluxErr``, ``snr``, ``reliability``.

    Raises
    ------
    BadInputError
        If there is none of this number.
    """
    objects = apdb.rows("DiaObject", diaObjectId=dia_object_id)
    if not objects:
        raise BadInputError(
            f"There is no diaObject {dia_object_id}", f"APDB {apdb.name}", "look for it among the candidates"
        )
    sources = apdb.read(SOURCE, DETECTION, diaObjectId=dia_object_id)
    order = [int(row) for row in np.argsort(sources["midpointMjdTai"], kind="stable")]
    told = _told(objects[0], sources, order)
    detections = [
        {name: sources[name][row].item() for name in DETECTION} for row in reversed(order[-DETECTIONS:])
    ]
    table: Table = object_light_curve(apdb, dia_object_id)
    return told | {"detections": detections, "light_curve": table}


def _told(row: dict[str, Any], sources: Any, own: list[int]) -> dict[str, Any]:
    bands, counts = np.unique(sources["band"][own], return_counts=True)
    last = (
        {name: sources[name][own[-1]].item() for name in ("band", "psfFlux", "psfFluxErr", "reliability")}
        if own
        else {}
    )
    significance = [
        abs(row[name]) / row[f"{name}Err"]
        for name in row
        if name.endswith(_MEAN) and row[name] is not None and row[f"{name}Err"]
    ]
    return {
        "diaObjectId": row["diaObjectId"],
        "ra": row["ra"],
        "dec": row["dec"],
        "sources": row["nDiaSources"],
        "bands": dict(zip(bands.tolist(), counts.tolist(), strict=True)),
        "first": row["firstDiaSourceMjdTai"],
        "last": row["lastDiaSourceMjdTai"],
        "significance": max(significance, default=None),
        **({"band": "", "psfFlux": None, "psfFluxErr": None, "reliability": None} | last),
    }


def _significance(columns: Any, names: list[str]) -> Any:
    """Return the largest mean flux over its error as SQL; 0 where there is none."""
    zero = sqlalchemy.literal(0.0)
    pairs = [(columns[name], columns[f"{name}Err"]) for name in names if name.endswith(_MEAN)]
    values = (
        sqlalchemy.case((error > 0, sqlalchemy.func.abs(mean) / error), else_=zero) for mean, error in pairs
    )
    return Largest(zero, *(sqlalchemy.func.coalesce(value, zero) for value in values))


class Largest(FunctionElement[float]):
    """The largest of some values: ``greatest``, which SQLite calls ``max``."""

    inherit_cache = True


@compiles(Largest)
def _largest(element: Largest, compiler: Any, **options: Any) -> str:
    name = "max" if compiler.dialect.name == "sqlite" else "greatest"
    return f"{name}({compiler.process(element.clauses, **options)})"
