"""Association of the diaSources of a visit with the diaObjects of a campaign.

Matching and summaries are plain array work; where the rows live is behind `Catalogue`, so that this module
knows no database. Visits come in time order: an object is born with the first source that no object explains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tololo.facility.errors import BadInputError
from tololo.facility.nights import night_of_mjd_tai
from tololo.reduction.dia_objects import (
    FORCED_HISTORY,
    HISTORY,
    Columns,
    Floats,
    Integers,
    mean_positions,
    summarise,
)
from tololo.reduction.ids import COUNTER_BITS, DETECTOR_BITS, source_ids
from tololo.reduction.matching import match_sources

if TYPE_CHECKING:
    from lsst.sphgeom import Region

type Forced = Callable[[Floats, Floats], Any]

DEFAULT_RADIUS = 1.0
REQUIRED = ("diaSourceId", "ra", "dec", "x", "y", "psfFlux", "psfFluxErr")
_FLUXES = ("psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr")


@dataclass(frozen=True)
class VisitInfo:
    """One detector of one visit.

    Parameters
    ----------
    visit, detector : `int`
    band : `str`
    midpoint : `float`
        Middle of the exposure, MJD TAI.
    region : `lsst.sphgeom.Region`
        Sky that the detector covers.
    exposure_time : `float`, optional
        Seconds.
    """

    visit: int
    detector: int
    band: str
    midpoint: float
    region: Region
    exposure_time: float = math.nan

    @property
    def night(self) -> int:
        """The observing night, YYYYMMDD."""
        return night_of_mjd_tai(self.midpoint)

    def __str__(self) -> str:
        return f"night {self.night}, visit {self.visit}, detector {self.detector}"


@dataclass(frozen=True)
class SourceSelection:
    """Which diaSources may enter the APDB.

    Parameters
    ----------
    minimum_reliability : `float`, optional
        Sources below it, or without a reliability, stay out. No cut where it is `None`.
    minimum_snr : `float`, optional
        Cut on the absolute signal-to-noise ratio.
    rejected_flags : sequence of `str`, optional
        Boolean columns; a source with one of them set stays out.
    """

    minimum_reliability: float | None = None
    minimum_snr: float | None = None
    rejected_flags: tuple[str, ...] = ()

    def mask(self, sources: Columns) -> npt.NDArray[np.bool_]:
        """Tell which sources pass; shape ``(n,)``.

        Raises
        ------
        BadInputError
            If a column that a cut needs is missing.
        """
        cuts = {"reliability": self.minimum_reliability, "snr": self.minimum_snr}
        needed = [*(name for name, limit in cuts.items() if limit is not None), *self.rejected_flags]
        if missing := [name for name in needed if name not in sources]:
            raise BadInputError(
                f"The diaSources have no column {', '.join(missing)}",
                "selection of diaSources",
                "drop that cut",
            )
        keep = np.ones(len(sources["diaSourceId"]), dtype=bool)
        for name, limit in cuts.items():
            if limit is not None:
                keep &= np.abs(sources[name]) >= limit
        for name in self.rejected_flags:
            keep &= ~sources[name].astype(bool)
        return keep


@dataclass(frozen=True)
class AssociationResult:
    """What became of one detector of one visit; counts of rows."""

    visit: int
    detector: int
    night: int
    already_stored: bool
    sources: int
    rejected: int
    new_objects: int
    forced: int

    @property
    def matched(self) -> int:
        """Sources that belong to an object known before."""
        return self.sources - self.new_objects


@dataclass(frozen=True)
class StoredVisit:
    """A visit that an APDB holds; ``midpoint`` is MJD TAI."""

    visit: int
    night: int
    midpoint: float


@dataclass(frozen=True)
class DetectorVisit:
    """One detector of one visit, and how to get its rows once they are needed.

    Parameters
    ----------
    info : `VisitInfo`
    load : callable
        Returns the diaSources and the forced photometry, as `associate_visit` takes them.
    """

    info: VisitInfo
    load: Callable[[], tuple[Any, Forced]]


class Catalogue(Protocol):
    """Where diaObjects, diaSources and forced sources of a campaign live."""

    name: str

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep every other writer out."""

    def stored(self, visit: int, detector: int) -> AssociationResult | None:
        """Return what is stored of a detector of a visit, or `None`."""

    def latest(self) -> StoredVisit | None:
        """Return the latest visit, by its midpoint."""

    def bands(self, band: str) -> Sequence[str]:
        """Return the bands that have summary columns, after checking that ``band`` can be stored."""

    def objects(self, region: Region, margin: float) -> Columns:
        """Return the valid diaObjects within ``margin`` arcsec of a region, and perhaps a few more."""

    def history(self, object_ids: Integers) -> tuple[Columns, Columns]:
        """Return the diaSources and forced sources of diaObjects."""

    def store_visit(
        self, info: VisitInfo, objects: Columns, sources: Columns, forced: Columns, result: AssociationResult
    ) -> None:
        """Store all rows and the fact that they are stored, or nothing."""


