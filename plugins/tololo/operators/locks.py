"""The operators that take, release and break locks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout

from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.facility.locks import TTL, checked_policy
from tololo.hooks.locks import LockHook, owner_of
from tololo.operators.task import FacilityOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.triggers.waiting import Waited


class AcquireLockOperator(FacilityOperator):
    """Take locks for the DAG run, all or none, waiting for those that others hold without a worker slot.

    A task that is tried again, or cleared, finds the locks that its DAG run has and goes on with them. Use it
    as the setup of the tasks that need the locks, and `ReleaseLockOperator` as the teardown.

    :param locks: names (templated): ``folder:/path``, ``collection:<name>``, ``apdb:<name>``.
    :param policy: which locks of others may be broken (templated): ``never``, ``if_stale``, ``if_run_ended``.
    :param ttl: seconds without a heartbeat after which others may call the locks stale.
    :param poke_interval: seconds between two looks.
    :param timeout: seconds to wait; the task then fails and says who holds what.

    With the param ``dry_run`` it says how the locks stand and takes none. Returns the names of what it took.
    """

    template_fields: Sequence[str] = ("locks", "policy")

    def __init__(
        self,
        *,
        locks: Sequence[str],
        policy: str = "never",
        ttl: float = TTL,
        poke_interval: float = 30.0,
        timeout: float = 6 * 3600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.locks = locks
        self.policy = policy
        self.ttl = ttl
        self.poke_interval = poke_interval
        self.timeout = timeout
        self._hook: LockHook | None = None

    def work(self, context: Context) -> list[str]:
        """Take them all, or wait."""
        if context["params"].get("dry_run"):
            for name in self.locks:
                self.log.info("Dry run: the lock %s is %s", name, LockHook().status(name).line)
            return []
        return self._take(context, time.time() + self.timeout)

    def execute_complete(self, context: Context, event: Waited, deadline: float) -> list[str]:
        """Take what the trigger saw free, or wait again if another was quicker."""
        if event["outcome"] == "error":
            raise AirflowFailException(event["message"])
        try:
            return self._take(context, deadline)
        except BadInputError as error:
            raise AirflowFailException(str(error)) from error

    def _take(self, context: Context, deadline: float) -> list[str]:
        self._hook = LockHook(owner_of(context), ttl=self.ttl)
        try:
            self._hook.acquire(self.locks, checked_policy(self.policy))
        except UnavailableError as error:
            if time.time() >= deadline:
                raise AirflowSensorTimeout(f"Waited {self.timeout:g} s in vain. {error}") from None
            self.log.info("%s", error)
            context["task_state_store"].set("progress", str(error))
            self._wait(context, deadline)
        return sorted(set(self.locks))

    def _wait(self, context: Context, deadline: float) -> None:
        from tololo.triggers.locks import LockTrigger

        trigger = LockTrigger(
            locks=self.locks,
            policy=self.policy,
            fail_when_stale=False,
            owner=asdict(owner_of(context)),
            deadline=deadline,
            poke_interval=self.poke_interval,
        )
        self.defer(trigger=trigger, method_name="execute_complete", kwargs={"deadline": deadline})

    def on_kill(self) -> None:
        """Give back what this try has taken."""
        if self._hook is not None:
            self._hook.give_back()


class ReleaseLockOperator(FacilityOperator):
    """Release locks of the DAG run: ``ReleaseLockOperator(...).as_teardown(setups=acquire)``.

    What nobody holds is no failure; what another holds by now is one, after all others were released.

    :param locks: names (templated), as `AcquireLockOperator` takes them.
    """

    template_fields: Sequence[str] = ("locks",)

    def __init__(self, *, locks: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.locks = locks

    def work(self, context: Context) -> None:
        """Release what is ours."""
        if not context["params"].get("dry_run"):
            LockHook(owner_of(context)).release(self.locks)


class BreakLockOperator(FacilityOperator):
    """Break locks, whoever holds them. Skipped if nobody holds any.

    With the param ``dry_run`` it says how the locks stand and breaks none.

    :param locks: names, or a text with one a line (templated).
    :param reason: why (templated); it is logged with the name of the former owner.
    :param only: ``always``, or the policy that must allow it (templated).

    Returns whose locks were broken, by name.
    """

    template_fields: Sequence[str] = ("locks", "reason", "only")

    def __init__(
        self, *, locks: Sequence[str] | str, reason: str, only: str = "always", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.locks = locks
        self.reason = reason
        self.only = only

    def work(self, context: Context) -> dict[str, str]:
        """Break what is held."""
        hook = LockHook(owner_of(context))
        broken: dict[str, str] = {}
        lines = self.locks.splitlines() if isinstance(self.locks, str) else self.locks
        names = [line.strip() for line in lines if line.strip()]
        if context["params"].get("dry_run"):
            for name in names:
                self.log.info("Dry run: the lock %s is %s", name, hook.status(name).line)
            return broken
        for name in names:
            try:
                broken[name] = hook.break_(name, self.reason, self.only)
            except NothingToDoError as nothing:
                self.log.info("%s", nothing)
        if not broken:
            raise NothingToDoError("Nobody holds any of the locks", ", ".join(names))
        return broken
