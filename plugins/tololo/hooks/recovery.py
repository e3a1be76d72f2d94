"""The recovery of a night's injected sources in the Butler: measured, compared with limits, and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import existing, known_types
from tololo.facility import collections
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.nights import parse_night
from tololo.facility.recovery import HISTORY, HISTORY_PLOT, PLOT, SUMMARY, TABLE, Limits, alarms
from tololo.hooks.butler import ButlerHook
from tololo.hooks.calibration_candidates import runs_below
from tololo.hooks.chains import write_chain
from tololo.hooks.injection import visits_of
from tololo.hooks.results import plain, record
from tololo.hooks.selection import INSTRUMENT

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

    from tololo.reduction.recovery import Injected, Night

DATASETS = {
    TABLE: "ArrowAstropy",
    SUMMARY: "StructuredDataDict",
    PLOT: "Plot",
    HISTORY: "ArrowAstropy",
    HISTORY_PLOT: "Plot",
}
"""Dataset types and their storage classes; `tololo.reduction.recovery` says what they hold."""

STEP = "recovery"


@dataclass(frozen=True)
class NightRecovery:
    """What became of the injected sources of a night.

    Attributes
    ----------
    chain, run : `str`
        Where it is recorded; no RUN where a dry run wrote none.
    new : `bool`
        False if the same was there before.
    summary : `dict`
        ``injection_recovery_summary``.
    """

    chain: str
    run: str
    new: bool
    summary: dict[str, Any]

    @property
    def alarms(self) -> list[str]:
        """Sentences about what is beyond a limit."""
        return list(self.summary["alarms"])

    def lines(self) -> Iterator[str]:
        """Say it, a line for each band and for what was odd."""
        for band, found in self.summary["bands"].items():
            yield f"Band {band}: {describe(found)}"
        yield from self.summary["notes"]


class RecoveryHook(ButlerHook):
    """A Butler repository, and what became of injected sources in it."""

    def measure(self, chain: str, limits: Limits | None = None, *, dry_run: bool = False) -> NightRecovery:
        """Measure and record the recovery of a night: `measure_recovery`."""
        with self.session(writeable=not dry_run) as butler:
            return measure_recovery(butler, chain, limits, dry_run=dry_run)


def measure_recovery(
    butler: Butler, chain: str, limits: Limits | None = None, *, dry_run: bool = False
) -> NightRecovery:
    """Compare the injected sources of a night with what was found, and record it in front of the chain.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    chain : `str`
        Difference images with injected sources, such as ``20190401/2019/meanclip/diff_drp_injected``. Those
        without are looked for in the chain of the same name without ``_injected``.
    limits : `~tololo.facility.recovery.Limits`, optional
    dry_run : `bool`, optional
        Write nothing.

    Raises
    ------
    BadInputError
        If the chain is none of injected difference images, or the catalogue has no source on its detectors.
    NothingToDoError
        If there are no such difference images.

    Notes
    -----
    All is written in one transaction, and the chain after it. What a killed process leaves is found by the
    next, which writes the chain, or takes the empty RUN. What is there already is not written again.
    """
    from tololo.reduction.recovery import bins

    limits = limits or Limits()
    night = _night_of(chain)
    measured, catalogue = _gather(butler, chain)
    summary: dict[str, Any] = plain(_summary(chain, night, measured, catalogue, limits))
    runs = runs_below(butler, f"{chain}/{STEP}")
    products: dict[str, Any] = {TABLE: bins(measured), SUMMARY: summary}
    earlier = [item for item in summaries(butler, chain) if int(item["night"]) < night]
    run = _same(butler, night, runs, products, earlier)
    is_new = run is None
    if not dry_run:
        if run is None:
            whole = products | _told(products, earlier)
            run = record(butler, chain, STEP, runs, whole, DATASETS, instrument=INSTRUMENT, day_obs=night)
        write_chain(butler, chain, [run])
    return NightRecovery(chain, run or "", is_new, summary)


def summaries(butler: Butler, chain: str) -> list[dict[str, Any]]:
    """Return the newest ``injection_recovery_summary`` of each night, for chains that differ in it only."""
    _, _, rest = chain.partition("/")
    runs, _ = existing(butler, [f"*/{rest}/{STEP}/*"])
    if not runs or not known_types(butler, [SUMMARY]):
        return []
    newest: dict[int, DatasetRef] = {}
    for ref in butler.query_datasets(SUMMARY, runs, find_first=False, limit=None, explain=False):
        night = int(ref.dataId["day_obs"])
        if night not in newest or ref.run == collections.newest_first([ref.run, newest[night].run])[0]:
            newest[night] = ref
    return [dict(butler.get(newest[night])) for night in sorted(newest)]


def describe(found: dict[str, Any]) -> str:
    """Return the numbers of a band in one line."""
    parts = [f"{found['recovered']} of {found['injected']} injected sources recovered"]
    if found["depth"] is None:
        parts.append(f"depth not known ({found['depth_note']})")
    else:
        parts.append(f"half complete at {found['depth']:.2f} mag")
    for name, form in (("completeness", "{:.1%} of the bright ones"), ("purity", "purity {:.1%}")):
        if found[name] is not None:
            parts.append(form.format(found[name]))
    if found["bias"] is not None:
        parts.append(f"fluxes {100 * found['bias']:+.1f} %")
    return ", ".join(parts)


def _night_of(chain: str) -> int:
    last = chain.rpartition("/")[2]
    if not (last.startswith(collections.DIFFERENCE) and last.endswith(collections.INJECTED)):
        raise BadInputError(
            "This is no chain of difference images with injected sources",
            f"chain {chain}",
            "name one like 20190401/2019/meanclip/diff_drp_injected",
        )
    return parse_night(chain.partition("/")[0])


def _gather(butler: Butler, chain: str) -> tuple[Night, str]:
    """Read what was injected and found, and follow each source; return also the catalogue's name."""
    from tololo.reduction.recovery import Night

    truth, sources = (_refs(butler, kind, chain) for kind in ("injected_source", "dia_source_unfiltered"))
    both = sorted(truth.keys() & sources.keys())
    if not both:
        raise NothingToDoError(
            "There are no difference images with injected sources",
            chain,
            "run difference_imaging for this night with the param injected",
        )
    without_injected = _refs(butler, "dia_source_unfiltered", chain.removesuffix(collections.INJECTED))
    seeing = _seeing(butler, chain)

    def detectors() -> Iterator[Injected]:
        from tololo.reduction.recovery import Injected

        for key in both:
            without = without_injected.get(key)
            yield Injected(
                *key,
                band=str(truth[key].dataId["band"]),
                seeing=seeing.get(key, float("nan")),
                truth=butler.get(truth[key]),
                sources=butler.get(sources[key]),
                plain=None if without is None else butler.get(without),
            )

    names = [name for name in butler.collections.query(chain, flatten_chains=True) if _is_catalogue(name)]
    catalogue = names[0].partition("/")[2] if names else ""
    night = Night.of(detectors())
    if not len(night.injected):
        raise BadInputError(
            f"The catalogue {catalogue} has no source that could be found on the night's detectors",
            f"{chain}, {len(both)} difference images",
            "inject a catalogue that covers the night's fields and bands, or `auto`",
        )
    return night, catalogue


