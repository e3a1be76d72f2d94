"""Dimension records of nights, exposures and visits, written once for all that defines them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from astropy.time import Time
from lsst.daf.butler import DataCoordinate, Timespan
from lsst.sphgeom import ConvexPolygon

from tololo.facility.nights import night_bounds

from .instrument.decam import VISIT_SYSTEM
from .instrument.detectors import INSTRUMENT

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DimensionGroup, DimensionRecord

type Record = dict[str, Any]

NAME = 64
"""Characters that the registry keeps of a name."""


@dataclass(frozen=True)
class Visit:
    """A visit that is to be: one exposure is one visit, and their numbers are the same.

    Attributes
    ----------
    record : `dict`
        Its record, without the region.
    regions : `~collections.abc.Mapping` [`int`, `lsst.sphgeom.ConvexPolygon`]
        The sky that each of its detectors sees, by CCDNUM.
    """

    record: Record
    regions: Mapping[int, ConvexPolygon]


def records_of(butler: Butler, element: str, numbers: Iterable[int]) -> list[DimensionRecord]:
    """Ask once for the ``exposure`` or ``visit`` records of these numbers."""
    wanted = sorted(set(numbers))
    if not wanted:
        return []
    return butler.query_dimension_records(
        element,
        where=f"instrument = :camera AND {element} IN (:numbers)",
        bind={"camera": INSTRUMENT, "numbers": wanted},
        limit=None,
        explain=False,
    )


def data_ids(
    butler: Butler, detectors: Mapping[int, Iterable[int]], dimensions: DimensionGroup
) -> Iterator[tuple[int, int, DataCoordinate]]:
    """Yield exposures and detectors with their data IDs, expanded: the Butler would do so one by one.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    detectors : `~collections.abc.Mapping`
        Detectors by exposure; the registry has their records.
    dimensions : `lsst.daf.butler.DimensionGroup`
        Those of instrument, exposure and detector.
    """
    found = butler.query_data_ids(
        "exposure",
        where="instrument = :camera AND exposure IN (:numbers)",
        bind={"camera": INSTRUMENT, "numbers": sorted(detectors)},
        with_dimension_records=True,
        limit=None,
        explain=False,
    )
    expanded = {int(data_id["exposure"]): data_id for data_id in found}
    ccds = {
        record.id: record
        for record in butler.query_dimension_records("detector", instrument=INSTRUMENT, explain=False)
    }
    for exposure, numbers in detectors.items():
        own = expanded[exposure]
        records = {element: own.records[element] for element in own.dimensions.elements}
        for detector in numbers:
            values = tuple(
                detector if name == "detector" else own[name] for name in dimensions.data_coordinate_keys
            )
            data_id = DataCoordinate.from_full_values(dimensions, values)
            yield exposure, detector, data_id.expanded(records | {"detector": ccds[detector]})


def insert_exposures(butler: Butler, exposures: Sequence[Record]) -> None:
    """Write the records of exposures, of their nights and groups; what is there stays.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, in a transaction.
    exposures : sequence of `dict`
        Records of ``exposure``.
    """
    insert = butler.registry.insertDimensionData
    insert("day_obs", *map(_night, sorted({record["day_obs"] for record in exposures})), skip_existing=True)
    groups = sorted({record["group"] for record in exposures})
    insert("group", *({"instrument": INSTRUMENT, "name": name} for name in groups), skip_existing=True)
    insert("exposure", *exposures, skip_existing=True)


def insert_visits(butler: Butler, visits: Sequence[Visit]) -> None:
    """Write the records that visits need.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, in a transaction; it has the exposures.
    visits : sequence of `Visit`

    Notes
    -----
    What is there stays, also the region of a detector. That of the visit becomes wider where it has to:
    a detector has come later, or a raw of what was defined by an InstCal of one detector.
    """
    if not visits:
        return
    registry = butler.registry
    known = {record.id: record for record in records_of(butler, "visit", (v.record["id"] for v in visits))}
    new: list[Record] = []
    regions: list[Record] = []
    keys: list[Record] = []
    for visit in visits:
        key = {"instrument": INSTRUMENT, "visit": visit.record["id"]}
        keys.append(key)
        regions += [key | {"detector": ccd, "region": region} for ccd, region in visit.regions.items()]
        before = known.get(visit.record["id"])
        if before is None:
            new.append(visit.record | {"region": _hull(visit.regions.values())})
        else:
            wider = _hull([*visit.regions.values(), *filter(None, [before.region])])
            registry.syncDimensionData("visit", before.toDict() | {"region": wider}, update=True)
    insert = registry.insertDimensionData
    insert("visit", *new, skip_existing=True)
    insert("visit_system_membership", *(k | {"visit_system": VISIT_SYSTEM} for k in keys), skip_existing=True)
    insert("visit_detector_region", *regions, skip_existing=True)
    insert("visit_definition", *(key | {"exposure": key["visit"]} for key in keys), skip_existing=True)


def _night(night: int) -> Record:
    begin, end = (Time(time, scale="utc").tai for time in night_bounds(night))
    return {"instrument": INSTRUMENT, "id": night, "timespan": Timespan(begin, end)}


def _hull(regions: Iterable[ConvexPolygon]) -> ConvexPolygon:
    """Return the convex polygon around some."""
    return ConvexPolygon.convexHull([vertex for region in regions for vertex in region.getVertices()])
