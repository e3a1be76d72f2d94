"""The operators around the making of a template: what goes in, and which version counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tololo.facility import collections
from tololo.facility.configuration import facility
from tololo.operators.task import FacilityOperator
from tololo.params import data_query

if TYPE_CHECKING:
    from airflow.sdk import Context


class SelectTemplateInputsOperator(FacilityOperator):
    """Choose the visits of a template and the version that they make.

    Visits that are flagged or rejected by the scorecard of their night are left out. Reads the params
    ``repo``, ``nights``, ``bands``, ``proc_type``, ``coadd_subset``, ``template_type``, ``detectors`` and
    ``where``. The same visit images as an existing version give that version again; others give a new one.
    Returns ``version`` and ``inputs`` (collections), ``where``, the counts, and ``left_out``: visits and what
    their scorecards call them.
    """

    def work(self, context: Context) -> Any:
        """Select and tag."""
        from tololo.hooks.butler import ButlerHook
        from tololo.hooks.template import TemplateHook

        params = context["params"]
        hook = TemplateHook(
            ButlerHook.from_connection(params["repo"]), params["coadd_subset"], params["template_type"]
        )
        bands = ", ".join(f"'{band}'" for band in params["bands"])
        query = data_query(params, f"band IN ({bands})" if bands else "")
        dry_run = params["dry_run"]
        selection = hook.select(
            params["nights"] or "", query, proc_type=params.get("proc_type"), dry_run=dry_run
        )
        self.log.info(
            "%d visit images of %d visits on nights %s make version %s (%s)",
            selection.n_images,
            selection.n_visits,
            ", ".join(map(str, selection.nights)),
            selection.version,
            "new" if selection.is_new else "known",
        )
        self.log.info("Visits left out: %s", selection.left_out)
        where = f"skymap = '{facility().skymap}'"
        # What is tagged are the chosen ones; a dry run tags nothing and looks at all of a night.
        if dry_run and selection.left_out.visits:
            where += f" AND visit NOT IN ({', '.join(map(str, sorted(selection.left_out.visits)))})"
        return {
            "version": selection.version,
            "inputs": selection.inputs,
            "where": where,
            "visits": selection.n_visits,
            "images": selection.n_images,
            "new": selection.is_new,
            "left_out": {str(visit): word for visit, word in sorted(selection.left_out.visits.items())},
        }


class AcceptTemplateOperator(FacilityOperator):
    """Point the chain of a template at the version that was just made.

    Reads the params of `SelectTemplateInputsOperator` and the result of the task ``select``.
    """

    def work(self, context: Context) -> Any:
        """Rewrite the chain."""
        from tololo.hooks.butler import ButlerHook
        from tololo.hooks.template import TemplateHook

        params = context["params"]
        if params["dry_run"]:
            return None
        selected = context["ti"].xcom_pull(task_ids="select")
        hook = TemplateHook(
            ButlerHook.from_connection(params["repo"]), params["coadd_subset"], params["template_type"]
        )
        count = hook.accept(selected["version"])
        chain = collections.coadd(params["coadd_subset"], params["template_type"])
        self.log.info("%s holds %d templates of version %s", chain, count, selected["version"])
        return {"chain": chain, "version": selected["version"], "templates": count}
