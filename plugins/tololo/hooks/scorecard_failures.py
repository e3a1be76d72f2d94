"""Why something of a night was not made: what its runs recorded, and what they were never asked for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import existing, known_types
from tololo.facility import collections
from tololo.facility.waiting import numbered

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from tololo.facility.run import RunOutcome

NO_RAW = "the night has no raw of it"
NOT_TRIED = "no run has tried it"

SHOWN = 3
"""Reasons that a visit's row names."""

type Place = tuple[int, int]
"""Visit and detector."""


@dataclass(frozen=True)
class Failure:
    """Something that was not made: why, by which task, of what."""

    label: str
    reason: str
    text: str
    data_id: Mapping[str, Any]

    @property
    def place(self) -> Place | None:
        """Visit and detector, if it is about one."""
        visit, detector = self.data_id.get("visit"), self.data_id.get("detector")
        return None if visit is None or detector is None else (int(visit), int(detector))


def failures(butler: Butler, parent: str, outcomes: Iterable[RunOutcome]) -> list[Failure]:
    """Return what failed itself or had no data in its newest attempt, by the records of a chain's RUNs."""
    from tololo.engine.outcomes import key_of, unchained

    newest: dict[tuple[str, Any], tuple[dict[str, Any], str]] = {}
    for outcome in outcomes:
        for quantum in outcome.quanta:
            newest[quantum["label"], key_of(quantum["data_id"])] = quantum, outcome.run
    found = []
    runs = [*existing(butler, [parent])[0], *unchained(butler, parent)]
    for label in sorted({label for label, _ in newest}):
        later: dict[Any, datetime] = {}
        if known_types(butler, [f"{label}_metadata"]):
            refs = butler.query_datasets(
                f"{label}_metadata", runs, find_first=False, limit=None, explain=False
            )
            for ref in refs:
                key = key_of(ref.dataId.required)
                later[key] = max(later.get(key, _time(ref.run)), _time(ref.run))
        for (name, key), (quantum, run) in newest.items():
            if name != label or not quantum["own"] or later.get(key, _time("")) > _time(run):
                continue
            text = quantum["reason"]
            found.append(Failure(label, shorten(text), text, quantum["data_id"]))
    return found


def missing(
    visits: set[int],
    detectors: set[int],
    done: set[Place],
    raws: set[Place],
    failed: Mapping[Place, Failure],
) -> dict[int, list[Failure]]:
    """Say of each visit which detectors are not there, and why."""
    found: dict[int, list[Failure]] = {visit: [] for visit in visits}
    for visit in sorted(visits):
        for detector in sorted(detectors):
            place = visit, detector
            if place in done:
                continue
            label, reason = ("raw", NO_RAW) if place not in raws else ("", NOT_TRIED)
            other = Failure(label, reason, reason, {"visit": visit, "detector": detector})
            found[visit].append(failed.get(place, other))
    return found


def told(failures: list[Failure]) -> str:
    """Say in short why detectors of a visit are missing."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for item in failures:
        groups[item.reason].append(int(item.data_id["detector"]))
    words = [f"{reason}, {numbered('detector', detectors)}" for reason, detectors in groups.items()]
    more = [f"and {len(words) - SHOWN} other reasons"] if len(words) > SHOWN else []
    return "; ".join([*words[:SHOWN], *more])


def by_reason(failures: Iterable[Failure]) -> list[dict[str, Any]]:
    """Count failures by task and reason; reasons that differ in their numbers only are one."""
    groups: defaultdict[tuple[str, str], list[Failure]] = defaultdict(list)
    for item in failures:
        groups[item.label, re.sub(r"\d+(?:\.\d+)?", "0", item.reason)].append(item)
    return [
        {
            "reason": items[0].reason,
            "label": label,
            "count": len(items),
            "visits": sorted({int(item.data_id["visit"]) for item in items if "visit" in item.data_id}),
            "example": items[0].text,
        }
        for (label, _), items in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    ]


def shorten(reason: str) -> str:
    """Return what is wrong, of the text of a failure: without exception type, place and remedy."""
    text = re.sub(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]*(?:Error|Exception|Interrupt): ", "", reason)
    return text.partition(" Where: ")[0].strip().rstrip(".") or reason


def _time(run: str) -> datetime:
    return collections.run_time(run) or datetime.min.replace(tzinfo=UTC)