def associate_visit(
    apdb: Catalogue,
    info: VisitInfo,
    sources: Any,
    forced: Forced,
    *,
    radius: float = DEFAULT_RADIUS,
    selection: SourceSelection | None = None,
    out_of_order: bool = False,
) -> AssociationResult:
    """Associate and store the diaSources of one detector of one visit.

    A detector that is stored already is left as it is, whatever is given now. A diaObject's id is the id
    of its first diaSource. Objects that gained a source get a new version, valid from the midpoint of the
    visit, with summaries computed afresh from all their rows; an object that was only forced keeps its
    version.

    Parameters
    ----------
    apdb : `Catalogue`
    info : `VisitInfo`
    sources : `astropy.table.Table` or mapping of arrays
        The diaSources; at least the columns of `REQUIRED`. Others are stored where the schema has them.
    forced : callable
        Takes the right ascensions and declinations (degrees) of the diaObjects in the region and returns a
        table or mapping with ``psfFlux, psfFluxErr, scienceFlux, scienceFluxErr`` (nJy), and ``on_image``
        (bool) where some positions are not on the image: those get no row. NaN stands for "not measurable".
    radius : `float`, optional
        Largest distance of a match, arcsec.
    selection : `SourceSelection`, optional
    out_of_order : `bool`, optional
        Store a visit although a later one is there: its sources then join objects discovered after it, and
        the later visits get no forced photometry at objects that are discovered now.

    Returns
    -------
    result : `AssociationResult`

    Raises
    ------
    BadInputError
        If the rows do not fit the visit or the schema, or a later visit is stored.
    UnavailableError
        If the database is away or another writer holds it for long.
    """
    if not 0 < radius <= 10:
        raise BadInputError(
            f"A match radius of {radius} arcsec makes no sense", "radius", "give 0.5 to 1 arcsec"
        )
    with apdb.exclusive():
        done = apdb.stored(info.visit, info.detector)
        if done is not None:
            return done
        bands = apdb.bands(info.band)
        if not out_of_order:
            _check_order(apdb, info)
        table = checked_sources(sources, info)
        keep = (selection or SourceSelection()).mask(table)
        chosen = {name: column[keep] for name, column in table.items()}
        known = apdb.objects(info.region, radius)

        match = match_sources(chosen, known, radius)
        new = match < 0
        ids = chosen["diaSourceId"].copy()
        ids[~new] = known["diaObjectId"][match[~new]]
        chosen["diaObjectId"] = ids
        updated = np.unique(ids)
        old_sources, old_forced = apdb.history(np.unique(ids[~new]))
        history = _stack(old_sources, chosen, HISTORY)
        objects = mean_positions(updated, history)

        forced_rows = _force(info, _current(known, objects), forced)
        forced_history = _stack(old_forced, forced_rows, FORCED_HISTORY)
        objects |= summarise(updated, history, forced_history, bands)
        result = AssociationResult(
            info.visit,
            info.detector,
            info.night,
            already_stored=False,
            sources=len(ids),
            rejected=int(np.count_nonzero(~keep)),
            new_objects=int(np.count_nonzero(new)),
            forced=len(forced_rows["diaObjectId"]),
        )
        apdb.store_visit(info, objects, chosen, forced_rows, result)
        return result


