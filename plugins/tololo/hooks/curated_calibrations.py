"""Curated calibrations: what a facility knows of its camera, from a folder of files into the repository.

The folder is the truth. Each CCD's crosstalk and defects are datasets of the CALIBRATION collection
``DECam/calib/curated``, which every night searches, certified for as long as the files say. The id of a
dataset follows from its content: what is the same is left alone, what has changed gets a new version in a new
RUN and the place of the old one, whose dataset stays in its RUN.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import find_collection, known_types
from tololo.facility import collections
from tololo.facility.calibrations import validity
from tololo.facility.curated_crosstalk import FILE as CROSSTALK_FILE
from tololo.facility.curated_crosstalk import amplifier_of, read_crosstalk
from tololo.facility.curated_defects import FOLDER as DEFECTS_FOLDER
from tololo.facility.curated_defects import Defect, read_defects
from tololo.facility.errors import BadInputError
from tololo.hooks.calibrations import certifications
from tololo.hooks.chains import write_chain
from tololo.hooks.dataset_types import register_dataset_type
from tololo.hooks.selection import INSTRUMENT
from tololo.hooks.validity import describe_validity, parse_validity

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetAssociation, DatasetRef, Timespan

CURATED = f"{collections.CALIBS}/curated"
"""The collection; the chain of its parent's name leads to it."""

TYPES = ("crosstalk", "defects")
DIMENSIONS = ("instrument", "detector")

STORAGE_CLASS = "StructuredDataDict"

_NAMESPACE = uuid.UUID("5d1f0a5e-53a5-5b0c-9a37-2f1c8f4f7a11")

type Key = tuple[str, int]
"""Dataset type and CCD."""


@dataclass(frozen=True)
class Curated:
    """One dataset that there shall be: for which CCD, when, and what is in it."""

    kind: str
    detector: int
    timespan: Timespan
    content: dict[str, Any]

    @property
    def id(self) -> uuid.UUID:
        """Follows from type, CCD and content."""
        return uuid.uuid5(_NAMESPACE, json.dumps([self.kind, self.detector, self.content], sort_keys=True))


@dataclass(frozen=True)
class CuratedReport:
    """What a registration did.

    Attributes
    ----------
    collection : `str`
        Where all are certified.
    written : `int`
        New datasets.
    certified, known : `int`
        Validity ranges that are new, and that were there.
    removed : `int`
        Validity ranges that are not there any more.
    """

    collection: str
    written: int
    certified: int
    known: int
    removed: int

    def __str__(self) -> str:
        return (
            f"{self.collection}: {self.written} written, {self.certified} certified, {self.known} known, "
            f"{self.removed} taken out"
        )


def read_curated(folder: Path | str) -> dict[str, list[Curated]]:
    """Read a folder of curated calibrations.

    Parameters
    ----------
    folder : `pathlib.Path` or `str`
        Holds ``crosstalk.yaml``, a folder ``defects``, or both.

    Returns
    -------
    curated : `dict` [`str`, `list` [`Curated`]]
        By dataset type; those of which the folder says nothing are left out.

    Raises
    ------
    BadInputError
        If there is nothing, or something is wrong with a file; the message names file, line and key.
    """
    folder = Path(folder)
    found: dict[str, list[Curated]] = {}
    if (folder / CROSSTALK_FILE).is_file():
        found["crosstalk"] = list(_crosstalk(folder / CROSSTALK_FILE))
    if (folder / DEFECTS_FOLDER).is_dir():
        found["defects"] = list(_defects(read_defects(folder / DEFECTS_FOLDER)))
    if not found:
        raise BadInputError(
            "There are no curated calibrations",
            str(folder),
            f"put {CROSSTALK_FILE} or a folder {DEFECTS_FOLDER} there; docs/calibrations.md has examples",
        )
    return found


