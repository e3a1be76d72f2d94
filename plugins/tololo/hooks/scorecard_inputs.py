"""What the scorecard of a night is made from, as the Butler knows it: what was asked for, done and failed."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import existing, known_types
from tololo.facility import collections
from tololo.facility.calibrations import days_between
from tololo.hooks.calibration_candidates import made_in
from tololo.hooks.night_calibrations import read_record
from tololo.hooks.scorecard_failures import Failure, Place, by_reason, failures, missing, told
from tololo.hooks.selection import INSTRUMENT, data_ids

if TYPE_CHECKING:
    from astropy.table import Table
    from lsst.daf.butler import Butler, DimensionRecord

    from tololo.facility.run import RunOutcome
    from tololo.reduction.scorecard import Visit

_RAW = {"drp": "raw", "instcal": "instcal_image"}
_KINDS = {"drp": ("bias", "flat"), "instcal": ()}


@dataclass(frozen=True)
class NightInputs:
    """All that a scorecard needs.

    ``visits`` are those that were asked for, with the rows of ``detector_summary`` of what there is;
    ``rest`` are the parts of ``night_summary`` that do not follow from the scorecard.
    """

    visits: list[tuple[Visit, Table | None]]
    rest: dict[str, Any] = field(default_factory=dict)


def gather(butler: Butler, night: int, proc_type: str, where: str = "") -> NightInputs:
    """Find out what was asked for in a night, and what came of it.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    night : `int`
    proc_type : `str`
        ``drp`` or ``instcal``, also with ``_injected``.
    where : `str`, optional
        Data query on the raws that were asked for; what a run has tried before counts as well.

    Returns
    -------
    inputs : `NightInputs`
        Each visit should have all detectors that any of the night's visits was asked for.

    Raises
    ------
    BadInputError
        If the data query cannot be understood.
    """
    chain, base = collections.chain(proc_type, night), proc_type.removesuffix(collections.INJECTED)
    raws = _raws(butler, base, night)
    made = _summaries(butler, chain)
    parents = [chain, *(collections.chain(kind, night) for kind in _KINDS[base])]
    outcomes = {parent: _outcomes(butler, parent) for parent in parents}
    failing = {parent: failures(butler, parent, outcomes[parent]) for parent in parents}
    failed = {item.place: item for item in failing[chain] if item.place}
    tried = {(visit, int(row)) for visit, rows in made.items() for row in rows["detector"]} | failed.keys()
    wanted = (_raws(butler, base, night, where) if where.strip() else raws) | tried
    summaries = _tagged(made, raws) if raws else made
    done = {(visit, int(row)) for visit, rows in summaries.items() for row in rows["detector"]}
    detectors = {detector for _, detector in wanted}
    lacking = missing({visit for visit, _ in wanted}, detectors, done, raws, failed)
    records = _exposures(butler, {visit for visit, _ in wanted})
    used = {visit: _calibrations(summaries.get(visit), records[visit], base) for visit in records}
    visits = [
        (_visit(record, night, len(detectors), used[visit], lacking[visit]), summaries.get(visit))
        for visit, record in sorted(records.items())
    ]
    others = [item for parent in parents for item in failing[parent] if item.place is None]
    rest = {
        "night": night,
        "proc_type": proc_type,
        "detectors": _completeness(detectors, list(records), done),
        "calibrations": _uses(butler, night, used),
        "failures": by_reason([*others, *(item for items in lacking.values() for item in items)]),
        "seconds": _seconds(butler, outcomes),
    }
    return NightInputs(visits, rest)


def _raws(butler: Butler, base: str, night: int, where: str = "") -> set[Place]:
    """Return exposure and detector of what was ingested for the night."""
    rows = data_ids(
        butler,
        _RAW[base],
        [collections.raws(collections.chain(base, night))],
        ("exposure", "detector"),
        where,
    )
    return {(int(row["exposure"]), int(row["detector"])) for row in rows}


def _summaries(butler: Butler, chain: str) -> dict[int, Table]:
    """Return the rows of ``detector_summary`` by visit; one file a visit is read where there is one."""
    from astropy.table import vstack

    there, _ = existing(butler, [chain])
    if not there or not known_types(butler, ["detector_summary"]):
        return {}
    refs = butler.query_datasets("detector_summary", there, limit=None, explain=False)
    by_visit: defaultdict[int, dict[int, Any]] = defaultdict(dict)
    for ref in refs:
        by_visit[int(ref.dataId["visit"])][int(ref.dataId["detector"])] = ref
    whole = {}
    if known_types(butler, ["visit_summary"]):
        found = butler.query_datasets("visit_summary", there, limit=None, explain=False)
        whole = {int(ref.dataId["visit"]): ref for ref in found}
    tables = {}
    for visit, by_detector in by_visit.items():
        parts = []
        if visit in whole:
            table = butler.get(whole[visit])
            parts.append(table[[int(detector) in by_detector for detector in table["detector"]]])
        known = {int(detector) for part in parts for detector in part["detector"]}
        parts += [butler.get(ref) for detector, ref in sorted(by_detector.items()) if detector not in known]
        tables[visit] = vstack(parts, metadata_conflicts="silent")
    return tables


def _tagged(summaries: Mapping[int, Table], raws: set[Place]) -> dict[int, Table]:
    """Leave out what was calibrated before its raw was found to be bad, and taken out of the night."""
    return {
        visit: rows[[(visit, int(detector)) in raws for detector in rows["detector"]]]
        for visit, rows in summaries.items()
    }


def _outcomes(butler: Butler, parent: str) -> list[RunOutcome]:
    from tololo.engine.outcomes import read_outcomes

    return read_outcomes(butler, parent)


def _exposures(butler: Butler, visits: set[int]) -> dict[int, DimensionRecord]:
    if not visits:
        return {}
    records = butler.query_dimension_records(
        "exposure",
        instrument=INSTRUMENT,
        where=f"exposure IN ({', '.join(map(str, sorted(visits)))})",
        limit=None,
        explain=False,
    )
    return {int(record.id): record for record in records}


def _visit(
    record: DimensionRecord,
    night: int,
    expected: int,
    used: Mapping[tuple[str, str, int | None], list[int]],
    lacking: list[Failure],
) -> Visit:
    from tololo.reduction.instrument.filters import band_of
    from tololo.reduction.scorecard import Visit

    seconds, begin = float(record.exposure_time or 0.0), record.timespan and record.timespan.begin
    zenith = record.zenith_angle
    ages = [abs(days_between(night, source)) for _, _, source in used if source is not None]
    return Visit(
        visit=int(record.id),
        band=band_of(record.physical_filter),
        exposure_time=seconds,
        mjd=math.nan if begin is None else float(begin.tai.mjd) + seconds / 2 / 86400,
        airmass=math.nan if zenith is None or zenith > 85 else 1 / math.cos(math.radians(zenith)),
        expected=expected,
        calibration_age=float(max(ages)) if ages else math.nan,
        failures=told(lacking),
    )


def _calibrations(
    rows: Table | None, record: DimensionRecord, base: str
) -> dict[tuple[str, str, int | None], list[int]]:
    """Return the detectors of a visit by kind, filter and night of the calibrations that they got."""
    used: defaultdict[tuple[str, str, int | None], list[int]] = defaultdict(list)
    for kind in _KINDS[base]:
        if rows is None or f"{kind}_run" not in rows.colnames:
            continue
        glass = str(record.physical_filter) if kind == "flat" else ""
        for run, detector in zip(rows[f"{kind}_run"], rows["detector"], strict=True):
            used[kind, glass, made_in(str(run), kind)].append(int(detector))
    return dict(used)


def _uses(
    butler: Butler, night: int, used: Mapping[int, Mapping[tuple[str, str, int | None], list[int]]]
) -> list[dict[str, Any]]:
    """Return the calibrations of all visits, with the reasons why some were borrowed."""
    whole: defaultdict[tuple[str, str, int | None], set[int]] = defaultdict(set)
    for groups in used.values():
        for key, detectors in groups.items():
            whole[key] |= set(detectors)
    why = {}
    for kind in {kind for kind, _, _ in whole}:
        for use in (read_record(butler, night, kind) or {}).get("uses", ()):
            why[kind, use["physical_filter"], use["night"]] = use["reason"]
    return [
        {
            "kind": kind,
            "physical_filter": glass,
            "night": source,
            "age": None if source is None else days_between(night, source),
            "reason": why.get((kind, glass, source), ""),
            "detectors": sorted(detectors),
        }
        for (kind, glass, source), detectors in sorted(whole.items(), key=str)
    ]


def _completeness(detectors: set[int], visits: list[int], done: set[Place]) -> dict[str, Any]:
    there = Counter(detector for _, detector in done)
    expected = len(detectors) * len(visits)
    return {
        "expected": expected,
        "done": len(done),
        "completeness": round(len(done) / expected, 4) if expected else 0.0,
        "by_detector": [
            {"detector": detector, "expected": len(visits), "done": there[detector]}
            for detector in sorted(detectors)
        ],
    }


def _seconds(butler: Butler, outcomes: Mapping[str, list[RunOutcome]]) -> dict[str, float]:
    """Return the wall time by step: from the time in a RUN's name until its outcome was recorded."""
    from tololo.engine.outcomes import DATASET

    spent: Counter[str] = Counter()
    runs = [outcome.run for found in outcomes.values() for outcome in found]
    if not runs:
        return {}
    with butler.query() as query:
        fields: Any = {DATASET: {"run", "ingest_date"}}
        rows = query.join_dataset_search(DATASET, runs).general((), dataset_fields=fields, find_first=False)
        ended = {row[f"{DATASET}.run"]: row[f"{DATASET}.ingest_date"] for row in rows}
    for run in runs:
        end = ended[run].utc.to_datetime(timezone=UTC)
        spent[run.split("/")[-2]] += max(0.0, (end - _time(run)).total_seconds())
    return {step: round(seconds, 1) for step, seconds in spent.items()}


def _time(run: str) -> datetime:
    return collections.run_time(run) or datetime.min.replace(tzinfo=UTC)
