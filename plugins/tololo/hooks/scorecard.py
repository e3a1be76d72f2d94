"""The scorecard of a night in the Butler: written once for what there is, and what others read of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import known_types
from tololo.facility import collections
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.nights import parse_night
from tololo.facility.scorecard import PLOT, SUMMARY, TABLE, Limits, Word
from tololo.hooks.calibration_candidates import runs_below
from tololo.hooks.chains import write_chain
from tololo.hooks.results import plain, record
from tololo.hooks.scorecard_inputs import gather
from tololo.hooks.selection import INSTRUMENT

if TYPE_CHECKING:
    from astropy.table import Table
    from lsst.daf.butler import Butler

DATASETS = {TABLE: "ArrowAstropy", SUMMARY: "StructuredDataDict", PLOT: "Plot"}
"""Dataset types and their storage classes; `tololo.reduction.scorecard` says what they hold."""

DIMENSIONS = ("instrument", "day_obs")
PROC_TYPES = ("drp", "instcal")
STEP = "scorecard"


@dataclass(frozen=True)
class NightScore:
    """What came of a night.

    Attributes
    ----------
    night : `int`
    chain, run : `str`
        Where the scorecard is; no RUN where a dry run wrote none.
    is_new : `bool`
        False if the same was there before.
    visits, accepted : `int`
    flagged, rejected : `list` [`int`]
        Visits.
    text : `str`
        The scorecard for people.
    """

    night: int
    chain: str
    run: str
    is_new: bool
    visits: int
    accepted: int
    flagged: list[int]
    rejected: list[int]
    text: str


def score_night(
    butler: Butler,
    night: int | str,
    proc_type: str,
    *,
    where: str = "",
    limits: Limits | None = None,
    dry_run: bool = False,
) -> NightScore:
    """Judge the visits of a night and record it.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    night : `int` or `str`
        YYYYMMDD.
    proc_type : `str`
        ``drp`` or ``instcal``, also with ``_injected``.
    where : `str`, optional
        Data query on what was asked for; what was tried before counts too.
    limits : `~tololo.facility.scorecard.Limits`, optional
    dry_run : `bool`, optional
        Write nothing.

    Returns
    -------
    score : `NightScore`

    Raises
    ------
    NothingToDoError
        If the night has no exposure.
    BadInputError
        If night, processing type or query are wrong.

    Notes
    -----
    The three datasets are written in one transaction, and the chain after it. What a killed process leaves is
    found by the next, which writes the chain, or takes the empty RUN.
    """
    from tololo.reduction.scorecard import score, summarise
    from tololo.reduction.scorecard_plots import plot_night
    from tololo.reduction.scorecard_text import describe

    night = parse_night(night)
    if proc_type.removesuffix(collections.INJECTED) not in PROC_TYPES:
        raise BadInputError(
            f"There is no scorecard of {proc_type!r}", "proc_type", f"use {' or '.join(PROC_TYPES)}"
        )
    chain = collections.chain(proc_type, night)
    inputs = gather(butler, night, proc_type, where)
    if not inputs.visits:
        raise NothingToDoError(f"Night {night} has no exposures", chain, "look at the ingest of this night")
    scored = score(inputs.visits, proc_type, limits)
    summary = inputs.rest | summarise(scored, limits)
    runs = _runs(butler, chain)
    run = _same(butler, night, runs, scored.table, summary)
    is_new = run is None
    if not dry_run:
        if run is None:
            plot = plot_night(scored.table, summary)
            products = {TABLE: scored.table, SUMMARY: plain(summary), PLOT: plot}
            run = record(butler, chain, STEP, runs, products, DATASETS, instrument=INSTRUMENT, day_obs=night)
        write_chain(butler, chain, [run])
    counts = {name: summary[name] for name in ("visits", "accepted", "flagged", "rejected")}
    return NightScore(
        night=night, chain=chain, run=run or "", is_new=is_new, text=describe(scored.table, summary), **counts
    )


def verdicts(butler: Butler, night: int | str, proc_type: str) -> dict[int, Word]:
    """Return what the scorecard says of the visits of a night; nothing if there is none."""
    table = read_scorecard(butler, night, proc_type)
    if table is None:
        return {}
    return {int(row["visit"]): str(row["verdict"]) for row in table}  # type: ignore[misc]


def read_scorecard(butler: Butler, night: int | str, proc_type: str) -> Table | None:
    """Return the newest ``night_scorecard`` of a night, `None` if there is none."""
    return _newest(butler, TABLE, parse_night(night), _runs(butler, collections.chain(proc_type, night)))


def read_summary(butler: Butler, night: int | str, proc_type: str) -> dict[str, Any] | None:
    """Return the newest ``night_summary`` of a night, `None` if there is none."""
    found = _newest(butler, SUMMARY, parse_night(night), _runs(butler, collections.chain(proc_type, night)))
    return None if found is None else dict(found)


def _newest(butler: Butler, kind: str, night: int, runs: list[str]) -> Any:
    if not runs or not known_types(butler, [kind]):
        return None
    ref = butler.find_dataset(kind, instrument=INSTRUMENT, day_obs=night, collections=runs)
    return None if ref is None else butler.get(ref)


def _runs(butler: Butler, chain: str) -> list[str]:
    return runs_below(butler, f"{chain}/{STEP}")


def _same(butler: Butler, night: int, runs: list[str], table: Table, summary: dict[str, Any]) -> str | None:
    """Return the RUN of the newest scorecard if it says the same."""
    from tololo.reduction.scorecard import is_same

    before = _newest(butler, TABLE, night, runs)
    if before is None or not is_same(before, table):
        return None
    if plain(_newest(butler, SUMMARY, night, runs)) != plain(summary):
        return None
    ref = butler.find_dataset(TABLE, instrument=INSTRUMENT, day_obs=night, collections=runs)
    return None if ref is None else ref.run
