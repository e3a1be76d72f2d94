"""The operator that runs a pipeline through bps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, ResumableJobMixin
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from tololo.engine.attempt import ENDED, Attempt, AttemptState
from tololo.facility.configuration import facility
from tololo.facility.errors import TololoError, UnavailableError
from tololo.facility.run import RunOutcome, RunRequest
from tololo.operators.verdict import can_go_on, gave_up, is_judged, judge, record_verdict, verdicts
from tololo.params import (
    collection_list,
    config_overrides,
    data_query,
    pipeline_file,
    repository_of,
    step_of,
    threshold_of,
)
from tololo.triggers.attempt import AttemptTrigger, Watch, describe_progress, own, owner

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.hooks.bps import BpsHook

MOST_RELAUNCHES = 3
"""How many drivers one try of a task starts in place of dead ones."""

SPARE_TRIES = 3
"""Tries of the task beyond its attempts: a worker that dies costs a try, but no attempt."""


class RunPipelineOperator(ResumableJobMixin, BaseOperator):
    """Run a pipeline, or a subset of one, as one bps run that needs no worker while it runs.

    The run belongs to a detached driver. The task follows it for a short time, since most runs of a small
    night end within it, and then leaves its worker: the triggerer waits. A task that lost its worker finds
    the run again and never submits it twice, because the attempt's folder has the task instance's own name;
    the mixin shows that folder in the tab *Task State Store*. Alone it would hold the worker slot, hence the
    defer of our own in `poll_until_complete`. Clearing the task cancels the run, and the next attempt does
    what is left.

    Success is read from the provenance in the Butler. Nothing to do is a skip, with the reason. What failed
    for a passing reason is tried again, ``max_attempts`` times since somebody cleared the task; what failed
    permanently is not run again unless asked for.

    :param pipeline: pipeline file with ``#subset`` (templated); relative to ``include/pipelines``.
    :param parent: collection of the result (templated); see `tololo.facility.collections`.
    :param step: name of the step in the run's name; by default the subset.
    :param inputs: collections to search after the parent's own, separated by commas (templated).
    :param where_terms: terms of the Butler data query (templated), joined with those of the params.
    :param pipeline_config: task configuration, ``label:field`` or ``parameters:name`` to value (templated).
    :param conn_id: connection of the repository (templated).
    :param site: compute site (templated).
    :param skip: why there is nothing to run this time (templated); empty if there is.
    :param locks: names of locks that the DAG run has taken (templated); the driver keeps them while it works.
    :param retry_failed: run again what failed permanently in earlier attempts.
    :param max_attempts: attempts that may fail for passing reasons.
    :param deferrable: leave the worker while the run goes on.
    :param watch_seconds: how long to stay in the worker first.

    Reads the params ``detectors``, ``where``, ``config``, ``thresholds``, ``retry_failed`` and ``dry_run`` of
    a DAG that has them. Returns the counts of the run in the form that `RunOutcome.summary` gives; a task
    that fails because of them leaves them as its XCom too.
    """

    template_fields: Sequence[str] = (
        "pipeline",
        "parent",
        "inputs",
        "where_terms",
        "pipeline_config",
        "conn_id",
        "site",
        "skip",
        "locks",
    )

    # Renaming it would make tasks that wait during an upgrade forget their runs.
    external_id_key = "attempt"

    def __init__(
        self,
        *,
        pipeline: str,
        parent: str,
        inputs: str,
        step: str = "",
        where_terms: list[str] | None = None,
        pipeline_config: dict[str, str] | None = None,
        conn_id: str = "{{ params.repo }}",
        site: str = "{{ params.site }}",
        skip: str = "",
        locks: Sequence[str] = (),
        retry_failed: bool = False,
        max_attempts: int = 3,
        deferrable: bool = True,
        watch_seconds: float = 15.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.parent = parent
        self.step = step
        self.inputs = inputs
        self.where_terms = where_terms or []
        self.pipeline_config = pipeline_config or {}
        self.conn_id = conn_id
        self.site = site
        self.skip = skip
        self.locks = locks
        self.retry_failed = retry_failed
        self.max_attempts = max_attempts
        self.deferrable = deferrable
        self.watch_seconds = watch_seconds
        if self.retries:
            self.retries = max(self.retries, max_attempts - 1 + SPARE_TRIES)
        self._hook: BpsHook | None = None
        self._killed = False

    def execute(self, context: Context) -> dict[str, Any]:
        """Start or re-attach, follow, judge."""
        if self.skip.strip():
            raise AirflowSkipException(self.skip)
        with _said_to_airflow():
            latest = self._bps(context).latest()
            if latest is not None:
                if self._is_left(latest, context):
                    self._bps(context).cancel()
                # The folder knows better: the store forgets when a task is cleared or its worker dies early.
                context["task_state_store"].set(self.external_id_key, str(latest.folder))
            return self._judge(self.execute_resumable(context), context)

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on where the trigger left off."""
        hook, attempt = self._bps(context), Attempt(Path(event["folder"]))
        if event["standing"] == "overdue":
            hook.cancel()
            raise AirflowTaskTimeout(f"The run took longer than {self.execution_timeout}: {attempt.folder}")
        with _said_to_airflow():
            return self._judge(self._follow(attempt, context, event["relaunches"]), context)

    def on_kill(self) -> None:
        """Cancel the run when the task is killed in its worker; elsewhere `AttemptTrigger.on_kill` does."""
        self._killed = True
        if self._hook is not None:
            self._hook.cancel()

    # What the mixin asks for. The id of the job is the folder of the attempt.

    def submit_job(self, context: Context) -> str:
        """Start an attempt, or take up the one that is there."""
        with self._with_locks(context) as tickets:
            request = replace(self._request(context), locks=tickets)
            return str(self._bps(context).attach_or_start(request).folder)

    def get_job_status(self, external_id: Any, context: Context) -> str:
        """Return ``removed``, ``judged``, ``left``, ``cancelled``, ``running`` or the last phase."""
        attempt = Attempt(Path(external_id))
        if not attempt.folder.exists():
            return "removed"
        if is_judged(attempt):
            return "judged"
        if self._is_left(attempt, context):
            return "left"
        phase = attempt.state.phase
        if phase in ENDED:
            return phase
        return "cancelled" if attempt.is_cancelled else "running"

    def is_job_active(self, status: str) -> bool:
        """Tell whether there is something to wait for."""
        return status == "running"

    def is_job_succeeded(self, status: str) -> bool:
        """Tell whether it ended with an outcome that no try has judged yet."""
        return status in ("done", "planned")

    def poll_until_complete(self, external_id: Any, context: Context) -> Any:
        """Follow the attempt to its end and return its folder, or leave the worker."""
        return self._follow(Attempt(Path(external_id)), context)

    def get_job_result(self, external_id: Any, context: Context) -> Attempt:
        """Return the newest attempt, which has ended."""
        return self._bps(context).latest() or Attempt(Path(external_id))

    def _bps(self, context: Context) -> BpsHook:
        from tololo.hooks.bps import BpsHook

        if self._hook is None:
            ti = context["ti"]
            map_index = -1 if ti.map_index is None else ti.map_index
            self._hook = BpsHook.for_task(ti.dag_id, ti.run_id, ti.task_id, map_index)
        return self._hook

    def _request(self, context: Context) -> RunRequest:
        params = context["params"]
        pipeline = pipeline_file(self.pipeline)
        step = self.step or step_of(pipeline)
        return RunRequest(
            repository=repository_of(self.conn_id),
            pipeline=pipeline,
            parent=self.parent,
            step=step,
            inputs=collection_list(self.inputs),
            where=data_query(params, *self.where_terms),
            config=self.pipeline_config | config_overrides(params),
            site=self.site,
            threshold=threshold_of(params, step, self._steps() | {step}),
            cores=facility().cores,
            dry_run=bool(params.get("dry_run")),
            retry_failed=self._retries_failed(context),
        )

    @contextmanager
    def _with_locks(self, context: Context) -> Iterator[list[dict[str, Any]]]:
        """Give what the driver needs to keep the locks, while it can find their password if there is one."""
        from tololo.hooks.locks import LockHook, owner_of

        if not self.locks or context["params"].get("dry_run"):
            yield []
            return
        hook = LockHook(owner_of(context))
        with hook.authorised():
            yield hook.tickets(self.locks)

    def _retries_failed(self, context: Context) -> bool:
        """Tell whether permanent failures are to be run again: asked for, and not done yet."""
        asked = self.retry_failed or bool(context["params"].get("retry_failed"))
        judged = verdicts(self._bps(context).folder, self._cleared_after(context))
        return asked and not any(
            attempt.request.retry_failed and attempt.state.phase == "done" for attempt, _ in judged
        )

    def _cleared_after(self, context: Context) -> int:
        """Return the last try before somebody cleared the task; that allows it all its retries once more."""
        return context["ti"].max_tries - (self.retries or 0)

    def _is_left(self, attempt: Attempt, context: Context) -> bool:
        """Tell whether the attempt was followed last by a try before somebody cleared the task."""
        return 0 < owner(attempt) <= self._cleared_after(context)

    def _steps(self) -> set[str]:
        """Return the steps of the DAG's tasks, as far as their names are known beforehand."""
        tasks = self.dag.tasks if self.has_dag() else []  # type: ignore[no-untyped-call]
        mine = [task for task in tasks if isinstance(task, RunPipelineOperator)]
        return {
            task.step or step_of(task.pipeline) for task in mine if task.step or "{{" not in task.pipeline
        }

    def _follow(self, attempt: Attempt, context: Context, relaunches: int = 0) -> Attempt:
        hook, store = self._bps(context), context["task_state_store"]
        until = time.monotonic() + self.watch_seconds
        watch, shown = self._attached(attempt, context), ""
        while True:
            if self._killed:
                hook.cancel()
                raise UnavailableError("The task was killed", str(watch.attempt.folder), "clear it to go on")
            state, standing = watch.look()
            if (line := describe_progress(state)) != shown:
                self.log.info("%s", line)
                store.set("progress", line)
                shown = line
            request = watch.attempt.request
            if standing == "ended":
                runnable = can_go_on(watch.attempt, state, context["ti"].try_number)
                if not runnable:
                    return watch.attempt
                self.log.info("%d quanta can do without what failed: another attempt runs them", runnable)
                watch = self._attached(hook.attach_or_start(replace(request, retry_failed=False)), context)
            elif standing == "lost":
                relaunches += 1
                self._check_relaunches(relaunches, watch.attempt, state)
                watch = self._attached(hook.attach_or_start(request), context)
            elif self.deferrable and time.monotonic() >= until:
                store.set(
                    "progress", f"{line} (at {datetime.now(UTC):%H:%M:%S} UTC; what follows is in the log)"
                )
                self._leave(watch.attempt, relaunches, context)
            else:
                time.sleep(0.5)

    def _attached(self, attempt: Attempt, context: Context) -> Watch:
        own(attempt, context["ti"].try_number)
        context["task_state_store"].set(self.external_id_key, str(attempt.folder))
        self.log.info("Attempt %s; its log is %s", attempt.folder.name, attempt.log)
        return Watch(attempt)

    def _leave(self, attempt: Attempt, relaunches: int, context: Context) -> None:
        started, limit = context["ti"].start_date, self.execution_timeout
        deadline = started.timestamp() + limit.total_seconds() if limit and started else None
        self.log.info("The run goes on without this worker")
        self.defer(trigger=AttemptTrigger(str(attempt.folder), relaunches, deadline), method_name="resume")

    def _check_relaunches(self, relaunches: int, attempt: Attempt, state: AttemptState) -> None:
        lines = attempt.log.read_text(errors="replace").splitlines() if attempt.log.exists() else []
        tail = " | ".join(lines[-3:])
        if relaunches > MOST_RELAUNCHES:
            raise UnavailableError(
                f"The driver of the run died {relaunches} times, last in phase {state.phase}: {tail}",
                str(attempt.log),
                "look at the machine's memory; the task is tried again",
            )
        self.log.warning(
            "The driver died in phase %s; another takes over. Its last words: %s", state.phase, tail
        )

    def _judge(self, attempt: Attempt, context: Context) -> dict[str, Any]:
        state, ti = attempt.state, context["ti"]
        outcome = RunOutcome(**state.outcome) if state.outcome else None
        for reason in (*outcome.reasons, *outcome.notes) if outcome else ():
            self.log.warning("%s", reason)
        verdict = "failed"
        try:
            summary = judge(state, attempt.request.threshold).summary()
            verdict = "success"
        except AirflowSkipException as skip:
            verdict = "skipped"
            context["task_state_store"].set("progress", str(skip))
            raise
        except UnavailableError as error:
            verdict = "retriable"
            self._give_up_in_time(error, attempt, context)
            raise
        finally:
            record_verdict(attempt, verdict, ti.try_number)
            if outcome and verdict != "success":
                ti.xcom_push(key="return_value", value=outcome.summary())
        if state.phase == "planned":
            self.log.info("Dry run: %s quanta would run: %s", sum(state.expected.values()), state.expected)
        elif not state.expected:
            self.log.info("Earlier attempts have done everything")
        return summary

    def _give_up_in_time(self, error: UnavailableError, attempt: Attempt, context: Context) -> None:
        ti = context["ti"]
        judged = verdicts(attempt.folder.parent, self._cleared_after(context))
        failed = 1 + [verdict for _, verdict in judged].count("retriable")
        if failed >= self.max_attempts or ti.try_number > ti.max_tries:
            raise gave_up(error, failed) from None


@contextmanager
def _said_to_airflow() -> Iterator[None]:
    """Let Airflow try again what is away for now, and fail at once for what is wrong."""
    try:
        yield
    except UnavailableError:
        raise
    except TololoError as error:
        raise AirflowFailException(str(error)) from None