def associate_night(
    apdb: Catalogue,
    visits: Iterable[DetectorVisit],
    *,
    radius: float = DEFAULT_RADIUS,
    selection: SourceSelection | None = None,
    out_of_order: bool = False,
) -> list[AssociationResult]:
    """Associate detectors of visits in time order, whatever order they come in.

    Each detector of a visit is one transaction, so a run that was killed goes on where it stopped. Rows of
    what is stored already are not loaded. Parameters and errors are those of `associate_visit`; a night that
    must be refused for its order is refused before anything of it is written.

    Returns
    -------
    results : `list` [`AssociationResult`]
        In the order of time, visit, detector.
    """
    results = []
    for item in sorted(visits, key=lambda v: (v.info.midpoint, v.info.visit, v.info.detector)):
        result = apdb.stored(item.info.visit, item.info.detector)
        if result is None:
            sources, forced = item.load()
            result = associate_visit(
                apdb,
                item.info,
                sources,
                forced,
                radius=radius,
                selection=selection,
                out_of_order=out_of_order,
            )
        results.append(result)
    return results


def checked_sources(sources: Any, info: VisitInfo) -> dict[str, npt.NDArray[Any]]:
    """Turn a table of diaSources into plain arrays that belong to a visit, masked values into NaN or false.

    Raises
    ------
    BadInputError
        If a column is missing, ids repeat, a position is not a number, or rows are of another visit.
    """
    where = str(info)
    names = list(sources.colnames if hasattr(sources, "colnames") else sources)
    if missing := [name for name in REQUIRED if name not in names]:
        raise BadInputError(
            f"The diaSources have no column {', '.join(missing)}", where, "measure them first"
        )
    columns = {name: plain(sources[name]) for name in names}
    n = len(columns["diaSourceId"])
    own = {"visit": info.visit, "detector": info.detector, "midpointMjdTai": info.midpoint, "band": info.band}
    for name, value in own.items():
        given = columns.get(name, np.full(n, value))
        same = given.astype(str) == value if isinstance(value, str) else np.abs(given - value) < 1e-6
        if not np.all(same):
            raise BadInputError(
                f"{np.count_nonzero(~same)} diaSources have another {name} than {value}", where
            )
        columns[name] = np.full(n, value)
    columns["exposureTime"] = np.full(n, info.exposure_time)
    columns["diaSourceId"] = columns["diaSourceId"].astype(np.int64)
    if len(np.unique(columns["diaSourceId"])) != n:
        raise BadInputError("Some diaSources share an id", where, "number them uniquely")
    for name in ("ra", "dec", "x", "y"):
        if bad := int(np.count_nonzero(~np.isfinite(columns[name]))):
            raise BadInputError(f"{bad} diaSources have no {name}", where, "leave out what was not measured")
    for name in HISTORY:
        columns.setdefault(name, np.full(n, np.nan))
    return columns


def plain(column: Any) -> npt.NDArray[Any]:
    """Return a column as a plain array: masked floats become NaN, masked integers and flags 0, no units."""
    values = np.ma.asarray(getattr(column, "value", column))
    if values.dtype.kind == "f":
        return np.asarray(values.filled(np.nan))
    return np.asarray(np.ma.filled(values, "" if values.dtype.kind in "US" else 0))


def _check_order(apdb: Catalogue, info: VisitInfo) -> None:
    latest = apdb.latest()
    if latest is None or latest.visit == info.visit or info.midpoint >= latest.midpoint:
        return
    raise BadInputError(
        f"Visit {info.visit} of night {info.night} (MJD {info.midpoint:.6f} TAI) is earlier than"
        f" visit {latest.visit} of night {latest.night} (MJD {latest.midpoint:.6f} TAI), which is stored",
        f"APDB {apdb.name}, {info}",
        f"associate nights in time order: reset the APDB and begin with night {info.night},"
        " or allow visits out of order and accept gaps in the light curves",
    )


def _current(known: Columns, updated: Columns) -> dict[str, npt.NDArray[Any]]:
    """Join known objects with the new and updated ones, which win; sorted by id."""
    stay = ~np.isin(known["diaObjectId"], updated["diaObjectId"])
    joined = {
        name: np.concatenate([known[name][stay], updated[name]]) for name in ("diaObjectId", "ra", "dec")
    }
    order = np.argsort(joined["diaObjectId"])
    return {name: column[order] for name, column in joined.items()}


def _force(info: VisitInfo, objects: Columns, forced: Forced) -> dict[str, npt.NDArray[Any]]:
    """Measure the objects in the region of a detector; returns the rows of DiaForcedSource."""
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


def _stack(old: Columns, new: Columns, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.concatenate([old[name], new[name]]) for name in names}
