"""The visits that could go into a template, with what is known of each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from tololo.engine.repositories import known_types
from tololo.facility.template_selection import Candidate
from tololo.facility.templates import median
from tololo.hooks.scorecard import verdicts
from tololo.hooks.selection import INSTRUMENT

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef
    from lsst.sphgeom import Region

PLACES = 8
"""Level of the HTM triangles (0.3 degrees wide) by which visits are compared that cover the same sky."""


def visit_images(butler: Butler, chains: Sequence[str], where: str) -> list[DatasetRef]:
    """Return the visit images of some chains that a data query chooses."""
    if not chains or not known_types(butler, ["visit_image"]):
        return []
    query = f"instrument = '{INSTRUMENT}' AND ({where})" if where else f"instrument = '{INSTRUMENT}'"
    return list(
        butler.query_datasets("visit_image", chains, where=query, find_first=True, limit=None, explain=False)
    )


def candidates(
    butler: Butler, chains: Sequence[str], refs: Collection[DatasetRef]
) -> tuple[list[Candidate], list[int]]:
    """Tell what is known of visits.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    chains : sequence of `str`
        ``{night}/{proc_type}``, where the images are.
    refs : collection of `lsst.daf.butler.DatasetRef`
        Their images. Seeing and depth are the medians over these detectors in ``visit_summary``.

    Returns
    -------
    candidates : `list` [`~tololo.facility.template_selection.Candidate`]
    unscored : `list` [`int`]
        Nights without a scorecard.
    """
    from tololo.reduction.instrument.filters import band_of

    detectors: defaultdict[int, set[int]] = defaultdict(set)
    for ref in refs:
        detectors[int(ref.dataId["visit"])].add(int(ref.dataId["detector"]))
    said: dict[int, str] = {}
    unscored = []
    for chain in chains:
        night, _, proc_type = chain.partition("/")
        words = verdicts(butler, night, proc_type)
        said |= words
        unscored += [] if words else [int(night)]
    measured = _measured(butler, chains, detectors)
    records = butler.query_dimension_records(
        "visit", instrument=INSTRUMENT, where=_in(detectors), limit=None, explain=False
    )
    found = [
        Candidate(
            visit=int(record.id),
            night=int(record.day_obs),
            band=band_of(record.physical_filter),
            seeing=measured.get(record.id, _UNKNOWN)[0],
            depth=measured.get(record.id, _UNKNOWN)[1],
            verdict=said.get(int(record.id), ""),
            places=_places(record.region),
        )
        for record in records
    ]
    nights = {item.night for item in found}
    return sorted(found, key=lambda item: item.visit), sorted(set(unscored) & nights)


_UNKNOWN = (math.nan, math.nan)


def _measured(
    butler: Butler, chains: Sequence[str], detectors: dict[int, set[int]]
) -> dict[int, tuple[float, float]]:
    """Return seeing (arcsec) and depth (AB magnitude) by visit."""
    if not known_types(butler, ["visit_summary"]):
        return {}
    refs = butler.query_datasets(
        "visit_summary",
        chains,
        where=f"instrument = '{INSTRUMENT}' AND {_in(detectors)}",
        limit=None,
        explain=False,
    )
    measured = {}
    for ref in refs:
        visit = int(ref.dataId["visit"])
        rows = [row for row in butler.get(ref) if int(row["detector"]) in detectors[visit]]
        seeing, depth = (median(float(row[name]) for row in rows) for name in ("fwhm", "limiting_magnitude"))
        measured[visit] = seeing, depth
    return measured


def _places(region: Region | None) -> frozenset[int]:
    """Return the HTM triangles that a region touches."""
    from lsst.sphgeom import HtmPixelization

    if region is None:
        return frozenset()
    ranges = HtmPixelization(PLACES).envelope(region).ranges()
    return frozenset(number for first, last in ranges for number in range(first, last))


def _in(visits: Collection[int]) -> str:
    return f"visit IN ({', '.join(map(str, sorted(visits)))})"
