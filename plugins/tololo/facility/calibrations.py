"""Which calibrations a night uses, and what makes one good enough.

A night uses its own where they were accepted, else those of the nearest night that has accepted ones, before
or after, not more than ``max_calib_age`` days away; of two nights equally near the earlier one. This holds
for each detector and filter on its own.

In the collection of a night all is valid from the noon TAI at which the night begins until 13:00 in Chile on
the day after: so long calibrations are taken for it (`~tololo.facility.nights.night_served`), and a flat of
the morning needs the night's bias. What was measured for a night is known to hold in it, and nothing is known
of another night until its own were measured; a night that borrows does so in its own collection.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tololo.facility.errors import BadInputError
from tololo.facility.nights import night_bounds, night_served, parse_night, shift, tai_minus_utc
from tololo.facility.waiting import numbered

KINDS = ("bias", "flat")

MAX_AGE = 7
"""Days that a borrowed calibration may be away, unless a run says otherwise."""

NO_OWN = "the night has none of its own"

Bounds = tuple[float | None, float | None]
Limits = Mapping[str, Mapping[str, Bounds]]
"""Lowest and highest value allowed of a column of ``bias_metrics`` and ``flat_metrics``."""

LIMITS: Limits = {
    "bias": {
        "n_used": (3, None),
        "read_noise": (1.0, 20.0),
        "variance_ratio": (0.85, 1.15),
        "row_rms": (None, 5.0),
        "column_rms": (None, 20.0),
        "defects": (None, 0.05),
    },
    "flat": {
        "n_used": (3, None),
        "counts": (1000.0, None),
        "gain_ratio": (0.8, 1.25),
        "variance_ratio": (0.85, 1.15),
        "gradient": (None, 0.5),
        "defects": (None, 0.05),
    },
}


@dataclass(frozen=True, order=True)
class CalibrationKey:
    """What a calibration is for: a detector, and a physical filter (empty where there is none, as a bias)."""

    detector: int
    physical_filter: str = ""


def limits_schema() -> dict[str, Any]:
    """Return the schema of limits in a configuration: by kind and column, ``[lowest, highest]`` or null."""
    bound = {"type": ["number", "null"]}
    pair = {"type": "array", "items": bound, "minItems": 2, "maxItems": 2}
    kinds = {
        kind: {
            "type": "object",
            "additionalProperties": False,
            "properties": dict.fromkeys(columns, pair),
            "description": f"[lowest, highest], null for none, of {', '.join(columns)}",
        }
        for kind, columns in LIMITS.items()
    }
    return {"type": "object", "additionalProperties": False, "properties": kinds}


def checked_limits(changes: Mapping[str, Any] | None = None) -> Limits:
    """Return the limits, with those that a configuration changes.

    Parameters
    ----------
    changes : `dict`, optional
        As `limits_schema` describes; what it does not name keeps the value of `LIMITS`.

    Raises
    ------
    BadInputError
        If a kind or a column is not known, or a pair is not two numbers in order.
    """
    limits = {kind: dict(columns) for kind, columns in LIMITS.items()}
    for kind, columns in (changes or {}).items():
        for column, pair in columns.items():
            where = f"limits of calibrations, {kind}, {column}"
            if column not in limits.get(kind, {}):
                known = ", ".join(f"{name}: {' '.join(there)}" for name, there in LIMITS.items())
                raise BadInputError("There is no such limit", where, f"use one of {known}")
            limits[kind][column] = _bounds(pair, where)
    return limits


def _bounds(pair: Any, where: str) -> Bounds:
    numbers = list(pair) if isinstance(pair, list | tuple) else []
    fine = len(numbers) == 2 and all(
        item is None or (isinstance(item, int | float) and not isinstance(item, bool)) for item in numbers
    )
    if not fine or (None not in numbers and numbers[0] > numbers[1]):
        raise BadInputError(
            f"{pair!r} is no pair of limits", where, "give [lowest, highest], null where there is no limit"
        )
    return numbers[0], numbers[1]


def reasons_against(kind: str, rows: Iterable[Mapping[str, Any]], limits: Limits = LIMITS) -> list[str]:
    """Say why a calibration is not good enough; nothing if it is.

    Parameters
    ----------
    kind : `str`
        ``bias`` or ``flat``.
    rows : iterable of mappings
        Its metrics, one row for each amplifier. An amplifier with a ``problem`` is dead: its pixels are
        masked and it does not count, unless all are.
    limits : mapping, optional
        As `checked_limits` returns them.
    """
    given = list(rows)
    living = [row for row in given if not row.get("problem")]
    if not living:
        why = ", ".join(dict.fromkeys(str(row["problem"]) for row in given))
        return [f"no amplifier is usable ({why})" if why else "there are no metrics"]
    reasons = []
    for row in living:
        for column, (low, high) in limits[kind].items():
            value = float(row.get(column, math.nan))
            if math.isnan(value):
                reasons.append(f"{column} of amplifier {row['amplifier']} is not known")
            elif low is not None and value < low:
                reasons.append(f"{column} of amplifier {row['amplifier']} is {value:.4g}, below {low:g}")
            elif high is not None and value > high:
                reasons.append(f"{column} of amplifier {row['amplifier']} is {value:.4g}, above {high:g}")
    return reasons


def validity(night: int | str) -> str:
    """Return for when the calibrations of a night are certified, as ``begin..end``; the end is in TAI."""
    last = night_bounds(night)[1].replace(minute=0, second=0) + timedelta(hours=1)
    while night_served(last, calibration=True) == parse_night(night):
        last += timedelta(hours=1)
    tai = last + timedelta(seconds=tai_minus_utc(last))
    return f"{parse_night(night)}..{tai:%Y-%m-%dT%H:%M:%S}"


def days_between(night: int | str, other: int | str) -> int:
    """Return how many days later the other night is; negative if it is earlier."""
    return round((night_bounds(other)[0] - night_bounds(night)[0]) / timedelta(days=1))


def nights_within(night: int | str, max_age: int) -> list[int]:
    """List the other nights within some days, nearest first, the earlier one of two equally near.

    Raises
    ------
    BadInputError
        If the age is negative or the night is none.
    """
    if max_age < 0:
        raise BadInputError(
            f"An age of {max_age} days makes no sense", "max_calib_age", "give 0 or more; 0: never borrow"
        )
    return [shift(parse_night(night), side * days) for days in range(1, max_age + 1) for side in (-1, 1)]


def nearest(night: int | str, accepted: Iterable[int], max_age: int) -> int | None:
    """Return the night to use of those that have an accepted calibration, `None` if none is near enough."""
    there = set(accepted)
    candidates = [parse_night(night), *nights_within(night, max_age)]
    return next((candidate for candidate in candidates if candidate in there), None)


def describe_age(days: int) -> str:
    """Write how far another night is: ``2 days earlier``."""
    count = abs(days)
    return f"{count} day{'s' if count != 1 else ''} {'earlier' if days < 0 else 'later'}" if days else "own"


def named(kind: str, keys: Iterable[CalibrationKey]) -> list[str]:
    """Name calibrations for people: ``flat for filter r, detectors 25, 28-30``, one for each filter."""
    groups: defaultdict[str, set[int]] = defaultdict(set)
    for key in keys:
        groups[key.physical_filter].add(key.detector)
    return [
        f"{kind} for {f'filter {glass.split(maxsplit=1)[0]}, ' if glass else ''}"
        f"{numbered('detector', detectors)}"
        for glass, detectors in sorted(groups.items())
    ]


def missing_calibrations(
    kind: str,
    night: int,
    missing: Iterable[CalibrationKey],
    max_age: int,
    looked_at: Iterable[int],
    rejected: Mapping[CalibrationKey, str],
) -> BadInputError:
    """Return the error of calibrations that neither the night nor one near enough has.

    Parameters
    ----------
    kind, night, missing, max_age
        What is missing, and the rule.
    looked_at : iterable of `int`
        Nights within that age that have accepted calibrations of this kind, for whatever detector and filter.
    rejected : mapping
        Why the night's own were not accepted.
    """
    keys = sorted(missing)
    there = ", ".join(map(str, sorted(looked_at)))
    first, last = shift(night, -max_age), shift(night, max_age)
    span = f"nights {first} to {last}" if max_age else f"night {night}"
    of_these = f"of these {there} have some, for others" if there else f"none of these has a {kind}"
    own = list(dict.fromkeys(rejected[key] for key in keys if key in rejected))
    shown = f"; its own were rejected: {'; '.join(own[:3])}" if own else ""
    return BadInputError(
        f"There is no accepted {'; '.join(named(kind, keys))}{shown}",
        f"night {night}; looked at {span}, {of_these}",
        f"take or reduce calibrations, raise max_calib_age (now {max_age}), or certify some by hand into "
        f"{night}/calib/{kind}",
    )
