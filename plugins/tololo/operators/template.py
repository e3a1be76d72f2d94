"""The operator that chooses what goes into a template."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tololo.facility.configuration import facility
from tololo.facility.template_selection import patch_query, read_selection
from tololo.operators.task import FacilityOperator
from tololo.params import data_query

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.hooks.template import TemplateHook, TemplateSelection

ANY_FWHM = 1.6
"""Arcsec; stands where warps are not PSF-matched, and nothing reads it."""


def template_hook(params: Mapping[str, Any]) -> TemplateHook:
    """Return the hook of the template that a run is about."""
    from tololo.hooks.butler import ButlerHook
    from tololo.hooks.template import TemplateHook

    return TemplateHook(
        ButlerHook.from_connection(params["repo"]), params["coadd_subset"], params["template_type"]
    )


class SelectTemplateInputsOperator(FacilityOperator):
    """Choose the visits of a template and the version that they make.

    Reads the params ``repo``, ``nights``, ``bands``, ``proc_type``, ``coadd_subset``, ``template_type``,
    ``detectors``, ``where``, ``selection``, ``warp`` and ``patches``. The same visit images and settings as
    of an existing version give that version again; others give a new one. Returns ``version`` and ``inputs``
    (collections), ``where`` (which patches), the counts, ``fwhm`` (arcsec, of PSF-matched warps), ``bands``
    (visits and median seeing of each), and ``left_out``: visits, and why they are not taken.
    """

    def work(self, context: Context) -> Any:
        """Select, tag, and say what was left out."""
        params = context["params"]
        bands = ", ".join(f"'{band}'" for band in params["bands"])
        dry_run = bool(params["dry_run"])
        where = f"skymap = '{facility().skymap}'"
        if patches := patch_query(params.get("patches")):
            where += f" AND {patches}"
        selection = template_hook(params).select(
            params["nights"] or "",
            data_query(params, f"band IN ({bands})" if bands else ""),
            proc_type=params.get("proc_type"),
            selection=read_selection(params.get("selection"), facility().template_selection),
            warp=params.get("warp") or "direct",
            dry_run=dry_run,
        )
        self._tell(selection, context, dry_run)
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
            "fwhm": selection.settings.get("fwhm", ANY_FWHM),
            "bands": {
                band: {"visits": visits, "seeing": None if math.isnan(seeing) else round(seeing, 3)}
                for band, (visits, seeing) in selection.bands.items()
            },
            "left_out": {str(visit): why for visit, why in sorted(selection.left_out.visits.items())},
        }

    def _tell(self, selection: TemplateSelection, context: Context, dry_run: bool) -> None:
        known = "new" if selection.is_new else "known"
        line = (
            f"{selection.n_images} visit images of {selection.n_visits} visits on nights "
            f"{', '.join(map(str, selection.nights))} {'would ' if dry_run else ''}make version "
            f"{selection.version} ({known})"
        )
        self.log.info("%s", line)
        for band, (visits, seeing) in selection.bands.items():
            self.log.info("Band %s: %d visits, median seeing %.2f arcsec", band, visits, seeing)
        self.log.info("Settings: %s", selection.settings)
        self.log.info("Visits left out: %s", selection.left_out)
        context["task_state_store"].set("progress", f"{line}; left out: {selection.left_out}")
