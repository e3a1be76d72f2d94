"""The compute site ``parsl``: jobs are threads that wait for processes, so that it starts at once."""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
from pathlib import Path
from typing import Any

from lsst.ctrl.bps.parsl import ParslService, ParslWorkflow
from lsst.ctrl.bps.parsl.configuration import get_bps_config_value, get_workflow_filename
from lsst.ctrl.bps.parsl.site import SiteConfig
from parsl.executors import ThreadPoolExecutor
from parsl.executors.base import ParslExecutor

from tololo.engine.parsl_failures import Loss, record_failures


class ResumableParslService(ParslService):  # type: ignore[misc]
    """Parsl's bps service, which goes on where its driver died and keeps a record of the jobs that failed.

    The id of a run is its submit folder.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        # It has a log of its own (runinfo/*/parsl.log), and a lot to say.
        logging.getLogger("parsl").propagate = False

    def submit(self, workflow: ParslWorkflow, **kwargs: Any) -> None:
        """Run a workflow. Return when all has ended."""
        workflow.start()
        self._run(workflow)

    def restart(self, out_prefix: str) -> tuple[str | None, str | None, str]:
        """Go on with a run: what ended well is not run again. Return when all has ended.

        Parsl keeps its record in the folder from which the run was submitted: here the parent of its own.
        """
        folder = Path(out_prefix).resolve()
        if not Path(get_workflow_filename(str(folder))).exists():
            return None, None, f"bps has not prepared a run in {folder}"
        with contextlib.chdir(folder.parent):
            workflow = ParslWorkflow.read(str(folder))
            if Path("runinfo").exists():
                workflow.restart()
            else:
                # It never came to Parsl, so bps's first job is not known to have ended.
                shutil.rmtree(folder / "logs", ignore_errors=True)
                workflow.start()
            self._run(workflow)
        return workflow.name, workflow.name, ""

    def explain(self, workflow: ParslWorkflow, exception: BaseException | None) -> Loss:
        """Say why a job ended without a word: with an exception of Parsl, or killed (`None`)."""
        return Loss("lost", str(exception or ""))

    def _run(self, workflow: ParslWorkflow) -> None:
        try:
            workflow.run()
        finally:
            record_failures(workflow, Path(workflow.path), functools.partial(self.explain, workflow))


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
