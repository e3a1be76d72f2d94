"""The sensor that waits for datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tololo.facility.errors import BadInputError
from tololo.facility.waiting import names_in
from tololo.params import data_query
from tololo.sensors.waiting import ButlerSensor

if TYPE_CHECKING:
    from airflow.sdk import Context


class DatasetCountSensor(ButlerSensor):
    """Wait until there are so many datasets of a type.

    :param dataset_type: its name (templated).
    :param collections: names or globs, separated by commas (templated).
    :param count: how many are needed (templated).
    :param where_terms: terms of the Butler data query (templated), joined with those of the params
        ``detectors`` and ``where``.
    :param conn_id: connection of the repository (templated).

    Returns the number of datasets. Further arguments are those of `FacilitySensor`.
    """

    QUESTION = "datasets"
    template_fields: Sequence[str] = ("dataset_type", "collections", "count", "where_terms", "conn_id")

    def __init__(
        self,
        *,
        dataset_type: str,
        collections: str,
        count: int | str = 1,
        where_terms: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset_type = dataset_type
        self.collections = collections
        self.count = count
        self.where_terms = where_terms or []

    def question_arguments(self, context: Context) -> dict[str, Any]:
        """Return type, collections, data query and number."""
        if not (count := str(self.count)).isdecimal() or int(count) < 1:
            raise BadInputError(
                f"{count!r} is no number of datasets to wait for", f"task {self.task_id}", "give 1 or more"
            )
        return {
            "dataset_type": self.dataset_type,
            "collections": names_in(self.collections),
            "where": data_query(context["params"], *self.where_terms),
            "count": int(count),
        }
