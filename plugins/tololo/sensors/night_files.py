"""The sensor that waits for the files of a night."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NoReturn

from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

from tololo.facility.configuration import facility
from tololo.hooks.night_files import moved_before
from tololo.params import night_of
from tololo.sensors.waiting import FacilitySensor, night_deadline
from tololo.triggers.night_files import NightFilesTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class NightFilesSensor(FacilitySensor):
    """Wait until the files of the run's night have arrived in its folder.

    Reads the params ``night``, ``source``, ``data``, ``proc_types`` and ``wait``. It waits for an exposure of
    each kind that the run shall work on, and until none is being written any more; at most ``wait`` hours
    after the end of the night. Then what is there must do; a night without any file is skipped. A night that
    ended longer ago is not waited for.

    Returns the number of files. Further arguments are those of `FacilitySensor`.
    """

    def execute(self, context: Context) -> int:
        """Look, and wait as long as the night's files may come."""
        self.timeout = max(0.0, night_deadline(context) - time.time())
        try:
            return super().execute(context)
        except AirflowSkipException:
            if not (known := moved_before(context["params"]["repo"], night_of(context))):
                raise
            self.log.info("%d exposures of the night were moved into the repository before", len(known))
            return len(known)

    def make_trigger(self, context: Context, deadline: float) -> NightFilesTrigger:
        """Return the trigger that looks into the folder."""
        params = context["params"]
        return NightFilesTrigger(
            folder=str(params["data"] or facility().data),
            night=night_of(context),
            source=params["source"],
            proc_types=params["proc_types"],
            deadline=night_deadline(context),
            poke_interval=self.poke_interval,
        )

    def _too_late(self, message: str = "") -> AirflowSensorTimeout:
        if not message and self._trigger is not None:
            message = self._trigger.message()
        return AirflowSensorTimeout(f"Nothing to do; {message}")

    def _end(self, context: Context, reason: BaseException) -> NoReturn:
        """Skip a night without files; what is wrong (no such folder) fails."""
        if isinstance(reason, AirflowSensorTimeout):
            context["task_state_store"].set("progress", str(reason))
            raise AirflowSkipException(str(reason)) from None
        raise reason
