"""Dimension records of raw exposures, and of the visits of those of the sky."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from astropy.time import Time, TimeDelta
from lsst.daf.butler import DataCoordinate, Timespan
from lsst.sphgeom import ConvexPolygon

from tololo.facility.nights import night_bounds

from .instrument.decam import VISIT_SYSTEM
from .instrument.detectors import INSTRUMENT
from .instrument.pointing import nominal_regions

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DimensionGroup, DimensionRecord

    from .formats.raw_exposure import RawExposure

type Records = dict[str, Any]

_NAME = 64  # characters that the registry keeps of a name
_REASON = 68


def records_of(butler: Butler, element: str, expnums: Iterable[int]) -> list[DimensionRecord]:
    """Ask once for the ``exposure`` or ``visit`` records of these numbers."""
    numbers = sorted(set(expnums))
    if not numbers:
        return []
    return butler.query_dimension_records(
        element,
        where=f"instrument = :camera AND {element} IN (:numbers)",
        bind={"camera": INSTRUMENT, "numbers": numbers},
        limit=None,
        explain=False,
    )


def data_ids(
    butler: Butler, exposures: Sequence[RawExposure], dimensions: DimensionGroup
) -> Iterator[tuple[RawExposure, int, DataCoordinate]]:
    """Yield exposures and detectors with their data IDs, expanded: the Butler would do so one by one.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    exposures : sequence of `~tololo.reduction.formats.raw_exposure.RawExposure`
        The registry has their records.
    dimensions : `lsst.daf.butler.DimensionGroup`
        Those of a raw.
    """
    numbers = [exposure.exposure for exposure in exposures]
    found = butler.query_data_ids(
        "exposure",
        where="instrument = :camera AND exposure IN (:numbers)",
        bind={"camera": INSTRUMENT, "numbers": numbers},
        with_dimension_records=True,
        limit=None,
        explain=False,
    )
    expanded = {int(data_id["exposure"]): data_id for data_id in found}
    ccds = {
        record.id: record
        for record in butler.query_dimension_records("detector", instrument=INSTRUMENT, explain=False)
    }
    for exposure in exposures:
        own = expanded[exposure.exposure]
        records = {element: own.records[element] for element in own.dimensions.elements}
        for detector in exposure.detectors:
            values = tuple(
                detector if name == "detector" else own[name] for name in dimensions.data_coordinate_keys
            )
            yield (
                exposure,
                detector,
                DataCoordinate.from_full_values(dimensions, values).expanded(
                    records | {"detector": ccds[detector]}
                ),
            )


def insert_records(butler: Butler, exposures: Sequence[RawExposure]) -> None:
    """Write what the registry has to know about exposures; what is there stays.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, in a transaction.
    exposures : sequence of `~tololo.reduction.formats.raw_exposure.RawExposure`

    Notes
    -----
    The visit of an exposure is defined with all 62 detectors, also where the file lacks some. One that was
    defined by an InstCal of the same exposure keeps its regions, which are better; its own is widened.
    """
    nights = sorted({exposure.day_obs for exposure in exposures})
    insert = butler.registry.insertDimensionData
    insert("day_obs", *map(_night, nights), skip_existing=True)
    groups = sorted({exposure.group for exposure in exposures})
    insert("group", *({"instrument": INSTRUMENT, "name": name} for name in groups), skip_existing=True)
    insert("exposure", *map(exposure_record, exposures), skip_existing=True)
    if science := [exposure for exposure in exposures if exposure.is_science]:
        _insert_visits(butler, science)


def exposure_record(exposure: RawExposure) -> Records:
    """Return the ``exposure`` record of a raw."""
    return _common(exposure) | {
        "obs_id": exposure.obs_id[:_NAME],
        "group": exposure.group,
        "dark_time": exposure.dark_time,
        "observation_type": exposure.observation_type,
        "seq_start": exposure.exposure,
        "seq_end": exposure.exposure,
        "tracking_ra": exposure.ra,
        "tracking_dec": exposure.dec,
        "sky_angle": exposure.sky_angle,
        "has_simulated": exposure.has_simulated,
        "can_see_sky": exposure.can_see_sky,
    }


def _common(exposure: RawExposure) -> Records:
    """Return what exposure and visit have in common."""
    begin = Time(exposure.begin, format="mjd", scale="tai")
    return {
        "instrument": INSTRUMENT,
        "id": exposure.exposure,
        "physical_filter": exposure.physical_filter,
        "day_obs": exposure.day_obs,
        "seq_num": exposure.exposure,
        "exposure_time": exposure.exposure_time,
        "target_name": exposure.target[:_NAME] or "unknown",
        "observation_reason": exposure.observation_reason[:_REASON],
        "science_program": exposure.program[:_NAME] or "unknown",
        "azimuth": exposure.azimuth,
        "zenith_angle": exposure.zenith_angle,
        "timespan": Timespan(begin, begin + TimeDelta(exposure.exposure_time, format="sec")),
    }


def _night(night: int) -> Records:
    begin, end = (Time(time, scale="utc").tai for time in night_bounds(night))
    return {"instrument": INSTRUMENT, "id": night, "timespan": Timespan(begin, end)}


def _insert_visits(butler: Butler, exposures: Sequence[RawExposure]) -> None:
    registry = butler.registry
    known = {record.id: record for record in records_of(butler, "visit", (e.exposure for e in exposures))}
    visits: list[Records] = []
    keys: list[Records] = []
    regions: list[Records] = []
    for exposure in exposures:
        assert exposure.ra is not None  # or it would have been rejected
        assert exposure.dec is not None
        key = {"instrument": INSTRUMENT, "visit": exposure.exposure}
        own = nominal_regions(exposure.ra, exposure.dec)
        corners = [vertex for region in own.values() for vertex in region.getVertices()]
        before = known.get(exposure.exposure)
        if before is not None and before.region is not None:
            corners += before.region.getVertices()
        visit = _common(exposure) | {
            "name": exposure.obs_id[:_NAME],
            "region": ConvexPolygon.convexHull(corners),
        }
        if before is None:
            visits.append(visit)
        else:
            wider = before.toDict() | {"region": visit["region"]}
            registry.syncDimensionData("visit", wider, update=True)
        keys.append(key)
        regions += [key | {"detector": ccd, "region": region} for ccd, region in own.items()]
    registry.insertDimensionData("visit", *visits, skip_existing=True)
    memberships = [key | {"visit_system": VISIT_SYSTEM} for key in keys]
    registry.insertDimensionData("visit_system_membership", *memberships, skip_existing=True)
    registry.insertDimensionData("visit_detector_region", *regions, skip_existing=True)
    definitions = [key | {"exposure": key["visit"]} for key in keys]
    registry.insertDimensionData("visit_definition", *definitions, skip_existing=True)
