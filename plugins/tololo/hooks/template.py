"""Templates and their versions in the Butler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tololo.facility import collections
from tololo.facility.errors import NothingToDoError
from tololo.facility.nights import select_nights
from tololo.facility.scorecard import FLAGGED, REJECTED
from tololo.hooks.butler import ButlerHook
from tololo.hooks.chains import write_chain
from tololo.hooks.visit_chains import LeftOut, left_out, visit_chains

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef


@dataclass(frozen=True)
class TemplateSelection:
    """Visits that make one version of a template.

    ``version`` is the collection of the version's RUNs, ``inputs`` the TAGGED collection of its visit images;
    where a dry run made none, the chains of the nights, separated by commas. ``left_out`` are the visits that
    were selected too and that the scorecard of their night does not accept.
    """

    version: str
    inputs: str
    nights: list[int]
    n_visits: int
    n_images: int
    is_new: bool
    left_out: LeftOut = field(default_factory=LeftOut)


class TemplateHook:
    """The versions of one template.

    A version is a set of visit images: it is tagged in ``{coadd}/v<N>/inputs`` and never changes. The RUNs of
    the version lie below ``{coadd}/v<N>``, and the chain ``{coadd}`` points at the accepted one.

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
        self, nights: str, where: str, *, proc_type: str | None = None, dry_run: bool = False
    ) -> TemplateSelection:
        """Choose visit images and find or make the version that they are.

        Visits that the scorecard of their night flags or rejects are left out; of a night without a scorecard
        all are taken.

        Parameters
        ----------
        nights : `str`
            List, range or glob; empty for all nights that have visits.
        where : `str`
            Data query on the visits.
        proc_type : `str`, optional
            ``drp`` or ``instcal``, as `~tololo.hooks.visit_chains.visit_chains` takes it.
        dry_run : `bool`
            Write nothing.

        Raises
        ------
        NothingToDoError
            No visit image is selected, or none that is good enough.
        BadInputError
            The nights cannot be read, or there is no such processing type.
        """
        with self.butler_hook.open(writeable=not dry_run) as butler:
            there = visit_chains(butler, proc_type)
            chosen = select_nights(nights, there) if nights.strip() else sorted(there)
            chains = [there[night] for night in chosen if night in there]
            selected = self._images(butler, chains, where)
            if not selected:
                nights_there = ", ".join(map(str, there)) or "none"
                raise NothingToDoError(
                    f"No visit image is selected by nights {nights or 'all'!r} and {where or 'no query'!r}",
                    f"{self.butler_hook.repository}: visits of nights {nights_there}",
                    "run nightly_decam for these nights",
                )
            visits = {int(ref.dataId["visit"]) for ref in selected}
            not_good = left_out(butler, chains, (FLAGGED, REJECTED)).of(visits)
            refs = [ref for ref in selected if ref.dataId["visit"] not in not_good.visits]
            if not refs:
                raise NothingToDoError(
                    f"None of the {len(visits)} visits that are selected is good enough: {not_good}",
                    f"{self.butler_hook.repository}: scorecards of {', '.join(chains)}",
                    "look at the scorecards; their limits are in facility.yaml",
                )
            number, is_new = self._version(butler, refs)
            version = collections.template_version(self.coadd_subset, self.template_type, number)
            inputs = f"{version}/inputs"
            used = sorted({int(ref.run.partition("/")[0]) for ref in refs})
            if not dry_run:
                self._tag(butler, inputs, refs)
            elif is_new:
                inputs = ",".join(there[night] for night in used)
            n_visits = len(visits - not_good.visits.keys())
            return TemplateSelection(version, inputs, used, n_visits, len(refs), is_new, not_good)

    def accept(self, version: str) -> int:
        """Point the chain at a version; return how many templates it holds.

        Raises
        ------
        NothingToDoError
            The version holds no template.
        """
        with self.butler_hook.open(writeable=True) as butler:
            if not _templates(butler, version):
                raise NothingToDoError(
                    "The version holds no template", version, "look at the task that should have made it"
                )
            inputs = [
                f"{version}/inputs",
                *collections.chain_inputs("coadd", "", self.coadd_subset, self.template_type)[1:],
            ]
            write_chain(
                butler,
                collections.coadd_inputs(self.coadd_subset, self.template_type),
                (),
                inputs[:1],
                drop=True,
            )
            write_chain(butler, self.chain, (), [version, *inputs[1:]], drop=True)
            return _templates(butler, self.chain)

    @staticmethod
    def _images(butler: Butler, chains: list[str], where: str) -> list[DatasetRef]:
        if not chains or not list(butler.registry.queryDatasetTypes("visit_image")):
            return []
        query = f"instrument = 'DECam' AND ({where})" if where else "instrument = 'DECam'"
        return list(
            butler.query_datasets(
                "visit_image", chains, where=query, find_first=True, limit=None, explain=False
            )
        )

    def _version(self, butler: Butler, refs: list[DatasetRef]) -> tuple[int, bool]:
        """Return the number of the version with exactly these inputs, or the next free one."""
        wanted = {ref.id for ref in refs}
        number, taken_up = 0, 0
        for name in butler.collections.query(f"{self.chain}/v*/inputs"):
            version = collections.version_of(name, self.chain) or 0
            number = max(number, version)
            tagged = {ref.id for ref in butler.query_datasets("visit_image", name, limit=None, explain=False)}
            if tagged == wanted:
                return version, False
            # A selection that was killed while it was tagged holds a part of what it wanted.
            if tagged < wanted and not _templates(butler, name.removesuffix("/inputs")):
                taken_up = version
        return taken_up or number + 1, True

    @staticmethod
    def _tag(butler: Butler, inputs: str, refs: list[DatasetRef]) -> None:
        from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

        butler.collections.register(inputs, CollectionType.TAGGED)
        butler.registry.associate(inputs, refs)


def _templates(butler: Butler, name: str) -> int:
    if name not in butler.collections.query("*") or not list(
        butler.registry.queryDatasetTypes("template_coadd")
    ):
        return 0
    return len(butler.query_datasets("template_coadd", name, find_first=True, limit=None, explain=False))
