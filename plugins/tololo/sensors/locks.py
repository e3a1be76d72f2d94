"""The sensor that waits for locks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tololo.facility.errors import BadInputError
from tololo.facility.locks import checked_policy, split_name
from tololo.sensors.waiting import FacilitySensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.triggers.waiting import WaitTrigger


class DatasetLockSensor(FacilitySensor):
    """Wait until nobody else holds any of some locks: of datasets (folders), collections or APDBs.

    It takes none: `AcquireLockOperator` does. What the sensor's own DAG run holds counts as free. A lock
    whose holder died is reported as stale, with its age; the policy says what then happens.

    :param locks: paths of folders, globs of them (``/data/*/sinistro/*``: all datasets of a selection), or
        names of locks, ``collection:<name>``, ``apdb:<name>`` (templated). A folder that does not exist is
        waited for.
    :param policy: which locks are broken, with a log line of who and why (templated): ``never``,
        ``if_stale``, ``if_run_ended``. Others are waited for.
    :param fail_when_stale: fail at once when a lock is stale and the policy does not break it.

    Returns how many are free. Further arguments are those of `FacilitySensor`.
    """

    template_fields: Sequence[str] = ("locks", "policy")

    def __init__(
        self,
        *,
        locks: Sequence[str] | str,
        policy: str = "never",
        fail_when_stale: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.locks = locks
        self.policy = policy
        self.fail_when_stale = fail_when_stale

    def make_trigger(self, context: Context, deadline: float) -> WaitTrigger:
        """Return the trigger that looks at the locks."""
        from tololo.hooks.locks import owner_of
        from tololo.triggers.locks import LockTrigger

        locks = [self.locks] if isinstance(self.locks, str) else list(self.locks)
        if not locks:
            raise BadInputError("No lock is named", f"task {self.task_id}", "name a folder or a lock")
        for name in locks:
            if not name.startswith("/"):
                split_name(name)
        policy = checked_policy(self.policy)
        is_dry = bool(context["params"].get("dry_run"))
        return LockTrigger(
            locks=locks,
            policy="never" if is_dry else policy,
            fail_when_stale=self.fail_when_stale and not is_dry,
            owner=asdict(owner_of(context)),
            deadline=deadline,
            poke_interval=self.poke_interval,
        )
