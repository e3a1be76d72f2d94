"""The sensor that waits for the visits of a night."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

from tololo.facility.errors import NothingToDoError
from tololo.facility.waiting import names_in
from tololo.params import NIGHT, NIGHT_LOCK, data_query, night_of
from tololo.sensors.waiting import ButlerSensor, night_deadline

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.triggers.waiting import WaitTrigger

VISITS = (
    f"{{% if params.proc_type %}}{NIGHT}/{{{{ params.proc_type }}}}"
    f"{{% else %}}{NIGHT}/drp,{NIGHT}/instcal{{% endif %}}"
)
"""Template of the chains that a night's visits may be in."""


class NightVisitsSensor(ButlerSensor):
    """Wait until the run's night has visits, and no run works on them any more.

    It waits until the param ``wait`` hours after the end of the night; as long from now where another run
    holds the night's lock. A night that ended longer ago and that nobody works on is not waited for: it has
    visits, or the task is skipped and says which chains have none. A night that is still worked on when the
    time is up is a failure that names the run.

    :param chains: collections of the visits, separated by commas (templated).
    :param lock: lock of the night (templated).
    :param where_terms: terms of the Butler data query that chooses the visits (templated), joined with those
        of the params ``detectors`` and ``where``.
    :param conn_id: connection of the repository (templated).

    Returns the number of visit images, one at least: it asks for no more. Further arguments are those of
    `FacilitySensor`.
    """

    QUESTION = "datasets"
    template_fields: Sequence[str] = ("chains", "lock", "where_terms", "conn_id")

    def __init__(
        self,
        *,
        chains: str = VISITS,
        lock: str = NIGHT_LOCK,
        where_terms: Sequence[str] = ("instrument = 'DECam'", f"visit.day_obs = {NIGHT}"),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.chains = chains
        self.lock = lock
        self.where_terms = where_terms

    def execute(self, context: Context) -> int:
        """Look, and wait as long as the night's visits may come."""
        now = time.time()
        until = night_deadline(context)
        if not context["params"].get("dry_run") and self._is_worked_on(context):
            until = max(until, now + 3600.0 * float(context["params"]["wait"]))
        self.timeout = max(0.0, until - now)
        return super().execute(context)

    def question_arguments(self, context: Context) -> dict[str, Any]:
        """Return which datasets, and where they may be."""
        return {
            "dataset_type": "visit_image",
            "collections": names_in(self.chains),
            "where": data_query(context["params"], *self.where_terms),
            "count": 1,
        }

    def make_trigger(self, context: Context, deadline: float) -> WaitTrigger:
        """Return the trigger that looks at the lock and asks."""
        from tololo.hooks.locks import owner_of
        from tololo.triggers.night_visits import NightVisitsTrigger

        question: Any = super().make_trigger(context, deadline)
        return NightVisitsTrigger(
            lock=self.lock,
            policy="never" if context["params"].get("dry_run") else "if_run_ended",
            owner=asdict(owner_of(context)),
            question=question.question,
            question_arguments=question.question_arguments,
            deadline=deadline,
            poke_interval=self.poke_interval,
        )

    def _end(self, context: Context, reason: BaseException) -> NoReturn:
        """Skip a night without visits; one that is still worked on, and what is wrong, fails."""
        late = isinstance(reason, AirflowSensorTimeout)
        if late and not self._is_worked_on(context) and self._is_answered(context):
            night = night_of(context)
            message = str(
                NothingToDoError(f"Night {night} has no visits", str(reason), "run nightly_decam for it")
            )
            context["task_state_store"].set("progress", message)
            raise AirflowSkipException(message) from None
        raise reason

    def _is_worked_on(self, context: Context) -> bool:
        from tololo.facility.locks import Verdict
        from tololo.hooks.locks import LockHook, owner_of

        owner = owner_of(context)
        status = LockHook(owner).status(self.lock)
        is_own = status.record is not None and owner.is_same(status.record.owner)
        return not is_own and status.verdict not in (Verdict.FREE, Verdict.ENDED)
