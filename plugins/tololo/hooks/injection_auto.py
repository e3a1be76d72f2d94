"""What the repository knows of a night that a catalogue of sources is made for: where it looked, how deep."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tololo.engine.repositories import existing, known_types
from tololo.facility.errors import NothingToDoError
from tololo.hooks.selection import INSTRUMENT

if TYPE_CHECKING:
    from astropy.table import Table
    from lsst.daf.butler import Butler

    from tololo.reduction.injection_auto import Footprint

PREFIX = "auto_"
"""Of the names of such catalogues; the night follows."""


def night_catalogue(butler: Butler, night: int, visits: str) -> Table:
    """Make the catalogue of a night: `~tololo.reduction.injection_auto.auto_catalogue`.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    night : `int`
    visits : `str`
        Collection of its visits, without injected sources.

    Raises
    ------
    NothingToDoError
        If there are no visits.
    """
    from tololo.reduction.injection_auto import auto_catalogue

    seen = footprints(butler, visits)
    if not seen:
        raise NothingToDoError(
            f"Night {night} has no visits that sources could be injected into",
            visits,
            "run nightly_decam for this night, or name a catalogue",
        )
    refs = butler.query_datasets("single_visit_star", visits, limit=None, explain=False)
    stars = {(int(ref.dataId["visit"]), int(ref.dataId["detector"])): ref for ref in refs}

    def table(item: Footprint) -> Table | None:
        ref = stars.get((item.visit, item.detector))
        return None if ref is None else butler.get(ref)

    return auto_catalogue(night, seen, table)


def footprints(butler: Butler, visits: str) -> list[Footprint]:
    """Return the calibrated detectors of a collection of visits whose depth is known, in order."""
    from tololo.reduction.injection_auto import Footprint

    if not existing(butler, [visits])[0] or not known_types(butler, ["visit_summary"]):
        return []
    refs = butler.query_datasets("visit_summary", visits, limit=None, explain=False)
    if not refs:
        return []
    numbers = sorted({int(ref.dataId["visit"]) for ref in refs})
    records = butler.query_dimension_records(
        "visit_detector_region",
        instrument=INSTRUMENT,
        where=f"visit IN ({', '.join(map(str, numbers))})",
        limit=None,
        explain=False,
    )
    regions = {(int(r.visit), int(r.detector)): r.region for r in records if r.region is not None}
    found = []
    for ref in refs:
        for row in butler.get(ref):
            key, depth = (int(row["visit"]), int(row["detector"])), float(row["limiting_magnitude"])
            if key in regions and math.isfinite(depth):
                found.append(Footprint(*key, str(row["band"]), regions[key], depth))
    return sorted(found, key=lambda item: (item.visit, item.detector))
