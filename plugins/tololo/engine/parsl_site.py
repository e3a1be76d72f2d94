"""A Parsl site for one machine whose jobs are threads that wait for processes: it starts at once."""

from __future__ import annotations

from typing import Any

from lsst.ctrl.bps.parsl.configuration import get_bps_config_value
from lsst.ctrl.bps.parsl.site import SiteConfig
from parsl.executors import ThreadPoolExecutor
from parsl.executors.base import ParslExecutor


class LocalThreads(SiteConfig):  # type: ignore[misc]
    """Run the jobs of a workflow on this machine, ``cores`` at a time.

    Parsl's HighThroughputExecutor needs several seconds for its interchange and its managers; every bps job
    is a process of its own anyway, so threads that wait for them do the same work.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Threads take no resource specification, and Parsl refuses one.
        kwargs["resource_list"] = []
        super().__init__(*args, **kwargs)

    def get_executors(self) -> list[ParslExecutor]:
        """Return the one executor."""
        cores = get_bps_config_value(self.config, "cores", int, required=True)
        return [ThreadPoolExecutor(label="local", max_threads=cores)]

    def select_executor(self, job: Any) -> str:
        """Return the label of the one executor."""
        return "local"
