"""Association of the diaSources of a visit with the diaObjects of a campaign.

Matching and summaries are plain array work; where the rows live is behind `Catalogue`, so that this module
knows no database. Visits come in time order: an object is born with the first source that no object explains.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from tololo.facility.errors import BadInputError
from tololo.facility.nights import night_of_mjd_tai
from tololo.reduction.dia_objects import (
    FORCED_HISTORY,
    HISTORY,
    Columns,
    Integers,
    mean_positions,
    summarise,
)
from tololo.reduction.forced_rows import Forced, measure_forced
from tololo.reduction.matching import match_sources
from tololo.reduction.source_selection import SourceSelection, checked_sources

if TYPE_CHECKING:
    from astropy.table import Table
    from lsst.sphgeom import Region

type LateNights = Literal["refuse", "replay"]

DEFAULT_RADIUS = 1.0
KNOWN_RADIUS = 2.0
_log = logging.getLogger("tololo.apdb")


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

    def __post_init__(self) -> None:
        # SQLite takes a number of numpy's for something else than the same number.
        for name, kind in (("visit", int), ("detector", int), ("midpoint", float)):
            object.__setattr__(self, name, kind(getattr(self, name)))

    @property
    def night(self) -> int:
        """The observing night, YYYYMMDD."""
        return night_of_mjd_tai(self.midpoint)

    def __str__(self) -> str:
        return f"night {self.night}, visit {self.visit}, detector {self.detector}"


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
        """Sources that belong to an object, or are a body, known before."""
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

    def waiting(self) -> Sequence[int]:
        """Return the nights that were withdrawn and have to be associated again."""

    def later_than(self, midpoint: float) -> Collection[tuple[int, int]]:
        """Return visit and detector of what `withdraw_after` would take out."""

    def withdraw_after(self, midpoint: float) -> Any:
        """Take out all visits after a time (MJD TAI); they wait to be associated again."""

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
    known_bodies: Table | None = None,
    known_radius: float = KNOWN_RADIUS,
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
        The diaSources; at least the columns of `~tololo.reduction.source_selection.REQUIRED`. Others are
        stored where the schema has them.
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
    known_bodies : `astropy.table.Table`, optional
        Ephemerides (`tololo.reduction.ephemerides`). A source at the place of a known body carries its
        ``ssObjectId``; it belongs to no diaObject and makes none.
    known_radius : `float`, optional
        How near to its ephemeris a body is expected, arcsec.

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

        chosen["ssObjectId"] = bodies = _bodies(chosen, info, known_bodies, known_radius)
        fixed = {name: column[bodies == 0] for name, column in chosen.items()}
        match = match_sources(fixed, known, radius)
        new = match < 0
        ids = fixed["diaSourceId"].copy()
        ids[~new] = known["diaObjectId"][match[~new]]
        fixed["diaObjectId"] = ids
        chosen["diaObjectId"] = np.zeros(len(bodies), dtype=np.int64)
        chosen["diaObjectId"][bodies == 0] = ids
        updated = np.unique(ids)
        old_sources, old_forced = apdb.history(np.unique(ids[~new]))
        history = _stack(old_sources, fixed, HISTORY)
        objects = mean_positions(updated, history)

        forced_rows = measure_forced(info, _current(known, objects), forced)
        forced_history = _stack(old_forced, forced_rows, FORCED_HISTORY)
        objects |= summarise(updated, history, forced_history, bands)
        result = AssociationResult(
            info.visit,
            info.detector,
            info.night,
            already_stored=False,
            sources=len(bodies),
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
    late_nights: LateNights = "refuse",
    known_bodies: Table | None = None,
    known_radius: float = KNOWN_RADIUS,
) -> list[AssociationResult]:
    """Associate detectors of visits in time order, whatever order they come in.

    Each detector of a visit is one transaction, so a run that was killed goes on where it stopped. Rows of
    what is stored already are not loaded. Other parameters and errors are those of `associate_visit`; a night
    that must be refused for its order is refused before anything of it is written.

    Parameters
    ----------
    late_nights : `str`, optional
        What becomes of visits that are stored already and later than one of these that is not: ``refuse``
        this one, or ``replay``: take them out, store this one, and let them wait to be associated again.
        Those that are among ``visits`` are associated again at once; where all of them are, of the same
        night, that is done whatever the choice: a night of which a part was stored is completed.

    Returns
    -------
    results : `list` [`AssociationResult`]
        In the order of time, visit, detector.
    """
    results = []
    ordered = sorted(visits, key=lambda v: (v.info.midpoint, v.info.visit, v.info.detector))
    if late_nights == "replay" or not out_of_order:
        _make_room(apdb, [item.info for item in ordered], late_nights)
    for item in ordered:
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
                known_bodies=known_bodies,
                known_radius=known_radius,
            )
        results.append(result)
    return results


def _make_room(apdb: Catalogue, visits: Sequence[VisitInfo], late_nights: LateNights) -> None:
    """Take out what is stored and later than the first of some visits in time order that is not."""
    latest = apdb.latest()
    missing = next((info for info in visits if apdb.stored(info.visit, info.detector) is None), None)
    if latest is None or missing is None or missing.midpoint >= latest.midpoint:
        return
    if late_nights == "refuse":
        given = {(info.visit, info.detector) for info in visits if info.night == missing.night}
        later = apdb.later_than(missing.midpoint)
        if not later or not given.issuperset(later):
            return  # `_check_order` says so
    _check_waiting(apdb, missing)
    withdrawn = apdb.withdraw_after(missing.midpoint)
    _log.warning("%s is late: taken out, to be associated again: %s", missing, withdrawn)


def _check_waiting(apdb: Catalogue, info: VisitInfo) -> None:
    if earlier := [night for night in apdb.waiting() if night < info.night]:
        raise BadInputError(
            f"Night {earlier[0]} was withdrawn from the APDB and has to be associated again before"
            f" night {info.night}",
            f"APDB {apdb.name}, {info}",
            f"run difference_imaging for night {earlier[0]}, or withdraw it for good",
        )


def _check_order(apdb: Catalogue, info: VisitInfo) -> None:
    _check_waiting(apdb, info)
    latest = apdb.latest()
    if latest is None or latest.visit == info.visit or info.midpoint >= latest.midpoint:
        return
    raise BadInputError(
        f"Visit {info.visit} of night {info.night} (MJD {info.midpoint:.6f} TAI) is earlier than"
        f" visit {latest.visit} of night {latest.night} (MJD {latest.midpoint:.6f} TAI), which is stored",
        f"APDB {apdb.name}, {info}",
        "set late_nights to replay, so that what is later is taken out and associated again after it,"
        " or leave this night out",
    )


def _bodies(sources: Columns, info: VisitInfo, table: Table | None, radius: float) -> Integers:
    """Return the ``ssObjectId`` of the known body that each source is, 0 for none; shape ``(n,)``."""
    if table is None:
        return np.zeros(len(sources["ra"]), dtype=np.int64)
    from tololo.reduction.ephemerides import match_ephemerides

    return match_ephemerides(sources["ra"], sources["dec"], info.midpoint, table, radius)


def _current(known: Columns, updated: Columns) -> dict[str, npt.NDArray[Any]]:
    """Join known objects with the new and updated ones, which win; sorted by id."""
    stay = ~np.isin(known["diaObjectId"], updated["diaObjectId"])
    joined = {
        name: np.concatenate([known[name][stay], updated[name]]) for name in ("diaObjectId", "ra", "dec")
    }
    order = np.argsort(joined["diaObjectId"])
    return {name: column[order] for name, column in joined.items()}


def _stack(old: Columns, new: Columns, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.concatenate([old[name], new[name]]) for name in names}
