"""How good a version of a template is: measured, recorded in the version, and judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import find_collection, known_types
from tololo.engine.template_versions import count_of, current_version, read_records, settings_of
from tololo.facility.errors import NothingToDoError
from tololo.facility.templates import METRICS, PLOT, SUMMARY, TABLE, Judgement, Limits, judge
from tololo.hooks.calibration_candidates import runs_below
from tololo.hooks.chains import write_chain
from tololo.hooks.results import plain, record

if TYPE_CHECKING:
    from astropy.table import Table
    from lsst.daf.butler import Butler

STEP = "summary"
DATASETS = {TABLE: "ArrowAstropy", SUMMARY: "StructuredDataDict", PLOT: "Plot"}
"""Dataset types of a version, with the dimension skymap, and their storage classes."""


@dataclass(frozen=True)
class VersionScore:
    """What came of a version.

    Attributes
    ----------
    version, run : `str`
        The version, and the RUN that holds its summary.
    is_new : `bool`
        False if the same was recorded before.
    judgement : `~tololo.facility.templates.Judgement`
        What the limits say of it.
    summary : `dict`
        ``template_summary``.
    text, report : `str`
        The same for a log, and as Markdown.
    """

    version: str
    run: str
    is_new: bool
    judgement: Judgement
    summary: dict[str, Any]
    text: str
    report: str


def score_version(
    butler: Butler, chain: str, version: str, skymap: str, limits: Limits | None = None
) -> VersionScore:
    """Gather the metrics of a version, record them as a whole, and judge.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable.
    chain, version : `str`
        ``{coadd}`` and ``{coadd}/v<N>``.
    skymap : `str`
        Its name.
    limits : `~tololo.facility.templates.Limits`, optional

    Raises
    ------
    NothingToDoError
        If the version holds no template.

    Notes
    -----
    The three datasets are written in one transaction, then the chain of the version. A RUN that a killed
    process leaves empty is taken by the next; the same metrics again write nothing.
    """
    from tololo.reduction.template_plots import plot_template
    from tololo.reduction.template_summary import describe, report, summarise

    if not (templates := count_of(butler, "template_coadd", version)):
        raise NothingToDoError(
            "The version holds no template", version, "look at the task that should have made it"
        )
    table = read_metrics(butler, version)
    settings = settings_of(read_records(butler, version), version) or {}
    summary = summarise(table, version, templates, settings, limits)
    judgement = _judge(butler, chain, version, table, summary, limits)
    runs = runs_below(butler, f"{version}/{STEP}")
    run = _same(butler, skymap, runs, table, summary)
    is_new = run is None
    if run is None:
        products = {TABLE: table, SUMMARY: plain(summary), PLOT: plot_template(table, summary)}
        run = record(butler, version, STEP, runs, products, DATASETS, skymap=skymap)
    write_chain(butler, version, [run])
    figure = butler.getURI(PLOT, skymap=skymap, collections=run).ospath
    return VersionScore(
        version,
        run,
        is_new,
        judgement,
        summary,
        describe(summary, judgement),
        report(summary, judgement, figure),
    )


def read_metrics(butler: Butler, version: str) -> Table:
    """Return ``template_metrics`` of all patches and bands of a version, without rows if there are none."""
    from astropy.table import Table, vstack

    refs = []
    if known_types(butler, [METRICS]) and find_collection(butler, version):
        refs = butler.query_datasets(METRICS, version, limit=None, explain=False)
    if not refs:
        return Table(names=("band",), dtype=("U8",))
    table = vstack([butler.get(ref) for ref in refs], metadata_conflicts="silent")
    table.sort(["band", "tract", "patch"])
    return table


def _judge(
    butler: Butler,
    chain: str,
    version: str,
    table: Table,
    summary: dict[str, Any],
    limits: Limits | None,
) -> Judgement:
    from tololo.reduction.template_summary import rows_of

    current = current_version(butler, chain)
    before = read_metrics(butler, current) if current and current != version else []
    found = judge(rows_of(table), limits, rows_of(before) if len(before) else ())
    if missing := summary["unmeasured"]:
        reason = f"{missing} of {summary['templates']} templates have not been measured."
        return Judgement(False, list(dict.fromkeys([*found.reasons, reason])), found.poor)
    return found


def _same(butler: Butler, skymap: str, runs: list[str], table: Table, summary: dict[str, Any]) -> str | None:
    """Return the RUN of the newest summary if it says the same."""
    from tololo.reduction.scorecard import is_same

    if not runs or not known_types(butler, [SUMMARY]):
        return None
    ref = butler.find_dataset(SUMMARY, skymap=skymap, collections=runs)
    if ref is None or butler.get(ref) != plain(summary):
        return None
    before = butler.get(TABLE, skymap=skymap, collections=ref.run)
    return ref.run if is_same(before, table) else None
