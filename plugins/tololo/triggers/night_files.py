"""The trigger that watches a folder for the files of a night."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tololo.facility.waiting import Answer
from tololo.triggers.waiting import WaitTrigger


class NightFilesTrigger(WaitTrigger):
    """Wait until the files of a night are there; when the time is up, what is there must do.

    :param folder: folder of the files, any depth.
    :param night: YYYYMMDD.
    :param source: ``raw`` or ``instcal``.
    :param proc_types: what shall be made of raws.

    The other arguments are those of `WaitTrigger`.
    """

    def __init__(
        self, *, folder: str, night: str, source: str, proc_types: Sequence[str], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.folder = folder
        self.night = night
        self.source = source
        self.proc_types = list(proc_types)

    def arguments(self) -> dict[str, Any]:
        """Return what is looked for."""
        return {
            "folder": self.folder,
            "night": self.night,
            "source": self.source,
            "proc_types": self.proc_types,
        }

    def look(self) -> Answer:
        """Look into the folder."""
        from tololo.hooks.night_files import night_files  # in the thread that looks

        seen = night_files(self.folder, self.night, self.source, self.proc_types)
        if seen["found"] and not seen["ready"] and time.time() >= self.deadline:
            self.log.info("The time is up: going on without %s", "; ".join(seen["missing"]))
            seen["ready"] = True
        return seen
