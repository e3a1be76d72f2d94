"""Which visits make a template: the rules of a selection, and the choice among visits that were measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tololo.facility.errors import BadInputError
from tololo.facility.scorecard import ACCEPTED, FLAGGED
from tololo.facility.waiting import ranges

VERDICTS = (ACCEPTED, FLAGGED)
"""What a scorecard may call visits that a template takes; a rejected one is never taken."""

CROWDED = 0.5
"""A visit is one too many if there are enough better ones over more than this part of what it covers."""


@dataclass(frozen=True)
class Selection:
    """The rules; each holds for the visits of one band.

    Attributes
    ----------
    max_seeing : `float`, optional
        Arcsec FWHM.
    best_seeing : `float`, optional
        Fraction of the visits, those of the best seeing, that is taken.
    min_visits : `int`
        A band with fewer is left out.
    max_visits : `int`, optional
        So many, the deepest, are taken of those that cover the same sky.
    verdicts : `tuple` [`str`, ...]
        What the scorecard may say of them, of `VERDICTS`.
    """

    max_seeing: float | None = None
    best_seeing: float | None = None
    min_visits: int = 1
    max_visits: int | None = None
    verdicts: tuple[str, ...] = (ACCEPTED,)


@dataclass(frozen=True)
class Candidate:
    """A visit that could go into a template.

    Attributes
    ----------
    visit, night : `int`
    band : `str`
    seeing : `float`
        Arcsec FWHM, NaN if not known.
    depth : `float`
        AB magnitude of a point source of 5 sigma, NaN if not known.
    verdict : `str`
        What the scorecard of its night says; empty if there is none.
    places : `frozenset` [`int`]
        Numbers of the pieces of the sky that it covers.
    """

    visit: int
    night: int
    band: str
    seeing: float = math.nan
    depth: float = math.nan
    verdict: str = ""
    places: frozenset[int] = frozenset()


@dataclass(frozen=True)
class LeftOut:
    """What was not taken.

    Attributes
    ----------
    visits : `dict` [`int`, `str`]
        Why, by visit.
    unscored : `list` [`int`]
        Nights without a scorecard, of whose visits nobody has said anything.
    """

    visits: dict[int, str] = field(default_factory=dict)
    unscored: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        groups: dict[str, list[int]] = {}
        for visit, why in sorted(self.visits.items()):
            groups.setdefault(why, []).append(visit)
        parts = [f"{len(visits)} {why} ({ranges(visits)})" for why, visits in groups.items()] or ["none"]
        if self.unscored:
            parts.append(
                f"there is no scorecard of {', '.join(map(str, self.unscored))}, nobody judged these"
            )
        return "; ".join(parts)


def schema() -> dict[str, Any]:
    """Return the schema of a selection, in a configuration or a param."""
    number = {"type": ["number", "null"], "exclusiveMinimum": 0}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "max_seeing": number,
            "best_seeing": number | {"maximum": 1},
            "min_visits": {"type": "integer", "minimum": 1},
            "max_visits": {"type": ["integer", "null"], "minimum": 1},
            "verdicts": {
                "type": "array",
                "items": {"enum": list(VERDICTS)},
                "minItems": 1,
                "uniqueItems": True,
            },
        },
        "description": f"use {', '.join(item.name for item in fields(Selection))}",
    }


def read_selection(content: Mapping[str, Any] | None, default: Selection | None = None) -> Selection:
    """Return a selection, what it does not name taken from another.

    Parameters
    ----------
    content : mapping, optional
        As `schema` describes it.
    default : `Selection`, optional

    Raises
    ------
    BadInputError
        If a rule is not known or its value is wrong, or the least number of visits is above the most.
    """
    import jsonschema

    given = dict(content or {})
    for fault in jsonschema.Draft202012Validator(schema()).iter_errors(given):
        where = ".".join(map(str, ["selection", *fault.absolute_path]))
        raise BadInputError(f"Wrong selection: {fault.message}", where, schema()["description"])
    default = default or Selection()
    merged = {item.name: given.get(item.name, getattr(default, item.name)) for item in fields(Selection)}
    chosen = Selection(**merged | {"verdicts": tuple(merged["verdicts"])})
    if chosen.max_visits is not None and chosen.max_visits < chosen.min_visits:
        raise BadInputError(
            f"At most {chosen.max_visits} visits are fewer than at least {chosen.min_visits}",
            "selection",
            "raise max_visits, or lower min_visits",
        )
    return chosen


def choose(candidates: Iterable[Candidate], selection: Selection) -> tuple[list[Candidate], dict[int, str]]:
    """Choose visits, and say of each other one why it is left out.

    The rules are applied in turn: verdict, largest seeing, part of the best seeing, largest number, least
    number. The largest number goes by depth, which for a point source has the seeing in it, as well as
    exposure time, clouds and sky; a visit without a known depth comes last. It counts where visits overlap,
    so that a template of several fields gets so many in each of them.

    Parameters
    ----------
    candidates : iterable of `Candidate`
    selection : `Selection`

    Returns
    -------
    chosen : `list` [`Candidate`]
        By visit.
    left_out : `dict` [`int`, `str`]
    """
    chosen: list[Candidate] = []
    left_out: dict[int, str] = {}
    bands: dict[str, list[Candidate]] = {}
    for item in sorted(candidates, key=lambda item: item.visit):
        if why := _against(item, selection):
            left_out[item.visit] = why
        else:
            bands.setdefault(item.band, []).append(item)
    for band, items in bands.items():
        sharp, not_sharp = _sharpest(items, selection)
        deep, not_deep = _deepest(sharp, selection)
        left_out |= not_sharp | not_deep
        if len(deep) < selection.min_visits:
            why = f"in band {band}, of which {len(deep)} can be taken and {selection.min_visits} are needed"
            left_out |= {item.visit: why for item in deep}
        else:
            chosen += deep
    return sorted(chosen, key=lambda item: item.visit), dict(sorted(left_out.items()))


def _against(item: Candidate, selection: Selection) -> str:
    """Say what is against a visit on its own account; empty if nothing is."""
    if item.verdict and item.verdict not in selection.verdicts:
        return item.verdict
    if math.isnan(item.seeing):
        wanted = selection.max_seeing is not None or selection.best_seeing is not None
        return "of unknown seeing" if wanted else ""
    if selection.max_seeing is not None and item.seeing > selection.max_seeing:
        return f"with seeing above {selection.max_seeing:g} arcsec"
    return ""


def _sharpest(items: list[Candidate], selection: Selection) -> tuple[list[Candidate], dict[int, str]]:
    part = selection.best_seeing
    if part is None or not items:
        return items, {}
    count = max(1, math.ceil(part * len(items) - 1e-9))
    by_seeing = sorted(items, key=lambda item: (item.seeing, item.visit))
    worst = by_seeing[count - 1].seeing
    why = f"in band {items[0].band} not among the {count} of best seeing (to {worst:.2f} arcsec)"
    return by_seeing[:count], {item.visit: why for item in by_seeing[count:]}


def _deepest(items: list[Candidate], selection: Selection) -> tuple[list[Candidate], dict[int, str]]:
    most = selection.max_visits
    if most is None:
        return items, {}
    taken: dict[int, int] = {}
    kept, others = [], {}
    for item in sorted(items, key=_merit):
        places = item.places or {-1}
        full = sum(taken.get(place, 0) >= most for place in places)
        if full > CROWDED * len(places):
            others[item.visit] = f"in band {item.band} less deep than {most} that cover the same sky"
            continue
        kept.append(item)
        for place in places:
            taken[place] = taken.get(place, 0) + 1
    return kept, others


def _merit(item: Candidate) -> tuple[float, float, int]:
    """Return what sorts visits, the best first."""
    depth = math.inf if math.isnan(item.depth) else -item.depth
    return depth, math.inf if math.isnan(item.seeing) else item.seeing, item.visit


_PATCH = re.compile(r"(\d+)/(\d+|\*)")


def patch_query(text: str | None) -> str:
    """Return the data query that a choice of patches means.

    Parameters
    ----------
    text : `str`, optional
        Patches ``tract/patch`` and whole tracts ``tract/*``, separated by commas or blanks; or a data query,
        which is returned in parentheses; or nothing, which means all.

    Raises
    ------
    BadInputError
        If a list has an item that is no patch.
    """
    text = (text or "").strip()
    if not text or "/" not in text or re.search(r"[=<>()]|\b(in|and|or|not)\b", text, re.IGNORECASE):
        return f"({text})" if text else ""
    tracts: dict[int, set[int] | None] = {}
    for item in filter(None, re.split(r"[,\s]+", text)):
        match = _PATCH.fullmatch(item)
        if match is None:
            raise BadInputError(
                f"{item!r} is no patch", "param patches", "write tract/patch, tract/* or a data query"
            )
        tract, known = int(match[1]), tracts.setdefault(int(match[1]), set())
        if match[2] == "*":
            tracts[tract] = None
        elif known is not None:
            known.add(int(match[2]))
    return f"({' OR '.join(_of_tract(tract, patches) for tract, patches in sorted(tracts.items()))})"


def _of_tract(tract: int, patches: set[int] | None) -> str:
    if patches is None:
        return f"tract = {tract}"
    return f"(tract = {tract} AND patch IN ({_listed(sorted(patches))}))"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
