"""The operator that measures what became of a night's injected sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tololo.facility.configuration import facility
from tololo.facility.errors import BadInputError
from tololo.facility.recovery import FAIL
from tololo.operators.task import FacilityOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

REPORTED = ("injected", "depth", "completeness", "purity", "bias")


class MeasureRecoveryOperator(FacilityOperator):
    """Measure completeness, purity, flux bias and depth on a night's injected sources, and record them.

    What is beyond the limits of the facility's configuration (``recovery``) is said in the log and in the
    task's progress; with ``alarm: fail`` the task fails as well, after all is recorded. The same night again
    adds nothing. Reads the param ``dry_run``. Returns ``repository``, ``night``, ``chain``, ``run``, ``new``,
    ``bands`` (a few numbers of each) and ``alarms`` (sentences).

    :param chain: chain of the difference images with injected sources (templated).
    :param conn_id: connection of the repository (templated).
    """

    template_fields: Sequence[str] = (*FacilityOperator.template_fields, "chain", "conn_id")

    def __init__(self, *, chain: str, conn_id: str = "{{ params.repo }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chain = chain
        self.conn_id = conn_id

    def work(self, context: Context) -> Any:
        """Measure, record, and say what is beyond a limit."""
        from tololo.hooks.recovery import RecoveryHook

        dry_run = bool(context["params"].get("dry_run"))
        limits = facility().recovery
        hook = RecoveryHook.from_connection(self.conn_id)
        measured = hook.measure(self.chain, limits, dry_run=dry_run)
        for line in measured.lines():
            self.log.info("%s", line)
        where = "Dry run, nothing was written" if dry_run else f"Recorded in {measured.run}"
        self.log.info("%s%s", where, "" if measured.new else " (the same was there before)")
        for sentence in measured.alarms:
            self.log.warning("BEYOND THE LIMIT: %s", sentence)
        context["task_state_store"].set("progress", " ".join(measured.alarms) or "; ".join(measured.lines()))
        if measured.alarms and limits.alarm == FAIL:
            raise BadInputError(
                " ".join(measured.alarms),
                f"{self.chain}, recorded in {measured.run or 'no RUN: dry run'}",
                "look at the plot of the night; the limits are in facility.yaml, key recovery",
            )
        return {
            "repository": hook.repository,
            "night": str(measured.summary["night"]),
            "chain": measured.chain,
            "run": measured.run,
            "new": measured.new,
            "bands": {
                band: {name: found[name] for name in REPORTED}
                for band, found in measured.summary["bands"].items()
            },
            "alarms": measured.alarms,
        }
