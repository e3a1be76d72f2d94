"""The operators that take nights out of an APDB and have them associated again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from tololo.difference_params import apdb_name
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.operators.task import FacilityOperator
from tololo.params import night_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.hooks.apdb_products import ApdbProducts

PASSED_ON = (
    *("repo", "coadd_subset", "template_type", "apdb", "apdb_templates", "proc_type", "site", "thresholds"),
    *("method", "alerts", "allow_own_night"),
)
"""Params that a run of a waiting night takes over from the run that triggers it."""
SELECTING = ("where", "detectors")
"""Params that make a run take less than the whole night."""


class WithdrawNightOperator(FacilityOperator):
    """Take a night out of the APDB, and what was stored after it, which then waits to be associated again.

    The rows of the APDB go in one transaction; then those products of these nights in the Butler that
    followed from them. Reads the params ``repo``, ``night``, ``coadd_subset``, ``template_type``, ``apdb``
    and ``dry_run``. Returns the name of the APDB, the nights ``withdrawn``, and those that are ``waiting``.
    A night that the APDB does not hold is a skip; one that is not named is refused.
    """

    def work(self, context: Context) -> dict[str, Any]:
        """Withdraw."""
        from tololo.hooks.apdb import ApdbHook

        params = context["params"]
        if not params["night"]:  # the one that just ended is a guess, good enough where nothing is deleted
            raise BadInputError("No night is named", "param night", "name the one that is to be taken out")
        night = night_of(context)
        name, hook = apdb_name(params), ApdbHook()
        if params["dry_run"]:
            held = hook.nights(name)
            after = [other for other in held if other > int(night)]
            self.log.info(
                "Dry run: night %s %s in APDB %s", night, "is" if int(night) in held else "is not", name
            )
            return {"apdb": name, "withdrawn": [], "waiting": hook.waiting(name), "would_wait": after}
        found = products(params)
        try:
            withdrawn = hook.withdraw(name, night)
        except NothingToDoError:  # what an earlier try left, that was killed before it came to this
            found.remove({int(night), *hook.waiting(name)})
            raise
        self.log.info("APDB %s: %s", name, withdrawn)
        gone = found.remove({int(night), *withdrawn.nights, *withdrawn.waiting})
        self.log.info("%d datasets that followed from these nights are removed from the repository", gone)
        return {"apdb": name, "withdrawn": list(withdrawn.nights), "waiting": list(withdrawn.waiting)}


class ReplayNightsOperator(TriggerDagRunOperator):
    """Trigger a run for the earliest night that was taken out of the APDB and waits; it triggers the next.

    Before, what the Butler holds of the waiting nights and followed from the APDB is removed, so that it is
    made again. Visits of this run's own night that wait although all of the night was associated are no
    longer among its visits (the scorecard rejects them, say): they wait no more.
    Reads the params of `WithdrawNightOperator`, and passes on those of `PASSED_ON`. Where nothing waits it
    is a skip.

    :param trigger_dag_id: the DAG of the nights.
    :param own_night: whether this task comes after the association of its run's night.
    """

    def __init__(
        self, *, trigger_dag_id: str = "difference_imaging", own_night: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(trigger_dag_id=trigger_dag_id, **kwargs)
        self.own_night = own_night

    def execute(self, context: Context) -> None:
        """Find the night, then trigger its run."""
        try:
            waiting = self._waiting(context)
        except BadInputError as error:
            raise AirflowFailException(str(error)) from error
        if not waiting:
            raise AirflowSkipException("No night waits to be associated again")
        self.log.info("Nights that wait to be associated again: %s", waiting)
        params = context["params"]
        if params["dry_run"]:
            raise AirflowSkipException(f"Dry run: night {waiting[0]} would be run again")
        gone = products(params).remove(waiting)
        self.log.info("%d datasets that followed from these nights are removed from the repository", gone)
        self.conf = conf_of(params, waiting[0])
        super().execute(context)

    def _waiting(self, context: Context) -> list[int]:
        """Return the nights that wait, after giving up what this run should have taken and did not."""
        from tololo.hooks.apdb import ApdbHook

        params = context["params"]
        name, hook = apdb_name(params), ApdbHook()
        waiting = hook.waiting(name)
        if not self.own_night or params["dry_run"] or any(params.get(key) for key in SELECTING):
            return waiting
        night = int(night_of(context))
        if night in waiting:
            visits = hook.give_up(name, night)
            self.log.warning("Not taken again, not among the visits of night %s: %s", night, visits)
        return [other for other in waiting if other != night]


def conf_of(params: Mapping[str, Any], night: int) -> dict[str, Any]:
    """Return the configuration of a run that takes a waiting night again, whole."""
    return {key: params[key] for key in PASSED_ON if key in params} | {"night": str(night)}


def products(params: Mapping[str, Any]) -> ApdbProducts:
    """Return the products of the APDB's nights in the repository that a run's params name."""
    from tololo.hooks.apdb_products import ApdbProducts
    from tololo.hooks.butler import ButlerHook

    return ApdbProducts(
        ButlerHook.from_connection(params["repo"]), params["coadd_subset"], params["template_type"]
    )
