"""The operators that decide about a version of a template: measured by limits, or put before a person."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import Param
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from tololo.facility.configuration import facility
from tololo.facility.errors import BadInputError, NothingToDoError, TololoError, UnavailableError
from tololo.facility.templates import ACCEPTED, REJECTED, State
from tololo.operators.task import FacilityOperator
from tololo.operators.template import template_hook

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.engine.template_versions import TemplateVersion

LIMITS = "limits"
"""Who accepts or rejects where no person does."""
ANSWERED_WITHIN = timedelta(days=7)
"""A run that waits for an answer holds up the next one of its DAG."""


class JudgeTemplateOperator(FacilityOperator):
    """Sum up the metrics of the version that was just made, and compare them with the facility's limits.

    Reads the params of `SelectTemplateInputsOperator` and the result of the task ``select``. Writes
    ``template_scorecard``, ``template_summary`` and ``template_plot`` into the version, unless they are
    there. Returns ``version``, ``state`` (before the decision), ``run``, ``good``,
    ``reasons``, ``bands``, and ``report``, which is Markdown.
    """

    def work(self, context: Context) -> Any:
        """Gather, record, and show it in the log."""
        from tololo.engine.template_versions import read_versions
        from tololo.hooks.template_score import score_version

        params = context["params"]
        if params["dry_run"]:
            raise AirflowSkipException("Dry run: nothing was made that could be judged")
        version = context["ti"].xcom_pull(task_ids="select")["version"]
        hook = template_hook(params)
        with hook.butler_hook.session(writeable=True) as butler:
            score = score_version(butler, hook.chain, version, facility().skymap, facility().template_limits)
            states = {item.name: item.state for item in read_versions(butler, hook.chain)}
        for line in score.text.splitlines():
            self.log.info("%s", line)
        self.log.info("Recorded in %s%s", score.run, "" if score.is_new else " (the same was there before)")
        verdict = "within the limits" if score.judgement.is_good else "beyond the limits"
        context["task_state_store"].set("progress", f"{version} is {verdict}")
        return {
            "version": version,
            "state": states[version],
            "run": score.run,
            "good": score.judgement.is_good,
            "reasons": score.judgement.reasons,
            "bands": score.summary["bands"],
            "report": score.report,
        }


class ApproveTemplateOperator(ApprovalOperator):
    """Ask a person whether a version is to be used: Airflow's own approval, with the metrics in its body.

    The task waits without a worker until somebody answers under *Required Actions*; if nobody does in a week,
    it fails, and the version stays as it is. It is skipped unless the param ``acceptance`` asks for it, in a
    dry run, and for a version that is in use already. Both answers let the run go on:
    `AcceptTemplateOperator` records who gave which, and why.
    """

    def __init__(self, *, params: ParamsDict | None = None, **kwargs: Any) -> None:
        asked = params or ParamsDict({})  # Airflow gives those of the DAG, which are not shown
        asked["reason"] = Param(
            None,
            type=["null", "string"],
            title="Reason",
            description="Why; it is recorded with the version.",
            source="task",
        )
        super().__init__(
            subject="Accept template {{ (ti.xcom_pull('judge') or {}).get('version') }}?",
            body="{{ (ti.xcom_pull('judge') or {}).get('report') }}",
            params=asked,
            **{"response_timeout": ANSWERED_WITHIN} | kwargs,
        )

    def execute(self, context: Context) -> Any:
        """Ask, if there is something to ask."""
        params, judged = context["params"], context["ti"].xcom_pull(task_ids="judge")
        if params["acceptance"] != "approval":
            raise AirflowSkipException(f"The acceptance of this run is {params['acceptance']}")
        if not judged:
            raise AirflowSkipException("Nothing was made that could be approved")
        if judged["state"] == ACCEPTED:
            raise AirflowSkipException(f"{judged['version']} is accepted already")
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the answer; a rejection does not skip what comes after."""
        if event.get("error_type") == "timeout":
            told = UnavailableError(
                f"Nobody has answered in {ANSWERED_WITHIN.days} days",
                "Required Actions of this run; the version stays as it was",
                "run template_coadds again with the same selection to be asked again",
            )
            raise AirflowFailException(str(told))
        return HITLOperator.execute_complete(self, context, event)


