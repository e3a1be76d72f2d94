"""The operator that prepares the APDB of a night."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tololo.facility import collections
from tololo.facility.configuration import facility
from tololo.facility.errors import NothingToDoError
from tololo.facility.scorecard import REJECTED
from tololo.operators.task import FacilityOperator
from tololo.params import night_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.hooks.butler import ButlerHook


class PrepareApdbOperator(FacilityOperator):
    """See that the night has visits and the template exists, and make or take the APDB.

    Visits that the scorecard of the night rejects are left out; of a night without a scorecard all are taken.
    Reads the params ``repo``, ``night``, ``coadd_subset``, ``template_type``, ``proc_type``,
    ``injected``, ``apdb``, ``apdb_policy`` and ``dry_run``. Returns the APDB's configuration file, the
    processing type of the visits, and the data query on sky map and visits.
    """

    def work(self, context: Context) -> Any:
        """Check, then create or take."""
        from tololo.hooks.apdb import ApdbHook
        from tololo.hooks.butler import ButlerHook

        params = context["params"]
        night = night_of(context)
        subset, kind = params["coadd_subset"], params["template_type"]
        template = collections.coadd(subset, kind)
        butler = ButlerHook.from_connection(params["repo"])
        proc_type, rejected = self._visits(butler, night, params["proc_type"])
        if injected := bool(params.get("injected")):
            proc_type = collections.injected(proc_type)
            chain = collections.chain(proc_type, night)
            if not butler.count("visit_image", chain, where="instrument = 'DECam'"):
                raise NothingToDoError(
                    f"Night {night} has no visits with injected sources",
                    chain,
                    "run nightly_decam for this night with the param injected",
                )
        if not butler.count("template_coadd", template):
            raise NothingToDoError("There is no template", template, "run template_coadds first")
        hook = ApdbHook()
        name = collections.apdb(subset, kind, injected=injected, name=params["apdb"])
        where = f"skymap = '{facility().skymap}'"
        if rejected:
            where += f" AND visit NOT IN ({', '.join(map(str, rejected))})"
        returned = {"apdb": name, "where": where, "proc_type": proc_type}
        if params["dry_run"]:
            self.log.info("Dry run: the APDB would be %s, policy %s", name, params["apdb_policy"])
            return returned | {"apdb_config": str(hook.config_path(name))}
        made = hook.create(name, template=template, policy=params["apdb_policy"])
        self.log.info("APDB %s: %s", name, made)
        return returned | {"apdb_config": made["config"]}

    def _visits(self, hook: ButlerHook, night: str, wanted: str | None) -> tuple[str, list[int]]:
        """Return the processing type of the night's visits, and which of them not to use."""
        from tololo.hooks.visit_chains import left_out, visit_chains

        with hook.open() as butler:
            chain = visit_chains(butler, wanted, night).get(int(night))
            if chain is None:
                raise NothingToDoError(
                    f"Night {night} has no visits",
                    f"{night}/{wanted}" if wanted else f"{night}/drp and {night}/instcal",
                    "run nightly_decam for this night",
                )
            found = left_out(butler, [chain], (REJECTED,))
            refs = butler.query_datasets("visit_image", chain, limit=None, explain=False)
        visits = {int(ref.dataId["visit"]) for ref in refs}
        rejected = found.of(visits)
        self.log.info("%d visits in %s, left out: %s", len(visits), chain, rejected)
        if visits == rejected.visits.keys():
            raise NothingToDoError(
                f"Night {night} has no visit that is good enough: {rejected}",
                chain,
                "look at the night's scorecard; its limits are in facility.yaml",
            )
        return chain.partition("/")[2], sorted(rejected.visits)
