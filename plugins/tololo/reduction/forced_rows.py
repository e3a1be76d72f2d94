"""Forced photometry of a detector of a visit as rows of the APDB."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tololo.facility.errors import BadInputError
from tololo.reduction.dia_objects import Columns, Floats, Integers
from tololo.reduction.ids import COUNTER_BITS, DETECTOR_BITS, source_ids
from tololo.reduction.source_selection import plain

if TYPE_CHECKING:
    from tololo.reduction.association import VisitInfo

type Forced = Callable[[Floats, Floats], Any]

_FLUXES = ("psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr")


def measure_forced(info: VisitInfo, objects: Columns, forced: Forced) -> dict[str, npt.NDArray[Any]]:
    """Measure the objects in the region of a detector; returns the rows of DiaForcedSource.

    Raises
    ------
    BadInputError
        If the measurement lacks a column, or gives another number of rows than there are objects.
    """
    inside = np.asarray(
        info.region.contains(np.radians(objects["ra"]), np.radians(objects["dec"])), dtype=bool
    ).reshape(-1)
    rows = {name: column[inside] for name, column in objects.items()}
    n = len(rows["ra"])
    fluxes = forced(rows["ra"], rows["dec"]) if n else {name: np.empty(0) for name in _FLUXES}
    names = list(fluxes.colnames if hasattr(fluxes, "colnames") else fluxes)
    if missing := [name for name in _FLUXES if name not in names]:
        raise BadInputError(f"The forced photometry has no column {', '.join(missing)}", str(info))
    for name in _FLUXES:
        rows[name] = plain(fluxes[name]).astype(float)
        if len(rows[name]) != n:
            raise BadInputError(f"Forced photometry of {n} objects gave {len(rows[name])} rows", str(info))
    if "on_image" in names:
        measured = plain(fluxes["on_image"]).astype(bool)
        rows = {name: column[measured] for name, column in rows.items()}
    n = len(rows["ra"])
    own = {"visit": info.visit, "detector": info.detector, "midpointMjdTai": info.midpoint, "band": info.band}
    rows |= {name: np.full(n, value) for name, value in own.items()}
    rows["diaForcedSourceId"] = forced_source_ids(info, n)
    return rows


def forced_source_ids(info: VisitInfo, n: int) -> Integers:
    """Number forced sources: visit, detector (7 bits) and a counter (25 bits) in one positive int64.

    Raises
    ------
    BadInputError
        If visit, detector or ``n`` need more bits.
    """
    bits = 63 - DETECTOR_BITS - COUNTER_BITS
    if not 0 <= info.visit < 2**bits or not 0 <= info.detector < 2**DETECTOR_BITS or n > 2**COUNTER_BITS:
        raise BadInputError("The forced sources cannot be numbered", str(info), f"use visits below {2**bits}")
    return source_ids(info.visit, info.detector, n)
