"""The operator that ends a run and publishes what it has finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset

from tololo.facility.errors import NothingToDoError
from tololo.operators.task import FacilityOperator
from tololo.params import NIGHT

if TYPE_CHECKING:
    from airflow.sdk import Context


class FinishOperator(FacilityOperator):
    """Publish an event of an asset that tells what the run has finished; the last task of a DAG.

    The event informs and starts nothing. A run that finished nothing publishes none: the task is skipped in a
    dry run, and where one of the tasks that it asks has returned nothing. Returns what the event tells.

    :param asset: what the DAG makes.
    :param told: by task, the keys of what it returned that the event tells.
    :param night: the run's night, which the event tells too (templated); empty where a run has none.
    :param repo: connection of the repository, which the event tells too (templated).
    """

    template_fields: Sequence[str] = (*FacilityOperator.template_fields, "night", "repo")

    def __init__(
        self,
        *,
        asset: Asset,
        told: Mapping[str, Sequence[str]],
        night: str = NIGHT,
        repo: str = "{{ params.repo }}",
        **kwargs: Any,
    ) -> None:
        # In the graph of assets a chain goes on where one task has both inlets and outlets.
        super().__init__(outlets=[asset], **kwargs)
        self.asset = asset
        self.told = told
        self.night = night
        self.repo = repo

    def work(self, context: Context) -> dict[str, Any]:
        """Gather, and tell."""
        if context["params"].get("dry_run"):
            raise NothingToDoError("Dry run: nothing was finished")
        extra: dict[str, Any] = {"night": self.night} if self.night else {}
        extra["repo"] = self.repo
        for task, keys in self.told.items():
            returned = context["ti"].xcom_pull(task_ids=task)
            if not returned:
                raise NothingToDoError("Nothing was finished", f"task {task}", "its log says why")
            extra |= {key: returned[key] for key in keys}
        context["outlet_events"][self.asset].extra.update(extra)
        self.log.info("%s: %s", self.asset.name, extra)
        return extra