class AcceptTemplateOperator(FacilityOperator):
    """Point the chain of a template at the version that was just made, or refuse it; either is recorded.

    Reads the params of `SelectTemplateInputsOperator`, ``acceptance``, and the results of ``select``,
    ``judge`` and ``approve``. With ``auto`` the limits decide: a version beyond them is rejected, and the
    task fails with the reasons; what a person has rejected stays so. With ``approval`` a person does; with
    ``hold`` the version stays a candidate. A version that is in use already stays in use. Returns ``chain``,
    ``version``, ``state``, and ``templates``, the number of templates in the version.
    """

    def work(self, context: Context) -> Any:
        """Decide, record, and rewrite the chain."""
        params, ti = context["params"], context["ti"]
        if params["dry_run"]:
            self.log.info("Dry run: no version was made, %s would decide", _who_decides(params))
            return None
        version, judged = ti.xcom_pull(task_ids="select")["version"], ti.xcom_pull(task_ids="judge")
        hook = template_hook(params)
        found = next(item for item in hook.versions() if item.name == version)
        if not found.templates or not judged:
            raise NothingToDoError(
                "The version holds no template", version, "look at the task that should have made it"
            )
        state, who, why = _decide(params, found, judged, ti.xcom_pull(task_ids="approve"))
        if state == REJECTED and who:
            hook.reject(version, who=who, why=why)
            raise _refused(version, who, why)
        if state == ACCEPTED:
            hook.accept(version, who=who, why=why)
        if found.is_current and not judged["good"]:
            self.log.warning("It is in use, and beyond the limits: %s", " ".join(judged["reasons"]))
        line = f"{version} of {found.templates} templates is {state}"
        self.log.info("%s%s", line, f" by {who}: {why}" if who else "")
        context["task_state_store"].set("progress", line)
        return {"chain": hook.chain, "version": version, "templates": found.templates, "state": state}


def _decide(
    params: Mapping[str, Any],
    found: TemplateVersion,
    judged: Mapping[str, Any],
    answer: Mapping[str, Any] | None,
) -> tuple[State, str, str]:
    """Return what a version is to be, who says so, and why."""
    if found.is_current:
        return ACCEPTED, "", ""
    if params["acceptance"] == "hold":
        return found.state, "", ""
    if params["acceptance"] == "approval":
        if not answer:
            raise NothingToDoError(f"Nobody was asked about {found.name}", "task approve", "clear that task")
        is_approved = answer["chosen_options"] == [ApprovalOperator.APPROVE]
        who = (answer.get("responded_by_user") or {}).get("name") or "somebody"
        why = (answer.get("params_input") or {}).get("reason") or ""
        return ACCEPTED if is_approved else REJECTED, who, why
    if found.state == REJECTED and found.latest.who != LIMITS:
        return REJECTED, found.latest.who, found.latest.why
    if judged["good"]:
        bands = ", ".join(f"{item['patches']} patches in {band}" for band, item in judged["bands"].items())
        return ACCEPTED, LIMITS, f"within the limits: {bands}"
    return REJECTED, LIMITS, " ".join(judged["reasons"])


def _refused(version: str, who: str, why: str) -> TololoError:
    if who == LIMITS:
        return BadInputError(
            f"The limits reject it: {why}",
            f"{version}; the chain is as it was",
            "change the selection, or templates.limits of facility.yaml, or run with acceptance: approval",
        )
    return NothingToDoError(
        f"It was rejected by {who}{f': {why}' if why else ''}",
        f"{version}; the chain is as it was",
        "run with acceptance: approval to be asked again",
    )


def _who_decides(params: Mapping[str, Any]) -> str:
    told = {"auto": "the limits of facility.yaml", "approval": "a person", "hold": "nobody"}
    return told[params["acceptance"]]
