"""The sensor that waits for collections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tololo.facility.waiting import names_in
from tololo.sensors.waiting import ButlerSensor

if TYPE_CHECKING:
    from airflow.sdk import Context


class CollectionSensor(ButlerSensor):
    """Wait until collections exist and are not empty.

    A chain holds what its inputs hold, so that of a night is not empty before there is a visit: name the
    dataset types that count.

    :param collections: names or globs, separated by commas (templated); each must hold something.
    :param dataset_types: dataset types that count, names or globs, separated by commas (templated); any by
        default.
    :param conn_id: connection of the repository (templated).

    Returns the number of collections. Further arguments are those of `FacilitySensor`.
    """

    QUESTION = "collections"
    template_fields: Sequence[str] = ("collections", "dataset_types", "conn_id")

    def __init__(self, *, collections: str, dataset_types: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.collections = collections
        self.dataset_types = dataset_types

    def question_arguments(self, context: Context) -> dict[str, Any]:
        """Return collections and dataset types."""
        return {
            "collections": names_in(self.collections),
            "dataset_types": names_in(self.dataset_types),
        }
