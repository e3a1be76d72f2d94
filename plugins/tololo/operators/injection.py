"""The operator that brings the catalogue of injected sources into the repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tololo.facility import collections
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.operators.task import FacilityOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

AUTO = "auto"
"""Value of the param that asks for a catalogue made for the night."""


class IngestInjectionCatalogOperator(FacilityOperator):
    """See that the repository has the catalogue of the sources that a run injects.

    Reads the params ``injected`` and ``dry_run``. ``injected`` is empty (nothing is injected: a skip), the
    name of a catalogue that has been ingested, a file, which is ingested under its name without the ending,
    or ``auto``: a catalogue is made for the night's visits. What has been ingested adds nothing. The chain
    belongs to this catalogue from then on; one that belongs to another is refused.

    Returns the catalogue, its collection, how many sources it has, their bands, and whether it is new; for
    difference images also the pipeline that makes them, and which collections it needs of the night.

    :param chain: chain of the visits or difference images with these sources (templated).
    :param conn_id: connection of the repository (templated).
    """

    template_fields: Sequence[str] = (*FacilityOperator.template_fields, "chain", "conn_id")

    def __init__(self, *, chain: str, conn_id: str = "{{ params.repo }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chain = chain
        self.conn_id = conn_id

    def work(self, context: Context) -> dict[str, Any]:
        """Find or ingest."""
        from tololo.hooks.injection import InjectionHook

        injected = str(context["params"]["injected"] or "").strip()
        if not injected:
            raise NothingToDoError("This run injects no sources")
        if not collections.is_injected(self.chain):
            raise BadInputError(
                f"The chain {self.chain} is one without injected sources",
                "chain of the run",
                f"use {collections.injected(self.chain)}",
            )
        dry_run = bool(context["params"].get("dry_run"))
        hook = InjectionHook.from_connection(self.conn_id)
        if injected == AUTO:
            report = hook.automatic(self.chain, dry_run=dry_run)
        elif is_name(injected):
            report = hook.find(injected)
        else:
            report = hook.ingest(injected, dry_run=dry_run)
        hook.claim(self.chain, report.catalogue, dry_run=dry_run)
        self.log.info("%s%s", "Dry run, nothing was written: " if dry_run else "", report)
        returned = {
            "catalogue": report.catalogue,
            "collection": report.collection,
            "sources": report.sources,
            "bands": list(report.bands),
            "new": report.new,
        }
        if self.chain.rpartition("/")[2].startswith(collections.DIFFERENCE):
            returned["pipeline"], returned["inputs"] = hook.route(self.chain, report)
        return returned


def is_name(injected: str) -> bool:
    """Tell the name of a catalogue from a file: a file has a folder or an ending."""
    return not set(injected) & set("/.")
