"""What the Butler holds of a night that follows from the APDB, and goes when the night is taken out of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tololo.engine.repositories import existing, known_types
from tololo.facility import collections
from tololo.hooks.butler import ButlerHook

TASKS = ("associateApdb", "forcedPhotDiaObject", "packageAlerts")
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
            runs, _ = existing(butler, [f"{chain}/*" for chain in chains])
            refs = (
                [
                    ref
                    for kind in known_types(butler, PRODUCTS)
                    for ref in (
                        butler.query_datasets(kind, runs, find_first=False, explain=False, limit=None)
                    )
                ]
                if runs
                else []
            )
            butler.pruneDatasets(refs, disassociate=True, unstore=True, purge=True)
        return len(refs)
