"""The operator that publishes the light curve of a dataset of frames in a TOM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from tololo.facility.errors import NothingToDoError
from tololo.operators.task import FacilityOperator
from tololo.operators.tom_approval import AFTER_APPROVAL, require_approval, why_not_published

if TYPE_CHECKING:
    from airflow.sdk import Context


class PublishDatasetOperator(FacilityOperator):
    """Upload the light curve of one dataset as the only version of its target and label.

    It goes into the TOM of the dataset's ``tom.config_file``, else of the param ``tom``; the label is
    ``tom.data_label`` with instrument and filter. Skipped where ``tom.upload`` is off, ``publish`` is ``no``
    or not approved, and in a dry run. Reads the params ``tom``, ``create_targets``, ``publish`` and
    ``dry_run``. Returns target, label, status (``created`` or ``unchanged``), points, product and tom.

    :param dataset: what the reduction returned (templated); of it ``folder`` and ``upload`` are read.
    """

    template_fields: Sequence[str] = ("skip", "dataset")

    def __init__(self, *, dataset: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset

    def work(self, context: Context) -> Any:
        """Read the light curve and upload it."""
        from tololo.hooks.tom import TomHook
        from tololo.hooks.tom_dataset import read_dataset_curve

        params = context["params"]
        if not self.dataset:
            raise NothingToDoError("The dataset was not reduced")
        folder = Path(self.dataset["folder"])
        if not self.dataset["upload"]:
            raise NothingToDoError(f"{folder}: tom.upload is off in its configuration")
        if reason := why_not_published(params):
            raise AirflowSkipException(f"{folder}: {reason}")
        if params["publish"] == AFTER_APPROVAL:
            require_approval(context)
        dataset = read_dataset_curve(folder)
        if dataset.left_out:
            self.log.info("%s: %d points are flagged and not published", folder, dataset.left_out)
        file = dataset.config.tom.config_file
        tom = (
            TomHook(config_file=folder / Path(file).expanduser()) if file.strip() else TomHook(params["tom"])
        )
        result = tom.publish(dataset.light_curve, dataset.label, create=params.get("create_targets"))
        progress = f"{result['target']} {result['label']}: {result['points']} points, {result['status']}"
        context["task_state_store"].set("progress", progress)
        return result
