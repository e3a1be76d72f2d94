"""Templates and their versions in the Butler."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tololo.engine.template_versions import (
    Record,
    TemplateVersion,
    count_of,
    read_records,
    read_versions,
    settings_of,
)
from tololo.facility import collections
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.nights import select_nights
from tololo.facility.template_selection import LeftOut, Selection, choose
from tololo.facility.templates import ACCEPTED, CANDIDATE, REJECTED, SUPERSEDED, WARPS, State, median
from tololo.hooks.butler import ButlerHook
from tololo.hooks.chains import write_chain
from tololo.hooks.template_records import put_record, register_run
from tololo.hooks.template_visits import candidates, visit_images
from tololo.hooks.visit_chains import visit_chains

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

SEEING_MARGIN = 1.1
"""PSF-matched warps get the worst median seeing of their visits, times this: detectors differ."""


@dataclass(frozen=True)
class TemplateSelection:
    """Visits that make one version of a template.

    ``version`` is the collection of the version's RUNs, ``inputs`` the TAGGED collection of its visit images;
    where a dry run made none, the chains of the nights, separated by commas. ``settings`` are those of the
    version, ``bands`` tells visits and median seeing (arcsec, NaN if not known) of each, ``left_out`` the
    visits that were asked for too and are not taken.
    """

    version: str
    inputs: str
    nights: list[int]
    n_visits: int
    n_images: int
    is_new: bool
    settings: dict[str, Any] = field(default_factory=dict)
    bands: dict[str, tuple[int, float]] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)


class TemplateHook:
    """The versions of one template.

    A version is a set of visit images and the settings by which they are combined: the images are tagged in
    ``{coadd}/v<N>/inputs``, the settings are in its first record (`tololo.engine.template_versions`), and
    neither changes. The RUNs of the version lie below ``{coadd}/v<N>``, and the chain ``{coadd}`` points at
    the accepted one.

    Parameters
    ----------
    butler_hook : `ButlerHook`
        The repository.
    coadd_subset, template_type : `str`
        Name of the template.
    """

    def __init__(self, butler_hook: ButlerHook, coadd_subset: str, template_type: str) -> None:
        self.butler_hook = butler_hook
        self.coadd_subset = coadd_subset
        self.template_type = template_type
        self.chain = collections.coadd(coadd_subset, template_type)

    def select(
        self,
        nights: str,
        where: str,
        *,
        proc_type: str | None = None,
        selection: Selection | None = None,
        warp: str = WARPS[0],
        dry_run: bool = False,
    ) -> TemplateSelection:
        """Choose visit images and find or make the version that they are.

        Parameters
        ----------
        nights : `str`
            List, range or glob; empty for all nights that have visits.
        where : `str`
            Data query on the visits.
        proc_type : `str`, optional
            ``drp`` or ``instcal``, as `~tololo.hooks.visit_chains.visit_chains` takes it.
        selection : `~tololo.facility.template_selection.Selection`, optional
            The rules; of a night without a scorecard all visits count as accepted.
        warp : `str`, optional
            One of `~tololo.facility.templates.WARPS`.
        dry_run : `bool`
            Write nothing.

        Raises
        ------
        NothingToDoError
            No visit image is selected, or none that is good enough.
        BadInputError
            The nights cannot be read, or there is no such processing type or kind of warp.

        Notes
        -----
        First the images are tagged, then the settings are recorded. What a killed process leaves (tags
        without a record, or a part of the tags) is taken up, as long as nothing was made from it.
        """
        rules = selection or Selection()
        with self.butler_hook.session(writeable=not dry_run) as butler:
            there = visit_chains(butler, proc_type)
            chosen = select_nights(nights, there) if nights.strip() else sorted(there)
            chains = [there[night] for night in chosen if night in there]
            images = visit_images(butler, chains, where)
            if not images:
                nights_there = ", ".join(map(str, there)) or "none"
                raise NothingToDoError(
                    f"No visit image is selected by nights {nights or 'all'!r} and {where or 'no query'!r}",
                    f"{self.butler_hook.repository}: visits of nights {nights_there}",
                    "run nightly_decam for these nights",
                )
            known, unscored = candidates(butler, chains, images)
            visits, why_not = choose(known, rules)
            left_out = LeftOut(why_not, unscored)
            if not visits:
                raise NothingToDoError(
                    f"None of the {len(known)} visits that are selected is good enough: {left_out}",
                    f"{self.butler_hook.repository}: scorecards and summaries of {', '.join(chains)}",
                    "change the selection; the limits of the scorecard are in facility.yaml",
                )
            numbers = {item.visit for item in visits}
            refs = [ref for ref in images if ref.dataId["visit"] in numbers]
            settings = _settings(warp, [item.seeing for item in visits])
            number, is_new = self._find(butler, refs, settings)
            version = collections.template_version(self.coadd_subset, self.template_type, number)
            inputs = f"{version}/inputs"
            used = sorted({int(ref.run.partition("/")[0]) for ref in refs})
            if not dry_run:
                _tag(butler, inputs, refs)
                self._begin(butler, version, settings, rules, f"{len(visits)} visits, {len(refs)} images")
            elif is_new:
                inputs = ",".join(there[night] for night in used)
            bands = {
                band: (
                    sum(item.band == band for item in visits),
                    median(item.seeing for item in visits if item.band == band),
                )
                for band in sorted({item.band for item in visits})
            }
            return TemplateSelection(
                version, inputs, used, len(visits), len(refs), is_new, settings, bands, left_out
            )

    def versions(self) -> list[TemplateVersion]:
        """List the versions, the first one first."""
        with self.butler_hook.session() as butler:
            return read_versions(butler, self.chain)

    def accept(self, version: str, *, who: str = "", why: str = "") -> int:
        """Point the chain at a version; return how many templates it holds.

        The version that was accepted before is superseded. Chains and records change in one transaction: a
        process that is killed has done all of it or nothing. A version that is accepted already stays as it
        is.

        Parameters
        ----------
        version : `str`
            ``{coadd}/v<N>``.
        who, why : `str`, optional
            For the record.

        Raises
        ------
        NothingToDoError
            The version holds no template.
        """
        with self.butler_hook.session(writeable=True) as butler:
            if not (count := count_of(butler, "template_coadd", version)):
                raise NothingToDoError(
                    "The version holds no template", version, "look at the task that should have made it"
                )
            by_name = {item.name: item for item in read_versions(butler, self.chain)}
            changes = {
                name: (SUPERSEDED, f"{version} was accepted")
                for name, item in by_name.items()
                if name != version and item.state == ACCEPTED
            }
            # Its own state may follow from the chain alone: a version of old has no record.
            if not by_name[version].is_current or by_name[version].latest.state != ACCEPTED:
                changes[version] = ACCEPTED, why
            inputs_chain = collections.coadd_inputs(self.coadd_subset, self.template_type)
            inputs = [
                f"{version}/inputs",
                *collections.chain_inputs("coadd", "", self.coadd_subset, self.template_type)[1:],
            ]
            self._register(butler, inputs_chain, self.chain)
            runs = {name: register_run(butler, name) for name in changes}
            with butler.transaction():
                write_chain(butler, inputs_chain, (), inputs[:1], drop=True)
                write_chain(butler, self.chain, (), [version, *inputs[1:]], drop=True)
                for name, (state, reason) in changes.items():
                    self._record(butler, by_name[name], runs[name], state, who, reason)
            return count

    def reject(self, version: str, *, who: str = "", why: str = "") -> None:
        """Record that a version is not to be used; the chain stays as it is.

        Raises
        ------
        BadInputError
            It is the accepted one, or there is no such version.
        """
        with self.butler_hook.session(writeable=True) as butler:
            found = {item.name: item for item in read_versions(butler, self.chain)}.get(version)
            if found is None:
                raise BadInputError("There is no such version", version, f"see the versions of {self.chain}")
            if found.is_current:
                raise BadInputError(
                    "The accepted version cannot be rejected", version, "accept another one in its place"
                )
            if (found.latest.state, found.latest.who, found.latest.why) != (REJECTED, who, why):
                self._record(butler, found, register_run(butler, version), REJECTED, who, why)

    def _find(
        self, butler: Butler, refs: Collection[DatasetRef], settings: dict[str, Any]
    ) -> tuple[int, bool]:
        """Return the number of the version with these inputs and settings, or the next free one."""
        wanted = {ref.id for ref in refs}
        records = read_records(butler, f"{self.chain}/v*")
        number, taken_up = 0, 0
        for inputs in butler.collections.query(f"{self.chain}/v*/inputs"):
            version = collections.version_of(inputs, self.chain) or 0
            number = max(number, version)
            name = inputs.removesuffix("/inputs")
            is_made = bool(count_of(butler, "template_coadd", name))
            begun = settings_of(records, name)
            if (begun or ({"warp": WARPS[0]} if is_made else settings)) != settings:
                continue
            tagged = {
                ref.id for ref in butler.query_datasets("visit_image", inputs, limit=None, explain=False)
            }
            if tagged == wanted:
                return version, False
            # A selection that was killed while it was tagged holds a part of what it wanted.
            if tagged < wanted and begun is None and not is_made:
                taken_up = version
        return taken_up or number + 1, True

    def _begin(
        self, butler: Butler, version: str, settings: dict[str, Any], rules: Selection, why: str
    ) -> None:
        """Record a version as a candidate, unless it is recorded."""
        if not read_records(butler, version):
            record = Record(CANDIDATE, "selection", why, settings, asdict(rules))
            put_record(butler, register_run(butler, version), record)

    @staticmethod
    def _record(butler: Butler, version: TemplateVersion, run: str, state: State, who: str, why: str) -> None:
        put_record(
            butler,
            run,
            replace(version.latest, state=state, who=who, why=why, settings=version.settings),
        )

    @staticmethod
    def _register(butler: Butler, *chains: str) -> None:
        """Make chains that are not there; that cannot be done within a transaction."""
        from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

        for chain in chains:
            butler.collections.register(chain, CollectionType.CHAINED)


def _settings(warp: str, seeing: list[float]) -> dict[str, Any]:
    if warp not in WARPS:
        raise BadInputError(f"There are no {warp!r} warps", "param warp", f"use {' or '.join(WARPS)}")
    if warp == WARPS[0]:
        return {"warp": warp}
    known = [value for value in seeing if math.isfinite(value)]
    if len(known) < len(seeing):
        raise BadInputError(
            f"The seeing of {len(seeing) - len(known)} visits is not known, which PSF-matched warps need",
            "visit_summary",
            "run the step summary of nightly_decam, or give max_seeing to leave these visits out",
        )
    return {"warp": warp, "fwhm": round(SEEING_MARGIN * max(known), 3)}


def _tag(butler: Butler, inputs: str, refs: list[DatasetRef]) -> None:
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    butler.collections.register(inputs, CollectionType.TAGGED)
    butler.registry.associate(inputs, refs)