def register_types(butler: Butler) -> None:
    """Register the dataset types, and the collection that nights search."""
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    for name in TYPES:
        register_dataset_type(butler, name, DIMENSIONS, STORAGE_CLASS, is_calibration=True)
    butler.collections.register(CURATED, CollectionType.CALIBRATION)


def register_curated(butler: Butler, folder: Path | str, *, dry_run: bool = False) -> CuratedReport:
    """Make the repository hold what a folder of curated calibrations says, all or nothing.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run; the instrument has been registered.
    folder : `pathlib.Path` or `str`
        See `read_curated`.
    dry_run : `bool`, optional
        Check everything; write nothing.

    Returns
    -------
    report : `CuratedReport`

    Raises
    ------
    BadInputError
        If something is wrong with the folder or a file; nothing is written then.
    """
    wanted = read_curated(folder)
    if not dry_run:
        register_types(butler)
        _link(butler)
    present = _present(butler, wanted)
    by_key: defaultdict[Key, list[Curated]] = defaultdict(list)
    for item in (item for items in wanted.values() for item in items):
        by_key[item.kind, item.detector].append(item)
    changed = [
        key
        for key in sorted(by_key.keys() | present.keys())
        if {(item.id, item.timespan) for item in by_key.get(key, ())}
        != {(item.ref.id, item.timespan) for item in present.get(key, ())}
    ]
    new = [item for key in changed for item in by_key.get(key, ())]
    there = {item.id: butler.get_dataset(item.id) for item in new}
    report = CuratedReport(
        CURATED,
        written=sum(ref is None for ref in there.values()),
        certified=len(new),
        known=sum(len(items) for key, items in by_key.items() if key not in changed),
        removed=sum(len(present.get(key, ())) for key in changed),
    )
    if changed and not dry_run:
        _write(butler, new, {key: ref for key, ref in there.items() if ref is not None}, changed, present)
    return report


def missing_curated(butler: Butler, folder: Path | str) -> tuple[int, int]:
    """Return how many validity ranges a folder asks for, and how many of them the repository has."""
    wanted = read_curated(folder)
    there = {(item.ref.id, item.timespan) for items in _present(butler, wanted).values() for item in items}
    asked = {(item.id, item.timespan) for items in wanted.values() for item in items}
    return len(asked), len(asked & there)


def dead_detectors(butler: Butler, night: int) -> set[int]:
    """Return the CCDs of which, all through a night, one defect is the whole CCD."""
    from tololo.reduction.instrument.detectors import HEIGHT, WIDTH

    if find_collection(butler, CURATED) is None or not known_types(butler, ["defects"]):
        return set()
    timespan = parse_validity(validity(night))
    return {
        int(item.ref.dataId["detector"])
        for item in certifications(butler, CURATED, "defects")
        if item.timespan is not None
        and item.timespan.contains(timespan)
        and any(box["width"] * box["height"] == WIDTH * HEIGHT for box in butler.get(item.ref)["boxes"])
    }


def _write(
    butler: Butler,
    new: Sequence[Curated],
    there: Mapping[uuid.UUID, DatasetRef],
    changed: Iterable[Key],
    present: Mapping[Key, list[DatasetAssociation]],
) -> None:
    from lsst.daf.butler import DatasetRef, Timespan

    refs = dict(there)
    runs = _new_runs(butler, {_since(item.timespan) for item in new if item.id not in refs})
    with butler.transaction():
        for kind in TYPES:
            old = {item.ref.dataId for key in changed if key[0] == kind for item in present.get(key, ())}
            if old:
                butler.registry.decertify(CURATED, kind, Timespan(None, None), dataIds=list(old))
        for item in new:
            if item.id not in refs:
                data_id = butler.registry.expandDataId(instrument=INSTRUMENT, detector=item.detector)
                kind_of = butler.get_dataset_type(item.kind)
                ref = DatasetRef(kind_of, data_id, runs[_since(item.timespan)], id=item.id)
                refs[item.id] = butler.put(item.content, ref)
            butler.registry.certify(CURATED, [refs[item.id]], item.timespan)


