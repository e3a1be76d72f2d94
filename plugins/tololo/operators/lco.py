"""The operator that downloads frames from Las Cumbres' archive."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.operators.task import FacilityOperator
from tololo.operators.timeseries import read_manager

if TYPE_CHECKING:
    from airflow.sdk import Context

_NAMED = 20
"""How many failures the message of the task names; the log has all."""


class DownloadFramesOperator(FacilityOperator):
    """Fetch new frames from Las Cumbres' archive and sort them into datasets.

    Reads the params ``manager`` (the manager's configuration, that of facility.yaml where empty; its
    ``data_reduction_dir`` gets the frames), ``proposals`` (those of the connection where there are none),
    ``start`` and ``end`` (days or times, UTC; by default since the last complete download less a day, until
    now), ``download`` (``no`` skips the task) and ``dry_run``. Returns what
    `~tololo.facility.lco_report.DownloadReport` says. Frames that fail do not keep the others back; the task
    fails at its end, naming them, and its next try fetches what is missing.

    :param conn_id: connection of type ``lco`` (templated).
    :param wait: seconds to wait for another download into the same folder.
    """

    template_fields: Sequence[str] = (*FacilityOperator.template_fields, "conn_id")

    def __init__(self, *, conn_id: str = "lco_archive", wait: float = 600.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.wait = wait

    def work(self, context: Context) -> dict[str, Any]:
        """Download."""
        from tololo.facility.lco import proposals_in, read_time
        from tololo.hooks.lco import LcoArchiveHook
        from tololo.hooks.lco_download import download_frames

        params = context["params"]
        if params.get("download", "yes") == "no":
            raise NothingToDoError("Frames are not to be downloaded", "param download")
        manager = read_manager(params)
        if manager is None:
            raise BadInputError(
                "It is not said where frames go", "param manager", "name the manager's configuration file"
            )
        start, end = (str(params.get(key) or "") for key in ("start", "end"))
        hook = LcoArchiveHook(self.conn_id)
        report = download_frames(
            hook,
            manager.root,
            proposals_in(params.get("proposals")) or hook.proposals,
            read_time(start, "param start") if start else None,
            read_time(end, "param end", end=True) if end else None,
            dry_run=bool(params.get("dry_run")),
            wait=self.wait,
            progress=_Progress(context),
        )
        self.log.info("%s%s", "Dry run: " if params.get("dry_run") else "", report)
        context["task_state_store"].set("progress", str(report))
        if report.failed:
            named = [f"{name}: {why}" for name, why in report.failed.items()]
            more = f"; and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
            raise UnavailableError(
                f"{len(named)} of {report.found} frames failed, {report.new} came",
                "; ".join(named[:_NAMED]) + more,
                "run again: what is here is not fetched anew",
            )
        return asdict(report)


class _Progress:
    """Says how far a task is, now and then."""

    def __init__(self, context: Context, interval: float = 5.0) -> None:
        self.store = context["task_state_store"]
        self.interval = interval
        self.said = 0.0

    def __call__(self, line: str) -> None:
        if time.monotonic() - self.said > self.interval:
            self.store.set("progress", line)
            self.said = time.monotonic()
