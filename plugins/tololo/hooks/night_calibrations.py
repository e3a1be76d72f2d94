"""The calibrations of a night: which of its own are good enough, what it borrows, and their certification.

``{night}/calib/{kind}`` holds what the night uses, certified for that night alone: `validity` of
`tololo.facility.calibrations` says from when to when, and why. A night that borrows certifies the other
night's dataset in its own collection for itself; the RUN of the dataset says in which night it was taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import find_collection, known_types
from tololo.facility import collections
from tololo.facility.calibrations import (
    KINDS,
    LIMITS,
    MAX_AGE,
    NO_OWN,
    CalibrationKey,
    Limits,
    days_between,
    describe_age,
    missing_calibrations,
    named,
    nearest,
    nights_within,
    validity,
)
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.nights import parse_night
from tololo.hooks.calibration_candidates import (
    Refs,
    accepted_near,
    certified_for,
    certified_for_all,
    needed_by,
    own,
    runs_below,
)
from tololo.hooks.curated_calibrations import dead_detectors
from tololo.hooks.selection import INSTRUMENT, new_collection
from tololo.hooks.validity import describe_validity, parse_validity

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

RECORD = "calibration_record"
"""Dataset type of what was decided, one in each RUN ``{night}/calib/{kind}/certify/night/{time}``."""

BY_HAND = "certified by hand"
COUNTS = ("certified", "known", "removed")

type Chosen = dict[CalibrationKey, tuple[DatasetRef, int, str]]
"""The dataset that a key gets, the night that it was taken in, and why that one (empty for its own)."""


@dataclass(frozen=True)
class NightCalibrations:
    """What a night uses.

    Attributes
    ----------
    night : `int`
    kind : `str`
        ``bias`` or ``flat``.
    collection, validity : `str`
        Where it is certified, and for when.
    uses : `list` [`dict`]
        ``physical_filter``, ``night`` that they were taken in, ``age`` (days, negative for an earlier night),
        ``reason`` why they were borrowed, ``detectors``.
    rejected : `list` [`dict`]
        Own ones that are not good enough: ``physical_filter``, ``reason``, ``run``, ``detectors``.
    missing : `list` [`str`]
        What raws need and nobody has.
    certified, known : `int`
        How many are new in the collection, and how many were certified before.
    removed : `int`
        How many are not in it any more: they were replaced, or are rejected now.
    """

    night: int
    kind: str
    collection: str
    validity: str
    uses: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    certified: int = 0
    known: int = 0
    removed: int = 0

    @property
    def borrowed(self) -> list[dict[str, Any]]:
        """Those of ``uses`` that are of another night."""
        return [use for use in self.uses if use["night"] != self.night]

    def __str__(self) -> str:
        parts = [
            f"{self.collection}, valid for {self.validity}: certified {self.certified}, known {self.known}, "
            f"taken out {self.removed}"
        ]
        parts += [
            f"{_names(self.kind, use)} borrowed from {use['night']} ({describe_age(use['age'])}): "
            f"{use['reason']}"
            for use in self.borrowed
        ]
        parts += [f"{_names(self.kind, bad)} rejected: {bad['reason']}" for bad in self.rejected]
        return "; ".join([*parts, *(f"missing: {name}" for name in self.missing)])


def certify_night(
    butler: Butler,
    night: int | str,
    kind: str,
    *,
    raws: Sequence[str] = (),
    where: str = "",
    limits: Limits = LIMITS,
    max_age: int = MAX_AGE,
    threshold: float = 1.0,
    dry_run: bool = False,
) -> NightCalibrations:
    """Certify a night's calibrations for that night, and borrow what it lacks.

    For each detector and filter the newest of the night's own that is good enough is taken. What raws need
    beyond that comes from the nearest night that has it. What was certified by hand stays.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    night : `int` or `str`
        YYYYMMDD.
    kind : `str`
        ``bias`` or ``flat``.
    raws : sequence of `str`, optional
        Collections of the raws that need calibrations; by default the night's science raws, and for a bias
        its flats too.
    where : `str`, optional
        Data query on these raws.
    limits : mapping, optional
        What is good enough: `tololo.facility.calibrations.checked_limits`.
    max_age : `int`, optional
        Days that a borrowed calibration may be away.
    threshold : `float`, optional
        Fraction of what raws need that has to be there.
    dry_run : `bool`, optional
        Write nothing; what is missing is told and not raised.

    Returns
    -------
    report : `NightCalibrations`

    Raises
    ------
    BadInputError
        If raws need what nobody has within ``max_age``; what there is, is certified. Or if night, kind or
        query are wrong; nothing is written then.
    NothingToDoError
        If the night has no such calibration and no raw that needs one.

    Notes
    -----
    Replacing is one transaction that holds the database's lock on the table of certifications: whoever looks
    finds the old one or the new one, never none and never both, also if this process dies in between.
    """
    night = parse_night(night)
    if kind not in KINDS:
        raise BadInputError(
            f"A {kind!r} is not certified by night", "kind", f"name one of {', '.join(KINDS)}"
        )
    nights_within(night, max_age)
    dead = dead_detectors(butler, night)
    needed = {
        key for key in needed_by(butler, kind, raws or _raws(night, kind), where) if key.detector not in dead
    }
    mine, present = own(butler, night, kind, limits), certified_for(butler, night, kind)
    by_hand: Chosen = {key: (item.ref, night, BY_HAND) for key, item in present.items() if item.night is None}
    chosen: Chosen = {key: (ref, night, "") for key, ref in mine.good.items()} | by_hand
    lacking = needed - chosen.keys()
    others = accepted_near(butler, night, kind, max_age) if lacking else {}
    chosen |= _borrow(night, lacking, others, max_age, mine.why)
    missing = lacking - chosen.keys() - certified_for_all(butler, night, kind)
    if not chosen and not missing and not mine.rejected:
        raise NothingToDoError(
            f"There is no {kind} of the night, and no raw that needs one",
            f"night {night}",
            "ingest raws, or look at the data query",
        )
    timespan = parse_validity(validity(night))
    new = {
        key: ref
        for key, (ref, _, _) in chosen.items()
        if key not in by_hand
        and (key not in present or (present[key].ref.id, present[key].timespan) != (ref.id, timespan))
    }
    bad = {key for key in mine.why if key not in chosen}
    old = [item.ref for key, item in present.items() if key in new or key in bad]
    report = NightCalibrations(
        night,
        kind,
        collections.calib(night, kind),
        describe_validity(timespan),
        _uses(night, chosen),
        mine.rejected,
        named(kind, missing),
        len(new),
        len(chosen) - len(new),
        len(old),
    )
    if dry_run:
        return report
    _write(butler, report, list(new.values()), old)
    if len(needed) - len(missing) < threshold * len(needed):
        raise missing_calibrations(kind, night, missing, max_age, others, mine.why)
    return report


def read_record(butler: Butler, night: int | str, kind: str) -> dict[str, Any] | None:
    """Return the newest record of what was decided of a night's calibrations, `None` if there is none.

    It holds what `NightCalibrations` does but for the counts, and ``at``, when it was decided (UTC).
    """
    runs = runs_below(butler, f"{collections.calib(night, kind)}/certify/night")
    if not runs or not known_types(butler, [RECORD]):
        return None
    ref = butler.find_dataset(RECORD, instrument=INSTRUMENT, collections=runs)
    return None if ref is None else dict(butler.get(ref))


def _raws(night: int, kind: str) -> list[str]:
    users = {"bias": ("drp", "flat"), "flat": ("drp",)}[kind]
    return [collections.raws(collections.chain(user, night)) for user in users]


def _borrow(
    night: int,
    lacking: Iterable[CalibrationKey],
    others: Mapping[int, Refs],
    max_age: int,
    why: Mapping[CalibrationKey, str],
) -> Chosen:
    """Choose the nearest night for each key; one that nobody has is left out."""
    chosen: Chosen = {}
    for key in lacking:
        other = nearest(night, [there for there, refs in others.items() if key in refs], max_age)
        if other is not None:
            reason = f"its own was rejected: {why[key]}" if key in why else NO_OWN
            chosen[key] = others[other][key], other, reason
    return chosen


def _write(butler: Butler, report: NightCalibrations, new: list[DatasetRef], old: list[DatasetRef]) -> None:
    """Certify what is new in the place of what is old, and record why; all or nothing."""
    from lsst.daf.butler import CollectionType, DatasetType  # type: ignore[attr-defined]

    record = {key: value for key, value in asdict(report).items() if key not in COUNTS}
    before = read_record(butler, report.night, report.kind) or {}
    if not new and not old and before == record | {"at": before.get("at")}:
        return
    now = datetime.now(UTC)
    while find_collection(butler, run := _run(report, now)) is not None:
        now += timedelta(seconds=1)
    kind = DatasetType(RECORD, ("instrument",), "StructuredDataDict", universe=butler.dimensions)
    butler.registry.registerDatasetType(kind)
    new_collection(butler, report.collection, CollectionType.CALIBRATION)
    butler.collections.register(report.collection, CollectionType.CALIBRATION)
    butler.collections.register(run, CollectionType.RUN)
    timespan = parse_validity(report.validity)
    with butler.transaction():
        if old:
            data_ids = [ref.dataId for ref in old]
            butler.registry.decertify(report.collection, report.kind, timespan, dataIds=data_ids)
        if new:
            butler.registry.certify(report.collection, new, timespan)
        butler.put(record | {"at": now.isoformat()}, kind, instrument=INSTRUMENT, run=run)


def _run(report: NightCalibrations, when: datetime) -> str:
    return collections.run(report.collection, "certify", "night", when)


def _uses(night: int, chosen: Chosen) -> list[dict[str, Any]]:
    groups: defaultdict[tuple[str, int, str], list[int]] = defaultdict(list)
    for key, (_, source, reason) in chosen.items():
        groups[key.physical_filter, source, reason].append(key.detector)
    return [
        {
            "physical_filter": glass,
            "night": source,
            "age": days_between(night, source),
            "reason": reason,
            "detectors": sorted(detectors),
        }
        for (glass, source, reason), detectors in sorted(groups.items())
    ]


def _names(kind: str, group: Mapping[str, Any]) -> str:
    keys = [CalibrationKey(detector, group["physical_filter"]) for detector in group["detectors"]]
    return ", ".join(named(kind, keys))
