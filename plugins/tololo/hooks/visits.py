"""Visits of exposures that came without: one exposure is one visit.

Ingest of InstCal exposures defines theirs from the WCS of each image. What is defined here is for exposures
that came another way (raws, a transfer): the sky of each detector follows from the pointing and the camera's
nominal geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tololo.facility.errors import BadInputError
from tololo.hooks.selection import INSTRUMENT, qualified

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DimensionRecord

_SHARED = (
    "physical_filter",
    "day_obs",
    "seq_num",
    "exposure_time",
    "target_name",
    "observation_reason",
    "science_program",
    "azimuth",
    "zenith_angle",
    "timespan",
)


@dataclass(frozen=True)
class VisitsReport:
    """What a definition of visits did.

    Attributes
    ----------
    defined : `tuple` [`int`, ...]
        Visits that are new.
    known : `int`
        Exposures that had their visit before.
    skipped : `tuple` [`str`, ...]
        Exposures that can have none, and why.
    """

    defined: tuple[int, ...]
    known: int
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        return f"Visits defined {len(self.defined)}, known {self.known}" + (
            f"; none for {'; '.join(self.skipped)}" if self.skipped else ""
        )


def define_visits(butler: Butler, where: str = "", *, dry_run: bool = False) -> VisitsReport:
    """Define the visits of exposures on the sky, as ``butler define-visits`` does.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    where : `str`, optional
        Which exposures, in the Butler's query language; all unless given.
    dry_run : `bool`, optional
        Say what would be defined; write nothing.

    Returns
    -------
    report : `VisitsReport`

    Raises
    ------
    BadInputError
        If the condition cannot be understood.
    """
    defined = {
        record.exposure
        for record in butler.query_dimension_records(
            "visit_definition", instrument=INSTRUMENT, limit=None, explain=False
        )
    }
    exposures = _exposures(butler, where)
    new, skipped = [], []
    for exposure in exposures:
        if exposure.id in defined:
            continue
        if reason := _off_sky(exposure):
            skipped.append(f"exposure {exposure.id} ({reason})")
            continue
        if not dry_run:
            _define(butler, exposure)
        new.append(exposure.id)
    return VisitsReport(tuple(new), len(exposures) - len(new) - len(skipped), tuple(skipped))


def _exposures(butler: Butler, where: str) -> list[DimensionRecord]:
    from lsst.daf.butler import InvalidQueryError
    from lsst.daf.butler.registry import UserExpressionError

    try:
        return butler.query_dimension_records(
            "exposure",
            where=qualified(where),
            instrument=INSTRUMENT,
            order_by="exposure",
            limit=None,
            explain=False,
        )
    except (InvalidQueryError, UserExpressionError) as error:
        raise BadInputError(
            f"The data query cannot be understood: {error}",
            f"where {where!r} on exposures",
            "write it as the Butler does: exposure.day_obs = 20190401",
        ) from error


def _off_sky(exposure: DimensionRecord) -> str:
    """Say why an exposure has no visit, or nothing."""
    if exposure.can_see_sky is False:
        return str(exposure.observation_type)
    if exposure.tracking_ra is None or exposure.tracking_dec is None:
        return "no pointing"
    return ""


def _define(butler: Butler, exposure: DimensionRecord) -> None:
    """Write the records of a visit, all or none; those that are there stay."""
    from tololo.reduction.instrument.pointing import nominal_regions
    from tololo.reduction.records import Visit, insert_visits

    record = {name: getattr(exposure, name) for name in _SHARED} | {
        "instrument": INSTRUMENT,
        "id": exposure.id,
        "name": exposure.obs_id,
    }
    regions = nominal_regions(exposure.tracking_ra, exposure.tracking_dec)
    with butler.transaction():
        insert_visits(butler, [Visit(record, regions)])
