"""What a sensor waits for, in words: answers of one form, and lists that a person can read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypedDict

NAMED = 20
"""So many missing things are named; the others are counted."""


class Answer(TypedDict):
    """What was found of what is waited for.

    ``ready`` tells whether it is enough, ``missing`` names what is not there, ``found`` counts what is.
    """

    ready: bool
    missing: list[str]
    found: int


def answer(missing: Iterable[str], found: int, *, ready: bool | None = None) -> Answer:
    """Make an answer; ready if nothing is missing, unless ``ready`` says otherwise."""
    names = list(missing)
    return {"ready": not names if ready is None else ready, "missing": shorten(names), "found": found}


def shorten(names: Sequence[str]) -> list[str]:
    """Keep the first names, and say how many more there are."""
    more = len(names) - NAMED
    return list(names) if more <= 0 else [*names[:NAMED], f"... and {more} more"]


def ranges(numbers: Iterable[int]) -> str:
    """Write numbers in order, neighbours as a range: ``1-24, 26, 30-31``."""
    spans: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def numbered(noun: str, numbers: Iterable[int]) -> str:
    """Write numbers after what they number: ``detector 28``, ``patches 28-30``; empty if there are none."""
    kept = set(numbers)
    if not kept:
        return ""
    plural = "es" if noun.endswith("ch") else "s"
    return f"{noun}{plural if len(kept) > 1 else ''} {ranges(kept)}"


def names_in(text: str) -> list[str]:
    """Read names separated by commas: ``20190401/calib/flat, 20190401/calib/bias``."""
    return [name.strip() for name in text.split(",") if name.strip()]


def describe(missing: Sequence[str], fault: str = "") -> str:
    """Say in one line what is missing, and what keeps the question from being answered."""
    parts = [f"missing: {'; '.join(missing)}"] if missing else []
    if fault:
        parts.append(f"the last question was not answered: {fault}")
    return "; ".join(parts) or "nothing was answered yet"