def _is_catalogue(name: str) -> bool:
    return name.startswith(f"{collections.INJECTIONS}/")


def _refs(butler: Butler, kind: str, chain: str) -> dict[tuple[int, int], DatasetRef]:
    if not existing(butler, [chain])[0] or not known_types(butler, [kind]):
        return {}
    refs = butler.query_datasets(kind, chain, with_dimension_records=True, limit=None, explain=False)
    return {(int(ref.dataId["visit"]), int(ref.dataId["detector"])): ref for ref in refs}


def _seeing(butler: Butler, chain: str) -> dict[tuple[int, int], float]:
    """Return the FWHM (arcsec) by visit and detector: of the visits as they are without sources."""
    visits = visits_of(chain)
    if not existing(butler, [visits])[0] or not known_types(butler, ["visit_summary"]):
        return {}
    refs = butler.query_datasets("visit_summary", visits, limit=None, explain=False)
    rows = (row for ref in refs for row in butler.get(ref))
    return {(int(row["visit"]), int(row["detector"])): float(row["fwhm"]) for row in rows}


def _summary(chain: str, night: int, measured: Night, catalogue: str, limits: Limits) -> dict[str, Any]:
    from tololo.reduction.recovery import summarise

    bands = summarise(measured)
    return {
        "night": night,
        "chain": chain,
        "catalogue": catalogue,
        "detectors": measured.detectors,
        "without_plain": measured.without_plain,
        "bands": bands,
        "alarms": alarms(bands, limits),
        "notes": list(_notes(measured)),
        "limits": asdict(limits),
    }


def _notes(measured: Night) -> Iterator[str]:
    """Say what could not be measured."""
    if missing := sorted(measured.observed - set(measured.bands)):
        yield f"No injected source could be found in {', '.join(missing)}: the catalogue has none there."
    if measured.without_plain:
        yield (
            f"{measured.without_plain} of {measured.detectors} detectors have no difference image without "
            "injected sources: their new detections are not counted."
        )


def _told(products: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the night's plot, and the history with the nights before it."""
    from tololo.reduction.recovery_history import history, plot_history
    from tololo.reduction.recovery_plots import plot_recovery

    summary = products[SUMMARY]
    told = history([*earlier, summary])
    return {
        PLOT: plot_recovery(products[TABLE], summary),
        HISTORY: told,
        HISTORY_PLOT: plot_history(told, summary["limits"]),
    }


def _same(
    butler: Butler, night: int, runs: list[str], products: dict[str, Any], earlier: list[dict[str, Any]]
) -> str | None:
    """Return the newest RUN if it says the same, of the nights before too."""
    from tololo.reduction.recovery_history import history
    from tololo.reduction.scorecard import is_same

    if not runs or not known_types(butler, [SUMMARY]):
        return None
    before = {}
    for kind in (TABLE, SUMMARY, HISTORY):
        ref = butler.find_dataset(kind, instrument=INSTRUMENT, day_obs=night, collections=runs[0])
        if ref is None:
            return None
        before[kind] = butler.get(ref)
    told = history([*earlier, products[SUMMARY]])
    same = is_same(before[TABLE], products[TABLE]) and is_same(before[HISTORY], told)
    return runs[0] if same and plain(before[SUMMARY]) == products[SUMMARY] else None
