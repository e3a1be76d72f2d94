"""What can be asked about nights that were scored: the questions of the pages in the web UI.

They are asked like those of `tololo.engine.questions` and answered with JSON: numbers that are not finite
become null, and a plot is base64.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import existing, known_types
from tololo.facility import collections
from tololo.facility.errors import NothingToDoError
from tololo.facility.nights import parse_night
from tololo.facility.scorecard import PLOT, SUMMARY, TABLE

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

RUNS = "*/scorecard/*"
"""The RUNs that they are in."""

_summaries: dict[str, dict[str, Any]] = {}
"""Summaries, as the list of nights needs them, by the UUID of their dataset: what it holds never changes."""


def night_scorecard(butler: Butler, night: int | str, proc_type: str, run: str = "") -> dict[str, Any]:
    """Return the scorecard of a night.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    night : `int` or `str`
        YYYYMMDD.
    proc_type : `str`
        ``drp`` or ``instcal``, either also with ``_injected``.
    run : `str`, optional
        Collection that one run has written: its scorecard is returned as long as it is there, else the one
        that is first in the night's chain.

    Returns
    -------
    scorecard : `dict`
        ``night``, ``proc_type``, ``run`` (the collection that it is in), ``current`` (whether it is the first
        of the chain), ``visits`` (a list of rows), ``summary`` (empty if there is none), ``plot`` (whether
        there is one).

    Raises
    ------
    NothingToDoError
        If the night has not been scored.
    BadInputError
        If it is no night.
    """
    chain = collections.chain(proc_type, parse_night(night))
    newest = _find(butler, TABLE, night, [chain])
    ref = (_find(butler, TABLE, night, [run]) if run else None) or newest
    if ref is None:
        raise NothingToDoError(f"Night {night} has not been scored", f"collection {chain}")
    summary = _find(butler, SUMMARY, night, [ref.run])
    return {
        "night": parse_night(night),
        "proc_type": proc_type,
        "run": ref.run,
        "current": newest is not None and newest.id == ref.id,
        "visits": _rows(butler.get(ref)),
        "summary": plain(butler.get(summary)) if summary else {},
        "plot": _find(butler, PLOT, night, [ref.run]) is not None,
    }


def night_plot(butler: Butler, night: int | str, proc_type: str, run: str = "") -> str:
    """Return the plot of a scored night, a PNG, as base64; parameters as `night_scorecard`.

    Raises
    ------
    NothingToDoError
        If there is none.
    """
    chain = collections.chain(proc_type, parse_night(night))
    ref = _find(butler, PLOT, night, [run] if run else []) or _find(butler, PLOT, night, [chain])
    if ref is None:
        raise NothingToDoError(f"Night {night} has no plot", f"collection {chain}")
    # The file as it is: the formatter of plots writes figures and reads none.
    return base64.b64encode(butler.getURI(ref).read()).decode("ascii")


def scored_nights(butler: Butler, limit: int = 60, before: int | str = "") -> dict[str, Any]:
    """List scored nights, the latest first.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    limit : `int`, optional
        How many nights at most.
    before : `int` or `str`, optional
        Only nights earlier than this one.

    Returns
    -------
    found : `dict`
        ``nights``: for each night and kind of processing ``night``, ``proc_type``, ``run`` and ``summary``
        (without its ``limits`` and without the counts of each detector; null if its file is lost);
        ``earlier``: whether there are earlier nights.
    """
    if not known_types(butler, [SUMMARY]):
        return {"nights": [], "earlier": False}
    last = parse_night(before) if before else math.inf
    first = _first_of_chains(butler)
    found = sorted(
        ((night, kind, ref) for (night, kind), ref in first.items() if night < last),
        key=lambda item: (-item[0], item[1]),
    )
    shown = sorted({night for night, _, _ in found}, reverse=True)[:limit]
    listed = [
        {"night": night, "proc_type": kind, "run": ref.run, "summary": _summary(butler, ref)}
        for night, kind, ref in found
        if night in shown
    ]
    return {"nights": listed, "earlier": len({night for night, _, _ in found}) > len(shown)}


def plain(value: Any) -> Any:
    """Return a value as JSON has it: arrays as lists, dates as text, what is not finite as null."""
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, date | datetime) else value


def _rows(table: Any) -> list[dict[str, Any]]:
    """Return an astropy table as rows; a masked value is null."""
    columns = {name: plain(table[name].tolist()) for name in table.colnames}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _find(butler: Butler, kind: str, night: int | str, names: Iterable[str]) -> DatasetRef | None:
    there, _ = existing(butler, names)
    if not there or not known_types(butler, [kind]):
        return None
    # The collections are a night's own, so this lists one or none.
    refs = butler.query_datasets(kind, there, explain=False)
    return next((ref for ref in refs if ref.dataId["day_obs"] == parse_night(night)), None)


def _first_of_chains(butler: Butler) -> dict[tuple[int, str], DatasetRef]:
    """Return the summary that each chain of a night shows, by night and kind of processing.

    Two questions, however many nights there are.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    runs, _ = existing(butler, [RUNS])
    if not runs:
        return {}
    with butler.query() as query:
        by_run = {ref.run: ref for ref in query.datasets(SUMMARY, runs, find_first=False)}
    first = {}
    for info in butler.collections.query_info("*/*", CollectionType.CHAINED):
        ref = next((by_run[child] for child in info.children if child in by_run), None)
        night, _, kind = info.name.partition("/")
        if ref is not None and night == str(ref.dataId["day_obs"]) and "/" not in kind:
            first[int(night), kind] = ref
    return first


def _summary(butler: Butler, ref: DatasetRef) -> dict[str, Any] | None:
    key = str(ref.id)
    if key not in _summaries:
        try:
            summary = plain(butler.get(ref))
        except FileNotFoundError:
            return None  # the other nights are to be seen all the same
        summary.pop("limits", None)
        summary["detectors"].pop("by_detector", None)
        _summaries[key] = summary
    return _summaries[key]
