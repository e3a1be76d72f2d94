"""What the Butler holds of a night that follows from the APDB, and goes when the night is taken out of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tololo.engine.repositories import existing, known_types
from tololo.facility import collections
from tololo.hooks.butler import ButlerHook

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

type Detectors = set[tuple[int, int]]
"""Visits and detectors."""

ALERTS = "packageAlerts"
TASKS = ("associateApdb", "forcedPhotDiaObject", ALERTS)
PRODUCTS = (
    "dia_object",
    "association_summary",
    "forced_source",
    "alert_packets",
    *(f"{label}_{kind}" for label in TASKS for kind in ("metadata", "log")),
)
"""Outputs, metadata and logs of `TASKS`: where they are gone, the next run of the night makes them again."""


@dataclass(frozen=True)
class ApdbProducts:
    """The products of the nights of one template.

    Parameters
    ----------
    butler : `~tololo.hooks.butler.ButlerHook`
    coadd_subset, template_type : `str`
        Which template the difference images are made with.
    """

    butler: ButlerHook
    coadd_subset: str
    template_type: str

    def remove(self, nights: Iterable[int]) -> int:
        """Remove what followed from the APDB in the chains of nights; returns how many datasets.

        Difference images and their sources stay: they do not depend on the APDB.
        """
        chains = [
            collections.chain(f"diff_{visits}", night, self.coadd_subset, self.template_type)
            for night in nights
            for visits in ("drp", "instcal")
        ]
        with self.butler.session(writeable=True) as butler:
            return _remove(butler, chains, PRODUCTS)

    def renew(
        self,
        chain: str,
        where: str,
        held: Callable[[Detectors], Collection[tuple[int, int]]],
        *,
        alerts: bool = True,
    ) -> Detectors:
        """Remove what followed from the APDB in a chain, unless it speaks of all that is to be in the APDB.

        The Butler knows an association as done by its night. It is not where detectors were differenced
        since, or the APDB has been reset, is another one, or has lost the night to a replay that was cut off.

        Parameters
        ----------
        chain : `str`
            Difference images of a night.
        where : `str`
            Data query that chooses those that are about to be associated. What follows from others stays.
        held : callable
            Takes visits and detectors, and returns which of them the APDB holds.
        alerts : `bool`, optional
            Remove their alert packets too.

        Returns
        -------
        outdated : `set` [`tuple` [`int`, `int`]]
            Visits and detectors that are to be associated and have not been.
        """
        with self.butler.session(writeable=True) as butler:
            images = _detectors(butler, chain, where)
            told = images & _associated(butler, chain)
            outdated = images - (told & set(held(told)) if told else told)
            if outdated:
                kinds = [kind for kind in PRODUCTS if alerts or not _is_alert(kind)]
                _remove(butler, [chain], kinds, images)
            return outdated


def _remove(
    butler: Butler, chains: Iterable[str], kinds: Iterable[str], images: Detectors | None = None
) -> int:
    """Remove datasets from the RUNs of chains, of visits and detectors only those that are named."""
    runs, _ = existing(butler, [f"{chain}/*" for chain in chains])
    refs = [
        ref
        for kind in (known_types(butler, kinds) if runs else ())
        for ref in butler.query_datasets(kind, runs, find_first=False, explain=False, limit=None)
        if images is None or "detector" not in ref.dataId or _key(ref) in images
    ]
    butler.pruneDatasets(refs, disassociate=True, unstore=True, purge=True)
    return len(refs)


def _detectors(butler: Butler, chain: str, where: str) -> Detectors:
    """Return which difference images of a chain a data query chooses."""
    from lsst.daf.butler import InvalidQueryError

    if not existing(butler, [chain])[0] or not known_types(butler, ["difference_image"]):
        return set()
    try:
        with butler.query() as query:
            return set(map(_key, query.where(where).datasets("difference_image", chain)))
    except InvalidQueryError:  # it names a patch, say
        with butler.query() as query:
            joined = query.join_dimensions(("visit", "detector", "tract", "patch"))
            return set(map(_key, joined.where(where).datasets("difference_image", chain)))


def _associated(butler: Butler, chain: str) -> Detectors:
    """Return what the newest association of a chain speaks of."""
    if not existing(butler, [chain])[0] or not known_types(butler, ["association_summary"]):
        return set()
    refs = butler.query_datasets("association_summary", chain, explain=False, limit=None)
    return {(int(row["visit"]), int(row["detector"])) for ref in refs for row in butler.get(ref)}


def _key(ref: DatasetRef) -> tuple[int, int]:
    return int(ref.dataId["visit"]), int(ref.dataId["detector"])


def _is_alert(kind: str) -> bool:
    return kind == "alert_packets" or kind.startswith(ALERTS)
