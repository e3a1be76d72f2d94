"""A person's approval before light curves go into a TOM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import Param
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowSkipException

from tololo.facility.errors import NothingToDoError
from tololo.operators.task import FacilityOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.facility.lightcurve import LightCurve

AFTER_APPROVAL = "after approval"
DATASETS = "datasets"
SHOWN = 200
"""How many light curves the question lists."""


class GatherLightCurvesOperator(FacilityOperator):
    """Say what would be published, for the person who is asked.

    Reads the params of `~tololo.operators.tom_sources.light_curves`, ``publish`` and ``dry_run``. Skipped
    unless a person is to be asked about light curves from APDB or Butler. Returns ``label`` and ``curves``:
    of each the target, the numbers of points and detections, the first and last MJD (UTC), the brightest
    magnitude (none without a detection) and a hash of its content, by which the publisher knows it again.
    """

    def work(self, context: Context) -> Any:
        """Gather light curves and sum them up."""
        from tololo.operators.tom_sources import light_curves

        params = context["params"]
        if params["source"] == DATASETS:
            raise AirflowSkipException("Datasets are reduced, not gathered")
        if reason := _why_nobody_is_asked(params):
            raise AirflowSkipException(reason)
        label, curves = light_curves(params, self.log)
        if not curves:
            raise NothingToDoError("There are no light curves")
        return {"label": label, "curves": [_summary(curve) for curve in curves]}


class ApprovePublicationOperator(ApprovalOperator):
    """Ask a person whether light curves go into the TOM: Airflow's own approval, with a table of them.

    The task waits without a worker until somebody answers under *Required Actions*. It is skipped unless the
    param ``publish`` asks for it, in a dry run, and where there is nothing to publish. Both answers let the
    run go on: the publishers look at the answer, and publish nothing without an approval.
    """

    def __init__(self, *, params: ParamsDict | None = None, **kwargs: Any) -> None:
        asked = params or ParamsDict({})  # Airflow gives those of the DAG, which are not shown
        asked["reason"] = Param(
            None, type=["null", "string"], title="Reason", description="Why; the log has it.", source="task"
        )
        super().__init__(subject="Publish light curves in {{ params.tom }}?", body="", params=asked, **kwargs)

    def execute(self, context: Context) -> Any:
        """Ask, if there is something to ask."""
        params, ti = context["params"], context["ti"]
        if reason := _why_nobody_is_asked(params):
            raise AirflowSkipException(reason)
        self.body = question(ti.xcom_pull(task_ids="gather"), ti.xcom_pull(task_ids="reduce"))
        if not self.body:
            raise AirflowSkipException("There is nothing to publish")
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the answer; a rejection does not skip what comes after."""
        return HITLOperator.execute_complete(self, context, event)


def question(gathered: Mapping[str, Any] | None, reduced: Any) -> str:
    """Return a Markdown table of what would be published; empty if that is nothing.

    Parameters
    ----------
    gathered : mapping
        What `GatherLightCurvesOperator` returned.
    reduced : mapping or list of mappings
        What the reductions of datasets returned; those without upload are left out.
    """
    if gathered:
        rows = [
            f"| {curve['target']} | {curve['points']} | {curve['detections']} | {curve['first']:.2f} "
            f"| {curve['last']:.2f} | {'' if curve['brightest'] is None else round(curve['brightest'], 2)} |"
            for curve in gathered["curves"]
        ]
        title = f"Light curves `{gathered['label']}`"
        columns = "target", "points", "detections", "first MJD", "last MJD", "brightest"
    else:
        listed = [reduced] if isinstance(reduced, Mapping) else list(reduced or [])
        rows = [
            f"| {item['target']} | {item['filter']} | {item['frames']} | {item['measured']} "
            f"| {len(item['set_aside'] or ())} | `{item['folder']}` |"
            for item in listed
            if item and item.get("upload")
        ]
        title = "Light curves of datasets"
        columns = "target", "filter", "frames", "new", "set aside", "folder"
    return _table(title, columns, rows) if rows else ""


def require_approval(context: Context) -> None:
    """See that a person has approved what is to be published.

    Raises
    ------
    NothingToDoError
        If nobody was asked, or it was rejected; the message says by whom and why.
    """
    answer = context["ti"].xcom_pull(task_ids="approve")
    if not answer:
        raise NothingToDoError(
            "Nobody has approved this", "task approve", "clear that task to be asked again"
        )
    if answer["chosen_options"] != [ApprovalOperator.APPROVE]:
        who = (answer.get("responded_by_user") or {}).get("name") or "somebody"
        why = (answer.get("params_input") or {}).get("reason")
        raise NothingToDoError(
            f"It was rejected by {who}{f': {why}' if why else ''}",
            "task approve",
            "clear that task to be asked again",
        )


def why_not_published(params: Mapping[str, Any]) -> str:
    """Return why a run publishes nothing, empty if it does."""
    if params["dry_run"]:
        return "Dry run: not published"
    return "Not published" if params["publish"] == "no" else ""


def _why_nobody_is_asked(params: Mapping[str, Any]) -> str:
    if params["publish"] != AFTER_APPROVAL:
        return f"Nobody is asked: publish is {params['publish']!r}"
    return "Dry run: nothing will be published" if params["dry_run"] else ""


def _summary(curve: LightCurve) -> dict[str, Any]:
    times = [point.mjd_utc for point in curve.points]
    seen = [point.magnitude for point in curve.points if point.snr >= curve.detection_snr]
    return {
        "target": curve.target,
        "points": len(curve),
        "detections": len(seen),
        "first": min(times),
        "last": max(times),
        "brightest": min(seen, default=None),
        "content": curve.content_hash(),
    }


def _table(title: str, columns: Sequence[str], rows: Sequence[str]) -> str:
    more = [f"\n... and {len(rows) - SHOWN} more."] if len(rows) > SHOWN else []
    head = [f"{title}: {len(rows)}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*head, *rows[:SHOWN], *more])
