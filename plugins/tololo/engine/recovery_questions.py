"""What can be asked about the recovery of injected sources: the questions of the page that shows it.

They are asked like those of `tololo.engine.questions` and answered with JSON.
"""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

from tololo.engine.night_questions import plain
from tololo.engine.repositories import existing, known_types
from tololo.facility import collections
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.nights import parse_night
from tololo.facility.recovery import HISTORY_PLOT, PLOT, SUMMARY

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

STEP = "/recovery/"
"""What stands between the chain of a night and the time in the name of its RUN."""

PLOTS = {"plot": PLOT, "history": HISTORY_PLOT}
"""Dataset types of the plots, by what they are called here."""

_summaries: dict[str, dict[str, Any]] = {}
"""Summaries by the UUID of their dataset: what it holds never changes."""


def recovery_nights(butler: Butler, limit: int = 60, before: int | str = "") -> dict[str, Any]:
    """List nights whose injected sources were measured, the latest first.

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
        ``nights``: for each chain with injected sources ``night``, ``chain``, ``run``, and of its newest
        ``injection_recovery_summary`` ``bands``, ``alarms`` and ``notes`` (all three null if its file is
        lost); ``earlier``: whether there are earlier nights.
    """
    last = parse_night(before) if before else math.inf
    found = [(int(ref.dataId["day_obs"]), ref) for ref in _newest(butler, "*")]
    nights = sorted({night for night, _ in found if night < last}, reverse=True)
    listed = [_listed(butler, ref) for night, ref in found if night in nights[:limit]]
    listed.sort(key=lambda entry: (-entry["night"], entry["chain"]))
    return {"nights": listed, "earlier": len(nights) > limit}


def recovery_of_night(butler: Butler, chain: str) -> dict[str, Any]:
    """Return what became of the injected sources of a night.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    chain : `str`
        Difference images with injected sources, such as ``20190401/2019/meanclip/diff_drp_injected``.

    Returns
    -------
    found : `dict`
        ``night``, ``chain``, ``run``, ``summary`` (``injection_recovery_summary``), and ``plots``, the names
        of those in `PLOTS` that are there.

    Raises
    ------
    NothingToDoError
        If nothing was measured there.
    BadInputError
        If it cannot be a chain.
    """
    ref = _of_chain(butler, chain)
    return {
        "night": int(ref.dataId["day_obs"]),
        "chain": chain,
        "run": ref.run,
        "summary": plain(butler.get(ref)),
        "plots": [name for name, kind in PLOTS.items() if _beside(butler, ref, kind) is not None],
    }


def recovery_plot(butler: Butler, chain: str, name: str = "plot") -> str:
    """Return a plot of a measured night, a PNG, as base64.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    chain : `str`
    name : `str`, optional
        One of `PLOTS`.

    Raises
    ------
    NothingToDoError
        If there is none.
    BadInputError
        If there are no such plots.
    """
    if name not in PLOTS:
        raise BadInputError(f"There are no plots {name!r}", "name", f"use {' or '.join(PLOTS)}")
    ref = _beside(butler, _of_chain(butler, chain), PLOTS[name])
    if ref is None:
        raise NothingToDoError("The night has no such plot", chain)
    # The file as it is: the formatter of plots writes figures and reads none.
    return base64.b64encode(butler.getURI(ref).read()).decode("ascii")


def _of_chain(butler: Butler, chain: str) -> DatasetRef:
    refs = _newest(butler, collections.check_name(chain))
    if not refs:
        raise NothingToDoError(
            "No injected sources were measured", chain, "run difference_imaging with the param injected"
        )
    return refs[0]


def _newest(butler: Butler, chain: str) -> list[DatasetRef]:
    """Return the newest summary of each chain that a name or glob matches: one question for all."""
    runs, _ = existing(butler, [f"{chain}{STEP}*"])
    if not runs or not known_types(butler, [SUMMARY]):
        return []
    refs = butler.query_datasets(SUMMARY, runs, find_first=False, limit=None, explain=False)
    by_run = {ref.run: ref for ref in refs}
    newest: dict[str, DatasetRef] = {}
    for run in collections.newest_first(by_run):
        newest.setdefault(run.rpartition(STEP)[0], by_run[run])
    return list(newest.values())


def _beside(butler: Butler, summary: DatasetRef, kind: str) -> DatasetRef | None:
    if not known_types(butler, [kind]):
        return None
    return butler.find_dataset(kind, summary.dataId, collections=summary.run)


def _listed(butler: Butler, ref: DatasetRef) -> dict[str, Any]:
    """Return a night as the list shows it."""
    key = str(ref.id)
    if key not in _summaries:
        try:
            whole = plain(butler.get(ref))
        except FileNotFoundError:
            whole = {}  # the other nights are to be seen all the same
        told = {name: whole.get(name) for name in ("bands", "alarms", "notes")}
        for band in (told["bands"] or {}).values():
            band.pop("visits", None)
        _summaries[key] = told
    where = {"night": int(ref.dataId["day_obs"]), "chain": ref.run.rpartition(STEP)[0], "run": ref.run}
    return where | _summaries[key]