def _link(butler: Butler) -> None:
    """Put the collection into the chain of its parent's name; one that is no chain is a facility's own."""
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    parent = find_collection(butler, collections.CALIBS)
    if parent is None or (parent.type is CollectionType.CHAINED and CURATED not in parent.children):
        write_chain(butler, collections.CALIBS, (), [CURATED])


def _new_runs(butler: Butler, begins: Iterable[str]) -> dict[str, str]:
    """Register a RUN for what begins to be valid at each moment: it holds one dataset of a CCD at most."""
    now = datetime.now(UTC)
    runs: dict[str, str] = {}
    for begin in sorted(begins):
        when = now
        while find_collection(butler, run := collections.run(collections.CALIBS, "curated", begin, when)):
            when += timedelta(seconds=1)
        butler.collections.register(run)
        runs[begin] = run
    return runs


def _since(timespan: Timespan) -> str:
    begin = timespan.begin
    return "ever" if begin is None else str(begin.tai.strftime("%Y%m%dT%H%M%S"))


def _present(butler: Butler, kinds: Iterable[str]) -> dict[Key, list[DatasetAssociation]]:
    """Return what is certified of some types."""
    found: defaultdict[Key, list[DatasetAssociation]] = defaultdict(list)
    for kind in kinds:
        if known_types(butler, [kind]):
            for item in certifications(butler, CURATED, kind):
                found[kind, int(item.ref.dataId["detector"])].append(item)
    return found


def _crosstalk(path: Path) -> Iterable[Curated]:
    """Split each version into those of the CCDs that receive."""
    spans: list[tuple[Timespan, str]] = []
    for version in read_crosstalk(path):
        span = _span(version.valid, version.where)
        for other, where in spans:
            if span.overlaps(other):
                raise BadInputError(
                    f"Two versions hold at the same time: for {describe_validity(span)} and "
                    f"{describe_validity(other)}",
                    f"{version.where}; {where}",
                    "end the one before the other begins",
                )
        spans.append((span, version.where))
        by_detector: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for coupling in version.couplings:
            row = asdict(coupling) | {"polynomial": list(coupling.polynomial)}
            by_detector[amplifier_of(coupling.victim)[0]].append(row)
        for detector, couplings in sorted(by_detector.items()):
            content = {"detector": detector, "source": version.source, "couplings": couplings}
            yield Curated("crosstalk", detector, span, content)


def _defects(defects: Iterable[Defect]) -> Iterable[Curated]:
    """Cut time into stretches in which the same rectangles hold."""
    by_detector: defaultdict[int, list[Defect]] = defaultdict(list)
    for defect in defects:
        by_detector[defect.detector].append(defect)
    for detector, own in sorted(by_detector.items()):
        stretches: list[tuple[Timespan, list[Defect]]] = []
        for defect in own:
            span = _span(defect.valid, f"{defect.where}, column valid")
            rest = [span]
            cut: list[tuple[Timespan, list[Defect]]] = []
            for stretch, there in stretches:
                both = stretch.intersection(span)
                if both.isEmpty():
                    cut.append((stretch, there))
                    continue
                cut.append((both, [*there, defect]))
                cut += [(part, there) for part in stretch.difference(span)]
                rest = [part for piece in rest for part in piece.difference(stretch)]
            stretches = cut + [(part, [defect]) for part in rest]
        for stretch, there in sorted(stretches, key=lambda pair: pair[0]):
            boxes = [
                {
                    "x0": d.x0,
                    "y0": d.y0,
                    "width": d.width,
                    "height": d.height,
                    "reason": d.reason,
                }
                for d in there
            ]
            yield Curated("defects", detector, stretch, {"detector": detector, "boxes": boxes})


def _span(valid: str, where: str) -> Timespan:
    try:
        return parse_validity(valid)
    except BadInputError as error:
        raise BadInputError(error.what, where, error.remedy) from error
