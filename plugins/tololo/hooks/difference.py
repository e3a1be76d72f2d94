"""What the difference images of a night are made of, and which nights come before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tololo.engine.repositories import existing, find_collection, known_types
from tololo.facility import collections
from tololo.facility.errors import NothingToDoError
from tololo.facility.scorecard import REJECTED
from tololo.hooks.butler import ButlerHook
from tololo.hooks.visit_chains import LeftOut, left_out, visit_chains

if TYPE_CHECKING:
    from collections.abc import Collection

    from lsst.daf.butler import Butler


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
            There is no such processing type.
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
        return DifferenceInputs(chain, sorted(visits), rejected, template, version)

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
