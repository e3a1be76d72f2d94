"""What the pages know of injected sources: the nights whose recovery was measured, and each of them."""

from __future__ import annotations

from typing import Any

from tololo.facility.nights import parse_night
from tololo.pages.engine import ask, repository

SHOWN = 60
"""Nights on one page."""


def board(before: str = "") -> dict[str, Any]:
    """Return the latest nights with injected sources, or those before one.

    Returns
    -------
    content : `dict`
        ``repository``; ``nights``, as `tololo.engine.recovery_questions.recovery_nights` lists them;
        ``before`` and ``earlier``, the night before which there are more, or null.
    """
    if before:
        parse_night(before)
    root = repository()
    found = ask("recovery_nights", root, limit=SHOWN, before=before)
    nights = found["nights"]
    return {
        "repository": root,
        "nights": nights,
        "before": before,
        "earlier": min(entry["night"] for entry in nights) if found["earlier"] else None,
    }


def night(chain: str) -> dict[str, Any]:
    """Return one night; see `tololo.engine.recovery_questions.recovery_of_night`."""
    root = repository()
    content: dict[str, Any] = ask("recovery_of_night", root, chain=chain)
    return content | {"repository": root}


def plot(chain: str, name: str) -> str:
    """Return a plot of a night, ``plot`` or ``history``, as base64 of a PNG."""
    return str(ask("recovery_plot", repository(), chain=chain, name=name))
