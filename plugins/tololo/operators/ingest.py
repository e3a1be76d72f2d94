"""The operator that brings a night's files into the repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.facility.configuration import facility
from tololo.facility.errors import NothingToDoError
from tololo.operators.task import FacilityOperator
from tololo.params import night_of

if TYPE_CHECKING:
    from airflow.sdk import Context


class IngestInstcalOperator(FacilityOperator):
    """Search a folder for the InstCal exposures of a night and ingest them.

    Reads the params ``repo``, ``night``, ``data`` and ``dry_run``. The whole folder is checked before
    anything of it is ingested. Returns the exposures, new and known.
    """

    def work(self, context: Context) -> Any:
        """Search, ingest, and say what was ignored."""
        from tololo.hooks.butler import ButlerHook
        from tololo.reduction.formats.instcal_search import find_instcal

        params = context["params"]
        night = night_of(context)
        folder = Path(params["data"] or facility().data)
        search = find_instcal(folder)
        for note in (*search.ignored, *search.superseded):
            self.log.info("Not used: %s", note)
        exposures = [exposure for exposure in search.triples if exposure.day_obs == int(night)]
        if not exposures:
            nights = sorted({exposure.day_obs for exposure in search.triples})
            raise NothingToDoError(
                f"There are no exposures of night {night}",
                f"{folder}: exposures of {', '.join(map(str, nights[:20]))}",
                "name another night or folder",
            )
        if params["dry_run"]:
            detectors = sum(len(exposure.detectors) for exposure in exposures)
            self.log.info(
                "Dry run: %d exposures with %d detectors would be ingested", len(exposures), detectors
            )
            return {"night": night, "exposures": [exposure.expnum for exposure in exposures]}
        hook = ButlerHook.from_connection(params["repo"])
        report = hook.ingest_exposures(exposures, transfer=facility().transfer)
        for note in report.skipped:
            self.log.warning("%s", note)
        return {
            "night": night,
            "new": report.ingested,
            "known": report.already_there,
            "skipped": report.skipped,
        }
