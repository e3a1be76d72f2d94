"""The operator that judges a night."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tololo.facility.configuration import facility
from tololo.operators.task import FacilityOperator
from tololo.params import NIGHT, data_query

if TYPE_CHECKING:
    from airflow.sdk import Context


class ScoreNightOperator(FacilityOperator):
    """Judge the visits of a night, and record the night's scorecard in the repository.

    Each visit is accepted, flagged or rejected by the limits of the facility's configuration. That all are
    rejected is no error; a night without exposures is a skip. The same night again adds nothing. Reads the
    params ``dry_run``, ``detectors`` and ``where``: with the latter two a visit needs only the detectors that
    were asked for. Returns ``repository``, ``night``, ``chain``, ``run``, ``visits`` and ``accepted``
    (numbers), ``flagged`` and ``rejected`` (lists of visits).

    :param proc_type: ``drp`` or ``instcal``, also with ``_injected`` (templated).
    :param night: YYYYMMDD (templated).
    :param where: what else limits what was asked for (templated), a data query in the Butler's language.
    :param conn_id: connection of the repository (templated).
    :param skip: why there is nothing to do this time (templated); empty if there is.
    """

    template_fields: Sequence[str] = (
        *FacilityOperator.template_fields,
        "proc_type",
        "night",
        "where",
        "conn_id",
    )

    def __init__(
        self,
        *,
        proc_type: str = "drp",
        night: str = NIGHT,
        where: str = "",
        conn_id: str = "{{ params.repo }}",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.proc_type = proc_type
        self.night = night
        self.where = where
        self.conn_id = conn_id

    def work(self, context: Context) -> Any:
        """Judge, record, and show it in the log."""
        from tololo.hooks.butler import ButlerHook
        from tololo.hooks.scorecard import score_night

        params = context["params"]
        dry_run = bool(params.get("dry_run"))
        hook = ButlerHook.from_connection(self.conn_id)
        with hook.session(writeable=not dry_run) as butler:
            score = score_night(
                butler,
                self.night,
                self.proc_type,
                where=data_query(params, self.where),
                limits=facility().scorecard,
                dry_run=dry_run,
            )
        # A record each: the log view of the web UI keeps lines of a table apart then.
        for line in score.text.splitlines():
            self.log.info("%s", line)
        where = "Dry run, nothing was written" if dry_run else f"Recorded in {score.run}"
        self.log.info("%s%s", where, "" if score.is_new else " (the same was there before)")
        context["task_state_store"].set(
            "progress",
            f"{score.accepted} of {score.visits} visits accepted, {len(score.flagged)} flagged, "
            f"{len(score.rejected)} rejected",
        )
        return {
            "repository": hook.repository,
            "night": str(score.night),
            "chain": score.chain,
            "run": score.run,
            "visits": score.visits,
            "accepted": score.accepted,
            "flagged": score.flagged,
            "rejected": score.rejected,
        }
