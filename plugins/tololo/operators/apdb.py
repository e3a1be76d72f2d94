"""The operator that prepares the APDB of a night."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tololo.facility import collections
from tololo.facility.configuration import facility
from tololo.facility.errors import NothingToDoError
from tololo.operators.task import FacilityOperator
from tololo.params import night_of

if TYPE_CHECKING:
    from airflow.sdk import Context


class PrepareApdbOperator(FacilityOperator):
    """See that the night has visits and the template exists, and make or take the APDB.

    Reads the params ``repo``, ``night``, ``coadd_subset``, ``template_type``, ``proc_type``, ``apdb``,
    ``apdb_policy`` and ``dry_run``. Returns the APDB's configuration file and the data query on the sky map.
    """

    def work(self, context: Context) -> Any:
        """Check, then create or take."""
        from tololo.hooks.apdb import ApdbHook
        from tololo.hooks.butler import ButlerHook

        params = context["params"]
        night = night_of(context)
        subset, kind = params["coadd_subset"], params["template_type"]
        template = collections.coadd(subset, kind)
        visits = collections.chain(params["proc_type"], night)
        butler = ButlerHook.from_connection(params["repo"])
        if not butler.count("visit_image", visits, where="instrument = 'DECam'"):
            raise NothingToDoError(f"Night {night} has no visits", visits, "run nightly_decam for this night")
        if not butler.count("template_coadd", template):
            raise NothingToDoError("There is no template", template, "run template_coadds first")
        hook = ApdbHook()
        name = params["apdb"] or collections.apdb(subset, kind)
        where = f"skymap = '{facility().skymap}'"
        if params["dry_run"]:
            self.log.info("Dry run: the APDB would be %s, policy %s", name, params["apdb_policy"])
            return {"apdb": name, "apdb_config": str(hook.config_path(name)), "where": where}
        made = hook.create(name, template=template, policy=params["apdb_policy"])
        self.log.info("APDB %s: %s", name, made)
        return {"apdb": name, "apdb_config": made["config"], "where": where}
