"""The operators that bring a night's files into the repository."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.facility.configuration import facility
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.operators.task import FacilityOperator
from tololo.params import detector_numbers, night_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.reduction.formats.raw_exposure import RawExposure
    from tololo.reduction.ingest import IngestReport


class _IngestOperator(FacilityOperator):
    """What the ingest of InstCal and of raws share: params, the dry run, the answer."""

    def work(self, context: Context) -> Any:
        """Search, ingest, and say what was left out."""
        params = context["params"]
        folder = Path(params["data"] or facility().data)
        from tololo.hooks.night_files import moved_before

        night = night_of(context)
        try:
            return self.ingest(folder, night, params)
        except (NothingToDoError, BadInputError) as error:
            if not (known := moved_before(params["repo"], night)):
                raise
            self.log.info(
                "%s. %d exposures of the night were moved into the repository before", error, len(known)
            )
            return {"night": night, "new": [], "known": known, "skipped": []}

    def ingest(self, folder: Path, night: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ingest the exposures of a night in a folder into a repository, or say what would be."""
        raise NotImplementedError

    def would(self, night: str, exposures: Mapping[int, Sequence[object]]) -> dict[str, Any]:
        """Say what would be ingested: detectors by exposure."""
        detectors = sum(map(len, exposures.values()))
        self.log.info("Dry run: %d exposures with %d detectors would be ingested", len(exposures), detectors)
        return {"night": night, "exposures": list(exposures)}

    @staticmethod
    def done(night: str, report: IngestReport) -> dict[str, Any]:
        """Return what an ingest did, for the XCom."""
        return {
            "night": night,
            "new": report.ingested,
            "known": report.already_there,
            "skipped": report.skipped,
        }


def _nothing(night: str, folder: Path, nights: Iterable[int]) -> NothingToDoError:
    there = ", ".join(map(str, sorted(set(nights))[:20]))
    return NothingToDoError(
        f"There are no exposures of night {night}",
        f"{folder}: {f'exposures of {there}' if there else 'no exposures'}",
        "name another night or folder",
    )


class IngestInstcalOperator(_IngestOperator):
    """Search a folder for the InstCal exposures of a night and ingest them.

    Reads the params ``repo``, ``night``, ``data`` and ``dry_run``. The whole folder is checked before
    anything of it is ingested. Returns the exposures, new and known.
    """

    def ingest(self, folder: Path, night: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Search, ingest, and say what was ignored."""
        from tololo.hooks.butler import ButlerHook
        from tololo.reduction.formats.instcal_search import find_instcal

        search = find_instcal(folder)
        for note in (*search.ignored, *search.superseded):
            self.log.info("Not used: %s", note)
        exposures = [exposure for exposure in search.triples if exposure.day_obs == int(night)]
        if not exposures:
            raise _nothing(night, folder, (exposure.day_obs for exposure in search.triples))
        if params["dry_run"]:
            return self.would(night, {exposure.expnum: exposure.detectors for exposure in exposures})
        report = ButlerHook.from_connection(params["repo"]).ingest_exposures(
            exposures, transfer=facility().transfer
        )
        for note in report.skipped:
            self.log.warning("%s", note)
        return self.done(night, report)


class IngestRawOperator(_IngestOperator):
    """Search a folder for the raw exposures of a night and ingest them.

    Reads the params ``repo``, ``night``, ``data`` and ``dry_run``. What the facility excludes is left out;
    a file with something wrong is reported, and the rest goes in. Returns the exposures, new and known, and
    what was left out. A dry run says how many quanta the raws call for, and which calibrations the night does
    not give; it reads ``proc_types``, ``detectors`` and ``filters`` too.
    """

    def ingest(self, folder: Path, night: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Search, ingest, and say what was left out."""
        from tololo.facility.bad_exposures import exclusions
        from tololo.hooks.butler import ButlerHook
        from tololo.reduction.formats.raw_search import find_raws, one_error

        everything = find_raws(folder, exclusions())
        search = everything.of_night(int(night))
        for note in (*search.ignored, *search.excluded):
            self.log.info("Not used: %s", note)
        if not everything.exposures and (error := one_error(search.rejected)):
            raise error
        if not search.exposures and not search.excluded:
            self._warn(search.rejected)
            raise _nothing(night, folder, (exposure.night for exposure in everything.exposures))
        if params["dry_run"]:
            self._warn(search.rejected)
            return self._plan(night, search.exposures, params)
        report = ButlerHook.from_connection(params["repo"]).ingest_raws(
            search.exposures, search.excluded, transfer=facility().transfer
        )
        rejected = (*search.rejected, *report.refused)
        self._warn(rejected)
        for note in report.incomplete:
            self.log.warning("Incomplete: %s", note)
        return self.done(night, report) | {
            "skipped": [str(error) for error in rejected],
            "incomplete": report.incomplete,
            "excluded": [str(item) for item in search.excluded],
        }

    def _plan(
        self, night: str, exposures: Sequence[RawExposure], params: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Say what the run would do with the night's raws."""
        from tololo.hooks.night_plan import plan_night
        from tololo.reduction.formats.raw_exposure import KINDS

        plan = plan_night(
            exposures,
            params.get("proc_types", tuple(KINDS.values())),
            detector_numbers(params),
            params.get("filters") or (),
        )
        for line in plan.lines():
            self.log.info("Dry run: %s", line)
        there = {exposure.exposure: exposure.detectors for exposure in exposures}
        return self.would(night, there) | plan.summary()

    def _warn(self, rejected: Sequence[BadInputError]) -> None:
        from tololo.reduction.formats.raw_search import one_error

        if error := one_error(rejected):
            self.log.warning("%s", error)
