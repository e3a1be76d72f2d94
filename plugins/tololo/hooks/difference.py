"""What the difference images of a night are made of, and which nights come before it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tololo.engine.repositories import existing, find_collection, known_types
from tololo.facility import collections
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.scorecard import REJECTED
from tololo.hooks.butler import ButlerHook
from tololo.hooks.visit_chains import LeftOut, left_out, visit_chains

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lsst.daf.butler import Butler, DatasetRef


@dataclass(frozen=True)
class DifferenceInputs:
    """Visits of a night, and the template that is subtracted from them.

    ``chain`` holds the visits; ``rejected`` are those that the scorecard of the night rejects. ``template``
    is the collection of the accepted version, ``version`` its name (``v3``; empty where the template's chain
    has no versions).
    """

    chain: str
    visits: list[int]
    rejected: LeftOut
    template: str
    version: str

    @property
    def proc_type(self) -> str:
        """``drp`` or ``instcal``."""
        return self.chain.partition("/")[2]


class DifferenceHook:
    """The difference images that are made with one template.

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
        self.template = collections.coadd(coadd_subset, template_type)

    def select(self, night: int | str, proc_type: str | None = None) -> DifferenceInputs:
        """Choose the visits of a night and the version of the template.

        Parameters
        ----------
        night : `int` or `str`
        proc_type : `str`, optional
            ``drp`` or ``instcal``, as `~tololo.hooks.visit_chains.visit_chains` takes it.

        Raises
        ------
        NothingToDoError
            There are no visits, none that is good enough, or no template.
        BadInputError
            There is no such processing type, or the night has difference images from another version.
        """
        with self.butler_hook.open() as butler:
            chain = visit_chains(butler, proc_type, night).get(int(night))
            if chain is None:
                where = f"{night}/{proc_type}" if proc_type else f"{night}/drp and {night}/instcal"
                raise NothingToDoError(f"Night {night} has no visits", where, "run nightly_decam for it")
            found = left_out(butler, [chain], (REJECTED,))
            refs = butler.query_datasets("visit_image", chain, limit=None, explain=False)
            visits = {int(ref.dataId["visit"]) for ref in refs}
            rejected = found.of(visits)
            if visits == rejected.visits.keys():
                raise NothingToDoError(
                    f"Night {night} has no visit that is good enough: {rejected}",
                    chain,
                    "look at the night's scorecard; its limits are in facility.yaml",
                )
            template, version = self._accepted(butler)
            self._check_version(butler, self.chain_of(chain), version)
        return DifferenceInputs(chain, sorted(visits), rejected, template, version)

    def chain_of(self, visits: str) -> str:
        """Name the chain of the difference images of a chain of visits: ``20190401/drp``."""
        night, _, proc_type = visits.partition("/")
        return collections.chain(
            collections.difference(proc_type), night, self.coadd_subset, self.template_type
        )

    def forget_uncovered(self, inputs: DifferenceInputs, *, all_of_them: bool = False) -> int:
        """Let detectors be subtracted from that had no template then, if there are templates made since.

        The record of their quanta is removed, by which these would pass for done; returns how many.

        Parameters
        ----------
        inputs : `DifferenceInputs`
            What is about to be subtracted.
        all_of_them : `bool`, optional
            Also where no template is newer: what may be subtracted has changed.
        """
        kind = "differenceDetector_metadata"
        with self.butler_hook.session(writeable=True) as butler:
            runs, _ = existing(butler, [f"{self.chain_of(inputs.chain)}/*"])
            if not runs or not known_types(butler, [kind]):
                return 0
            made = {_key(ref) for ref in _refs(butler, "difference_image", runs)}
            empty = [ref for ref in _refs(butler, kind, runs) if _key(ref) not in made]
            before = self._subtracted(butler, self.chain_of(inputs.chain))
            if empty and before == inputs.version and not all_of_them:
                newest = max(_time(ref) for ref in _refs(butler, "template_coadd", [inputs.template]))
                empty = [ref for ref in empty if _time(ref) < newest]
            butler.pruneDatasets(empty, disassociate=True, unstore=True, purge=True)
            return len(empty)

    def nights_before(self, night: int | str) -> list[int]:
        """List the nights before one that the repository has exposures of, in order."""
        with self.butler_hook.open() as butler:
            records = butler.query_dimension_records(
                "day_obs",
                where=f"instrument = 'DECam' AND day_obs < {int(night)}",
                limit=None,
                explain=False,
            )
            return sorted(int(record.id) for record in records)

    def with_visits(self, nights: Collection[int], proc_type: str | None = None) -> list[int]:
        """Choose the nights that have visits which the template is not made of."""
        with self.butler_hook.open() as butler:
            inputs, _ = existing(butler, [f"{self.template}/inputs"])
            own: set[int] = set()
            if inputs and known_types(butler, ["visit_image"]):
                refs = butler.query_datasets("visit_image", inputs, limit=None, explain=False)
                own = {int(ref.run.partition("/")[0]) for ref in refs if ref.run.partition("/")[0].isdigit()}
            return [
                night for night in visit_chains(butler, proc_type) if night in nights and night not in own
            ]

    def _check_version(self, butler: Butler, chain: str, version: str) -> None:
        """Refuse a version of the template where another was subtracted: what is done is not done again."""
        before = self._subtracted(butler, chain)
        if before and before != version and (runs := existing(butler, [f"{chain}/*"])[0]):
            if not _refs(butler, "difference_image", runs, limit=1):
                return
            raise BadInputError(
                f"The night has difference images from {before} of the template, and {version} is accepted",
                f"{chain}, template {self.template}",
                f"accept {before} again, or remove these RUNs first: bin/run butler remove-runs"
                f" {self.butler_hook.repository} '{chain}/*' --no-confirm --force",
            )

    def _subtracted(self, butler: Butler, chain: str) -> str:
        """Return the version of the template that was subtracted last; empty if none was."""
        info = find_collection(butler, chain)
        numbers = (collections.version_of(child, self.template) for child in (info.children if info else ()))
        return next((f"v{number}" for number in numbers if number), "")

    def _accepted(self, butler: Butler) -> tuple[str, str]:
        """Return the collection of the accepted version of the template, and its name."""
        there, _ = existing(butler, [self.template])
        known = bool(there) and bool(known_types(butler, ["template_coadd"]))
        if not known or not butler.query_datasets("template_coadd", self.template, limit=1, explain=False):
            raise NothingToDoError("There is no template", self.template, "run template_coadds first")
        info = find_collection(butler, self.template)
        for child in info.children if info else ():
            if number := collections.version_of(child, self.template):
                version = f"{self.template}/v{number}"
                return (version if existing(butler, [version])[0] else self.template), f"v{number}"
        return self.template, ""


def _refs(butler: Butler, kind: str, names: Sequence[str], limit: int | None = None) -> list[DatasetRef]:
    if not known_types(butler, [kind]):
        return []
    return list(butler.query_datasets(kind, names, find_first=False, limit=limit, explain=False))


def _key(ref: DatasetRef) -> tuple[int, int]:
    return int(ref.dataId["visit"]), int(ref.dataId["detector"])


def _time(ref: DatasetRef) -> datetime:
    """Return when the RUN of a dataset was begun."""
    return collections.run_time(ref.run) or datetime.min.replace(tzinfo=UTC)
