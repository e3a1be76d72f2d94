"""Calibrations that a night can choose from: its own with their verdicts, and those that others accepted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import find_collection, known_types
from tololo.facility import collections
from tololo.facility.calibrations import CalibrationKey, Limits, nights_within, reasons_against, validity
from tololo.hooks.calibrations import certifications
from tololo.hooks.selection import data_ids
from tololo.hooks.validity import parse_validity

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef, Timespan

type Refs = dict[CalibrationKey, DatasetRef]


@dataclass(frozen=True)
class Certified:
    """What a night's collection holds for that night.

    ``night`` is the night whose reduction made it; `None` for what was brought in by hand.
    """

    ref: DatasetRef
    timespan: Timespan
    night: int | None


@dataclass(frozen=True)
class Own:
    """What a night's own runs made.

    Attributes
    ----------
    good : `dict`
        The newest that is good enough, by key.
    why : `dict`
        Why the newest is not, by key.
    rejected : `list` [`dict`]
        The same for people: ``physical_filter``, ``reason``, ``run``, ``detectors``.
    """

    good: Refs = field(default_factory=dict)
    why: dict[CalibrationKey, str] = field(default_factory=dict)
    rejected: list[dict[str, Any]] = field(default_factory=list)


def needed_by(butler: Butler, kind: str, raws: Iterable[str], where: str) -> set[CalibrationKey]:
    """Return what raws need: their detectors, for a flat with their filters.

    Raises
    ------
    BadInputError
        If the data query cannot be understood.
    """
    rows = data_ids(butler, "raw", raws, ("exposure", "detector", "physical_filter"), where)
    return {CalibrationKey(row["detector"], row["physical_filter"] if kind == "flat" else "") for row in rows}


def own(butler: Butler, night: int, kind: str, limits: Limits) -> Own:
    """Judge what the night's own runs made, newest first, by the metrics that were made with it."""
    found = Own()
    runs = runs_below(butler, collections.chain(kind, night))
    if not runs or not known_types(butler, [kind]):
        return found
    order = {run: place for place, run in enumerate(runs)}
    metrics = {(ref.run, ref.dataId): ref for ref in _all(butler, f"{kind}_metrics", runs)}
    groups: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for ref in sorted(_all(butler, kind, runs), key=lambda ref: (order[ref.run], ref)):
        key = key_of(ref)
        if key in found.good:
            continue
        rows = _rows(butler, metrics.get((ref.run, ref.dataId)))
        reason = "; ".join(reasons_against(kind, rows, limits))
        if not reason:
            found.good[key] = ref
        else:
            found.why.setdefault(key, reason)
            groups[key.physical_filter, reason, ref.run].append(key.detector)
    found.rejected.extend(
        {"physical_filter": glass, "reason": reason, "run": run, "detectors": sorted(detectors)}
        for (glass, reason, run), detectors in sorted(groups.items())
    )
    return found


def certified_for(butler: Butler, night: int, kind: str) -> dict[CalibrationKey, Certified]:
    """Return what a night's collection holds for the night."""
    if not known_types(butler, [kind]):
        return {}
    timespan = parse_validity(validity(night))
    return {
        key_of(item.ref): Certified(item.ref, item.timespan, made_in(item.ref.run, kind))
        for item in certifications(butler, collections.calib(night, kind), kind)
        if item.timespan is not None and item.timespan.overlaps(timespan)
    }


def accepted_near(butler: Butler, night: int, kind: str, max_age: int) -> Mapping[int, Refs]:
    """Return what other nights within some days have certified of their own."""
    there = set(butler.collections.query(f"*/calib/{kind}"))
    found: dict[int, Refs] = {}
    for other in nights_within(night, max_age):
        if collections.calib(other, kind) in there:
            accepted = certified_for(butler, other, kind)
            refs = {key: item.ref for key, item in accepted.items() if item.night in (None, other)}
            found |= {other: refs} if refs else {}
    return found


def certified_for_all(butler: Butler, night: int, kind: str) -> set[CalibrationKey]:
    """Return what the chain that every night reads has certified for the whole time."""
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    if find_collection(butler, collections.CALIBS) is None or not known_types(butler, [kind]):
        return set()
    timespan = parse_validity(validity(night))
    names = butler.collections.query(collections.CALIBS, CollectionType.CALIBRATION, flatten_chains=True)
    return {
        key_of(item.ref)
        for name in names
        for item in certifications(butler, name, kind)
        if item.timespan is not None and item.timespan.contains(timespan)
    }


def runs_below(butler: Butler, parent: str) -> list[str]:
    """List the RUNs below a name, newest first."""
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    runs = butler.collections.query(f"{parent}/*", collection_types=CollectionType.RUN)
    return collections.newest_first(runs)


def key_of(ref: DatasetRef) -> CalibrationKey:
    """Return what a calibration is for."""
    values = dict(ref.dataId.required)
    return CalibrationKey(int(values["detector"]), str(values.get("physical_filter", "")))


def made_in(run: str, kind: str) -> int | None:
    """Return the night whose reduction wrote a RUN, `None` for any other RUN."""
    first, *rest = run.split("/")
    return int(first) if first.isdigit() and len(first) == 8 and rest[:1] == [kind] else None


def _all(butler: Butler, kind: str, runs: list[str]) -> list[DatasetRef]:
    if not known_types(butler, [kind]):
        return []
    return butler.query_datasets(kind, runs, find_first=False, limit=None, explain=False)


def _rows(butler: Butler, ref: DatasetRef | None) -> list[dict[str, Any]]:
    if ref is None:
        return []
    table = butler.get(ref)
    return [dict(zip(table.colnames, row, strict=True)) for row in table]
