"""The operator that runs a pipeline through bps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from tololo.facility.configuration import facility
from tololo.facility.errors import BadInputError, TololoError, UnavailableError
from tololo.facility.failures import is_retriable
from tololo.facility.run import RunOutcome, RunRequest
from tololo.params import data_query

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.engine.attempt import AttemptState
    from tololo.hooks.bps import BpsHook


class RunPipelineOperator(BaseOperator):
    """Run a pipeline, or a subset of one, as one bps run in a detached process.

    A task that is killed and tried again finds the process of its earlier try and waits for it instead of
    submitting twice. Success is read from the provenance in the Butler. Nothing to do is a skip, with the
    reason.

    :param pipeline: pipeline file with ``#subset`` (templated).
    :param parent: collection of the result (templated); see `tololo.facility.collections`.
    :param step: name of the step in the run's name.
    :param inputs: collections to search after the parent's own, separated by commas (templated).
    :param where_terms: terms of the Butler data query (templated), joined with those of the params.
    :param pipeline_config: task configuration, ``label:field`` or ``parameters:name`` to value (templated).
    :param conn_id: connection of the repository (templated).
    :param site: compute site (templated).

    Reads the params ``detectors``, ``where``, ``thresholds`` and ``dry_run``. Returns the counts of the run
    in the form that `RunOutcome.summary` gives.
    """

    template_fields: Sequence[str] = (
        "pipeline",
        "parent",
        "inputs",
        "where_terms",
        "pipeline_config",
        "conn_id",
        "site",
    )

    def __init__(
        self,
        *,
        pipeline: str,
        parent: str,
        step: str,
        inputs: str,
        where_terms: list[str] | None = None,
        pipeline_config: dict[str, str] | None = None,
        conn_id: str = "{{ params.repo }}",
        site: str = "{{ params.site }}",
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
        self._hook: BpsHook | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Start or re-attach, wait, judge."""
        from tololo.hooks.bps import BpsHook

        ti, params = context["ti"], context["params"]
        self._hook = BpsHook.for_task(ti.dag_id, ti.run_id, ti.task_id, ti.map_index or -1)
        request = RunRequest(
            repository=str(BaseHook.get_connection(self.conn_id).host),
            pipeline=self.pipeline,
            parent=self.parent,
            step=self.step,
            inputs=[name.strip() for name in self.inputs.split(",") if name.strip()],
            where=data_query(params, *self.where_terms),
            config=self.pipeline_config,
            site=self.site,
            threshold=float(params.get("thresholds", 1.0)),
            cores=facility().cores,
            dry_run=bool(params.get("dry_run")),
        )
        try:
            state = self._wait(request, context)
        except UnavailableError:
            raise
        except TololoError as error:
            raise AirflowFailException(str(error)) from None
        try:
            return self._judge(state, request.threshold)
        except AirflowSkipException as skip:
            context["task_state_store"].set("progress", str(skip))
            raise

    def _wait(self, request: RunRequest, context: Context) -> AttemptState:
        from tololo.engine.attempt import ENDED

        assert self._hook is not None
        attempt = self._hook.attach_or_start(request)
        self.log.info("Attempt %s; its log is %s", attempt.folder.name, attempt.log)
        started, shown = time.monotonic(), ""
        while True:
            state = self._hook.poll(attempt, started)
            if state is not None:
                line = describe_progress(state)
                if line != shown:
                    self.log.info("%s", line)
                    context["task_state_store"].set("progress", line)
                    shown = line
                if state.phase in ENDED:
                    return state
            time.sleep(0.5)

    def _judge(self, state: AttemptState, threshold: float) -> dict[str, Any]:
        if state.phase == "empty":
            raise AirflowSkipException(_message(state))
        if state.phase == "error":
            if is_retriable(state.error["what"]):
                raise UnavailableError(**state.error)
            raise AirflowFailException(_message(state))
        outcome = RunOutcome(**state.outcome)
        if state.phase == "planned":
            self.log.info("Dry run: %s quanta would run: %s", outcome.total("expected"), state.expected)
            return outcome.summary()
        for reason in (*outcome.reasons, *outcome.notes):
            self.log.warning("%s", reason)
        if outcome.total("no_data") == outcome.total("expected") and not outcome.earlier:
            shown = "; ".join(dict.fromkeys(outcome.notes[:5])) or "no reason was recorded"
            raise AirflowSkipException(
                str(TololoError(f"Nothing had data: {shown}", f"run {outcome.run}", "see the inputs"))
            )
        try:
            outcome.check(threshold)
        except BadInputError as error:
            if outcome.total("failed_permanent") == 0:
                raise UnavailableError(error.what, error.where, "the task is tried again") from None
            raise AirflowFailException(str(error)) from None
        return outcome.summary()

    def on_kill(self) -> None:
        """Cancel the run when the task is killed."""
        if self._hook is not None:
            self._hook.cancel()


def describe_progress(state: AttemptState) -> str:
    """Say in one line where an attempt stands."""
    counts = ", ".join(
        f"{label} {state.finished.get(label, 0)} of {expected}" for label, expected in state.expected.items()
    )
    return f"{state.phase}: {counts}" if counts else state.phase


def _message(state: AttemptState) -> str:
    return str(TololoError(**state.error))
