"""The operators before the difference images of a night and before their association."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout

from tololo.difference_params import apdb_name, difference_lock
from tololo.facility.configuration import facility
from tololo.operators.task import FacilityOperator
from tololo.params import night_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.hooks.difference import DifferenceHook
    from tololo.triggers.waiting import Waited


class SelectDifferenceInputsOperator(FacilityOperator):
    """Choose the visits of the night and the version of the template that is subtracted from them.

    Visits that the scorecard of the night rejects are left out; of a night without a scorecard all are taken.
    Detectors that had no template in an earlier run are tried again if there are templates made since.
    Reads the params ``repo``, ``night``, ``coadd_subset``, ``template_type``, ``proc_type``, ``apdb``,
    ``allow_own_night`` and ``dry_run``.

    Returns ``proc_type`` of the visits, ``where`` (data query on sky map and visits), ``template`` and
    ``template_version``, and how many ``visits`` there are, with a list of the ``rejected``.
    """

    def work(self, context: Context) -> dict[str, Any]:
        """Choose; a name of the APDB that cannot be is refused before anything is run."""
        params, hook = context["params"], _hook(context)
        apdb_name(params)
        inputs = hook.select(night_of(context), params["proc_type"])
        self.log.info("%d visits in %s, left out: %s", len(inputs.visits), inputs.chain, inputs.rejected)
        self.log.info("Template: %s", inputs.template)
        again = bool(params.get("allow_own_night"))
        if not params["dry_run"] and (tried := hook.forget_uncovered(inputs, all_of_them=again)):
            self.log.info("%d detectors that had no template are tried again", tried)
        where = f"skymap = '{facility().skymap}'"
        rejected = sorted(inputs.rejected.visits)
        if rejected:
            where += f" AND visit NOT IN ({', '.join(map(str, rejected))})"
        return {
            "proc_type": inputs.proc_type,
            "where": where,
            "template": inputs.template,
            "template_version": inputs.version,
            "visits": len(inputs.visits),
            "rejected": rejected,
        }


class AwaitEarlierNightsOperator(FacilityOperator):
    """Let the runs of earlier nights reach the APDB first: it takes nights in time order.

    A run holds the lock of its night's difference images from its beginning until its night is associated.
    With the param ``earlier_nights`` ``wait`` this task waits, without a worker slot, while a run holds that
    of an earlier night which the APDB does not hold yet; so a backfill of many nights ends in order, however
    many of its runs go on at a time. Nights that nobody works on are not waited for. Those among them that
    have visits and lie after the first night of the APDB are named in the log: if they come later, the param
    ``late_nights`` says what happens.

    Reads the params ``repo``, ``night``, ``coadd_subset``, ``template_type``, ``proc_type``, ``apdb``,
    ``earlier_nights`` and ``dry_run``. Returns the nights that are ``absent`` from the APDB.

    :param poke_interval: seconds between two looks.
    :param timeout: seconds to wait; the task then fails and says who holds what.
    """

    def __init__(self, *, poke_interval: float = 30.0, timeout: float = 12 * 3600.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.poke_interval = poke_interval
        self.timeout = timeout

    def work(self, context: Context) -> dict[str, list[int]]:
        """Look, and wait where a run of an earlier night goes on."""
        return self._look(context, time.time() + self.timeout)

    def execute_complete(self, context: Context, event: Waited, deadline: float) -> dict[str, list[int]]:
        """Look again: they may have ended without reaching the APDB, and others may have begun."""
        if event["outcome"] == "error":
            raise AirflowFailException(event["message"])
        if event["outcome"] == "timeout":
            raise AirflowSensorTimeout(f"Earlier nights are not done: {event['message']}")
        return self._look(context, deadline)

    def _look(self, context: Context, deadline: float) -> dict[str, list[int]]:
        params, hook = context["params"], _hook(context)
        stored = _stored(apdb_name(params))
        earlier = [night for night in hook.nights_before(night_of(context)) if night not in stored]
        if params["earlier_nights"] == "wait" and (running := self._running(context, earlier)):
            nights = ", ".join(map(str, sorted(running)))
            if not params["dry_run"]:
                self._wait(context, sorted(running.values()), nights, deadline)
            self.log.info("Dry run: earlier nights would be waited for: %s", nights)
        since = min(stored, default=int(night_of(context)))
        absent = hook.with_visits([night for night in earlier if night > since], params["proc_type"])
        if absent:
            self.log.warning(
                "The APDB does not hold these earlier nights, which have visits and which no run works on: "
                "%s. If they come later, the param late_nights says what happens",
                ", ".join(map(str, absent)),
            )
        return {"absent": absent}

    def _running(self, context: Context, nights: list[int]) -> dict[int, str]:
        """Return the locks of those nights that a run of theirs holds."""
        from tololo.facility.locks import Verdict
        from tololo.hooks.locks import LockHook, owner_of

        hook = LockHook(owner_of(context))
        locks = {night: difference_lock(str(night), context["params"]) for night in nights}
        return {night: name for night, name in locks.items() if hook.status(name).verdict is Verdict.HELD}

    def _wait(self, context: Context, locks: Sequence[str], nights: str, deadline: float) -> None:
        from tololo.hooks.locks import owner_of
        from tololo.triggers.locks import LockTrigger

        if time.time() >= deadline:
            raise AirflowSensorTimeout(f"Waited {self.timeout:g} s for earlier nights in vain: {nights}")
        self.log.info("Waiting for the runs of earlier nights: %s", nights)
        context["task_state_store"].set("progress", f"Waiting for the runs of earlier nights: {nights}")
        trigger = LockTrigger(
            locks=locks,
            policy="if_run_ended",
            fail_when_stale=True,
            owner=asdict(owner_of(context)),
            deadline=deadline,
            poke_interval=self.poke_interval,
        )
        self.defer(trigger=trigger, method_name="execute_complete", kwargs={"deadline": deadline})


def _stored(name: str) -> list[int]:
    """Return the nights that an APDB holds; none if there is no such APDB yet."""
    from tololo.hooks.apdb import ApdbHook

    hook = ApdbHook()
    if not hook.config_path(name).exists():
        return []
    with hook.opened(name) as apdb:
        return apdb.nights()


def _hook(context: Context) -> DifferenceHook:
    from tololo.hooks.butler import ButlerHook
    from tololo.hooks.difference import DifferenceHook

    params = context["params"]
    return DifferenceHook(
        ButlerHook.from_connection(params["repo"]), params["coadd_subset"], params["template_type"]
    )
