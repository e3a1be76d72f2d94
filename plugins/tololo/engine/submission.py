"""A run of a quantum graph through bps: submitted once, followed to its end on any compute site."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import yaml
from lsst.ctrl.bps import BPS_DEFAULTS, BaseWmsService, BpsConfig, WmsStates
from lsst.ctrl.bps.drivers import submit_driver
from lsst.utils import doImport

from tololo.engine.apdb_writers import retry_is_safe
from tololo.engine.graph import read_pipeline
from tololo.engine.local import runner
from tololo.engine.local.service import LocalService, failures, fruitless_runners
from tololo.engine.parsl_failures import read_failures
from tololo.facility.configuration import INCLUDE, facility
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.run import RunRequest
from tololo.facility.sites import SITES, bps_config

_log = logging.getLogger("tololo.submission")

_GOING = (WmsStates.UNREADY, WmsStates.READY, WmsStates.PENDING, WmsStates.RUNNING)
MOST_RESTARTS = 5
"""Restarts of a run that gets no further in between."""

_UNQUOTED = set(" \t\n\"'`$&|;<>()[]{}*?!#~\\")
"""What a shell, or bps itself, takes for something else than a part of a path."""


class Submission:
    """One run on a compute site.

    Parameters
    ----------
    request : `RunRequest`
        What to run; its ``site`` names ``include/pipelines/bps/<site>.yaml``.
    path : `pathlib.Path`
        Folder for the files of bps.

    Raises
    ------
    BadInputError
        There is no such site, or a path is not one that bps can write into command lines.
    """

    def __init__(self, request: RunRequest, path: Path) -> None:
        self._request = request
        self._path = path
        self._site = INCLUDE / "pipelines" / "bps" / f"{request.site}.yaml"
        if not self._site.exists():
            others = sorted(file.stem for file in self._site.parent.glob("*.yaml") if file.stem != "common")
            raise BadInputError(
                f"There is no compute site {request.site!r}",
                str(self._site),
                f"name one of: {', '.join(others)}",
            )
        if request.site not in facility().sites:
            raise BadInputError(
                f"The facility does not offer the compute site {request.site!r}",
                "facility.yaml, key sites",
                f"put `{request.site}:` there, or name one of: {', '.join(facility().sites)}",
            )
        for place in (request.repository, str(path)):
            if wrong := sorted(set(place) & _UNQUOTED):
                raise BadInputError(
                    f"bps puts paths into its command lines as they are, and cannot have {wrong[0]!r} in one",
                    place,
                    "set TOLOLO_HOME, or put the repository, where no folder has such a name",
                )
        self._bps = BpsConfig(str(self._site), defaults=BPS_DEFAULTS)
        self._service: BaseWmsService = doImport(self._bps["wmsServiceClass"])(self._bps)
        self._made_here = False

    @property
    def provenance(self) -> Path:
        """Where the final job writes its provenance graph."""
        return self._path / "provenance.qg"

    @property
    def is_made(self) -> bool:
        """Whether the service has the run: then it is not submitted again."""
        return self._marker.exists()

    @property
    def _is_parsl(self) -> bool:
        # By name: whoever does not run on Parsl need not import it.
        return any(kind.__name__ == "ParslService" for kind in type(self._service).__mro__)

    @property
    def _marker(self) -> Path:
        # The local service writes its journal when it takes a run, Parsl's a workflow that it can go on with;
        # others are marked before they are asked.
        if isinstance(self._service, LocalService):
            return self._path / "journal.jsonl"
        if self._is_parsl:
            from lsst.ctrl.bps.parsl.workflow import get_workflow_filename

            return Path(get_workflow_filename(str(self._path)))
        return self._path.with_name("submitted")

    def make(self, run: str, graph: Path) -> None:
        """Submit; return when the service has it, or with Parsl when all has ended.

        Parameters
        ----------
        run : `str`
            Output RUN, as in the graph.
        graph : `pathlib.Path`
            The quantum graph.
        """
        shutil.rmtree(self._path, ignore_errors=True)  # what a driver left that died while bps prepared
        path = self._path.parent / "bps.yaml"
        path.write_text(yaml.safe_dump(self._config(run, graph), sort_keys=False))
        # Parsl leaves its own folder in the current one.
        os.chdir(self._path.parent)
        if not (self._is_parsl or isinstance(self._service, LocalService)):
            self._marker.touch()
        self._made_here = True
        submit_driver(str(path))

    def follow(self) -> None:
        """Wait until the run has ended; go on with one whose runner died.

        Raises
        ------
        UnavailableError
            The runner dies again and again.
        """
        if self._is_parsl:
            if not self._made_here and not self.provenance.exists():
                self._service.restart(str(self._path))
            return
        while (state := self._service.get_status(str(self._path))[0]) in (*_GOING, WmsStates.HELD):
            if state is WmsStates.HELD and isinstance(self._service, LocalService):
                self._go_on()
            time.sleep(0.02)

    def _go_on(self) -> None:
        if fruitless_runners(self._path) <= MOST_RESTARTS:
            _log.warning("the runner died: starting it again")
            before = self._marker.stat().st_size
            runner.start(self._path)
            if self._marker.stat().st_size > before:  # it has begun
                return
        log = self._path / "runner.log"
        last = log.read_text(errors="replace").splitlines()[-1:] if log.exists() else []
        raise UnavailableError(
            f"The runner of the jobs dies again and again: {' '.join(last)}", str(log), "read its log"
        )

    def cancel(self) -> None:
        """End what still runs of it, as far as the site can."""
        if self.is_made and SITES[self._request.site].promises.cancel:
            for job in self._service.list_submitted_jobs(str(self._path)):
                self._service.cancel(job)

    def failures(self) -> list[dict[str, Any]]:
        """Return the service's record of jobs that failed, with exit and signal; empty where it has none."""
        if not self.is_made:
            return []
        if isinstance(self._service, LocalService):
            return failures(self._path)
        return read_failures(self._path) if self._is_parsl else []

    def _config(self, run: str, graph: Path) -> dict[str, Any]:
        request = self._request
        settings = bps_config(request.site, facility().sites.get(request.site, {}))
        beside = self.provenance.with_name(".provenance.qg")
        memory = settings.get("requestMemory") or self._bps["requestMemory"]
        return settings | {
            "includeConfigs": [str(self._site)],
            "computeSite": request.site,
            "submitPath": str(self._path),
            "qgraphFile": str(graph),
            "cores": request.cores,
            "requestMemory": int(memory * request.memory_factor),
            "pipetask": {
                label: {"numberOfRetries": 0}
                for label, task in read_pipeline(request).tasks.items()
                if not retry_is_safe(task)
            },
            "payload": {
                "payloadName": request.step,
                "butlerConfig": request.repository,
                "inCollection": ",".join(request.inputs),
                "output": "",
                "outputRun": run,
                "dataQuery": request.where,
            },
            "extraAggregateOptions": f"--output {beside}",
            # A job that is killed while it writes leaves no half of a graph under this name.
            "finalJob": settings.get("finalJob", {}) | {"command2": f"mv {beside} {self.provenance}"},
        }
