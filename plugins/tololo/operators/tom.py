"""The operator that publishes light curves in a TOM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tololo.facility.errors import BadInputError
from tololo.operators.task import FacilityOperator
from tololo.operators.tom_approval import AFTER_APPROVAL, require_approval, why_not_published
from tololo.params import night_of

if TYPE_CHECKING:
    from airflow.sdk import Context


class PublishLightCurvesOperator(FacilityOperator):
    """Upload light curves, each as the only version of its target and label.

    They come from the APDB (diaObjects, or targets of a list, on difference images) or from the visit images
    (targets of a list). Reads the params of `~tololo.operators.tom_sources.light_curves`, and ``night``,
    ``tom``, ``create_targets``, ``publish`` and ``dry_run``; after an approval also the results of ``gather``
    and ``approve``. One light curve that the TOM refuses stops none of the others; the task fails in the end.
    Returns the counts of targets, of created and unchanged light curves, and of points.
    """

    def work(self, context: Context) -> Any:
        """Gather light curves, upload, count."""
        from tololo.hooks.tom import TomHook
        from tololo.operators.tom_sources import light_curves

        params = context["params"]
        if params["publish"] == AFTER_APPROVAL and not params["dry_run"]:
            require_approval(context)
        self.log.info("Light curves as they stand after night %s", night_of(context))
        label, curves = light_curves(params, self.log)
        if reason := why_not_published(params):
            points = sum(len(curve) for curve in curves)
            self.log.info("%s: %d light curves, %d points", reason, len(curves), points)
            return {"targets": len(curves), "points": points}
        approved = _approved(context)
        tom = TomHook(params["tom"])
        if curves:
            tom.count("targets")  # a login that is refused is refused once, and not for each light curve
        counts = {"targets": 0, "created": 0, "unchanged": 0, "points": 0}
        refused = []
        for curve in curves:
            try:
                if approved is not None and approved.get(curve.target) != curve.content_hash():
                    raise BadInputError(
                        f"The light curve of {curve.target} is not the one that was approved",
                        f"label {label}",
                        "run again, to be asked about the one of now",
                    )
                result = tom.publish(curve, label, create=params.get("create_targets"))
            except BadInputError as error:
                self.log.error("%s: %s", curve.target, error)
                refused.append(error)
                continue
            counts["targets"] += 1
            counts[result["status"]] += 1
            counts["points"] += result["points"]
            self.log.info("%s: %d points, %s", curve.target, result["points"], result["status"])
            context["task_state_store"].set("progress", f"{counts['targets']} of {len(curves)} light curves")
        if refused:
            first = refused[0]
            raise BadInputError(
                f"{len(refused)} of {len(curves)} light curves are not published; the first: {first.what}",
                first.where,
                first.remedy,
            )
        return counts


def _approved(context: Context) -> dict[str, str] | None:
    """Return the contents that a person has approved, by target; none where nobody had to be asked."""
    if context["params"]["publish"] != AFTER_APPROVAL:
        return None
    gathered = context["ti"].xcom_pull(task_ids="gather") or {}
    return {curve["target"]: curve["content"] for curve in gathered.get("curves", [])}
