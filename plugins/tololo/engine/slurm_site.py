"""The compute site ``slurm``: ctrl_bps_parsl's, with blocks that end with their driver and can be cancelled.

Jobs that went down with a block are tried again, those that failed by themselves are not.
"""

from __future__ import annotations

import functools
import math
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lsst.ctrl.bps.parsl.configuration import get_bps_config_value
from lsst.ctrl.bps.parsl.sites.slurm import Slurm
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
from parsl.jobs.error_handlers import windowed_error_handler

from tololo.engine import slurm
from tololo.engine.parsl_failures import Loss
from tololo.engine.parsl_site import ResumableParslService
from tololo.facility.errors import BadInputError, TololoError

if TYPE_CHECKING:
    from parsl.config import Config
    from parsl.executors.base import ParslExecutor
    from parsl.providers import SlurmProvider

NEVER = 1000.0
"""Cost of a retry that no budget covers."""


class SlurmBlocks(Slurm):  # type: ignore[misc]
    """Ask Slurm for blocks of cores, with the settings of ``site.slurm``.

    Beside those of ctrl_bps_parsl's `Slurm` these are ``partition``, ``max_blocks``, ``worker_init`` and
    ``address``; and ``exclusive`` is heeded, where ctrl_bps_parsl always takes whole nodes.
    """

    def get_executors(self) -> list[ParslExecutor]:
        """Return the one executor."""
        # A site's shell start-up may not know this installation.
        path = f'export PATH="{Path(sys.executable).parent}{os.pathsep}$PATH"'
        worker_init = "\n".join([slurm.ANNOUNCEMENT, path, self._setting("worker_init", str, "")])
        memory, memory_of_a_worker = self._memory()
        executor = self.make_executor(
            "slurm",
            mem_per_node=memory,
            mem_per_worker=memory_of_a_worker,
            provider_options={
                "partition": self._setting("partition", str),
                "exclusive": self._setting("exclusive", bool, False),
                "max_blocks": self._setting("max_blocks", int, 1),
                "worker_init": worker_init,
                "cmd_timeout": 120,
            },
            executor_options={
                "interchange_launch_cmd": [sys.executable, "-m", "tololo.engine.interchange"],
                # The default gives the run up when its first block is lost, this one after three in a row.
                "block_error_handler": windowed_error_handler,
                "heartbeat_period": 10,
                "heartbeat_threshold": 60,
            },
        )
        # Parsl asks for a new block; one that Slurm brought back would forget why it was lost.
        executor.provider.scheduler_options += "#SBATCH --no-requeue\n"
        return [executor]

    def get_address(self) -> str:
        """Return the address of this machine that the nodes can reach."""
        return str(self._setting("address", str) or super().get_address())

    def get_parsl_config(self) -> Config:
        """Return Parsl's configuration, in which only what was lost is tried again."""
        config = super().get_parsl_config()
        config.retry_handler = self.retry_cost
        return config

    def retry_cost(self, exception: Exception, task: Any) -> float:
        """Return the cost of another try: 1 where the job's block was lost, more than there is if it failed.

        A job for which bps has ``numberOfRetries: 0``, such as one that writes an APDB, is not tried again.
        """
        if not isinstance(exception, ManagerLost | WorkerLost):
            return NEVER
        label = task["func_name"]
        place = {"curr_site": "slurm", "curr_cluster": label, "curr_pipetask": label}
        _, retries = self.config.search("numberOfRetries", {"curvals": place})
        return 1.0 if retries else NEVER

    def _memory(self) -> tuple[int | None, float]:
        """Return the GB of a block's node and of a worker: each worker has what a quantum asks for."""
        cores = self._setting("cores_per_node", int)
        wanted = get_bps_config_value(self.config, "requestMemory", int, required=True) / 1024
        memory = self._setting("mem_per_node", int) or (math.ceil(cores * wanted) if cores else None)
        return memory, min(wanted, memory) if memory else wanted

    def _setting(self, key: str, kind: type, default: Any = None) -> Any:
        return get_bps_config_value(self.site, key, kind, default)


class SlurmService(ResumableParslService):
    """Parsl's bps service with what Slurm itself can do: cancel the blocks, whoever asks, from wherever.

    The id of a run is its submit folder.
    """

    def submit(self, workflow: Any, **kwargs: Any) -> None:
        """Run a workflow to its end; refuse before anything is done if Slurm would not take its blocks.

        Raises
        ------
        BadInputError
            Slurm refuses such blocks: no such partition, no such account, more than a node has.
        UnavailableError
            Slurm does not answer.
        """
        slurm.check(_block_options(workflow.parsl_config.executors[0].provider))
        super().submit(workflow, **kwargs)

    def restart(self, out_prefix: str) -> tuple[str | None, str | None, str]:
        """Go on with a run whose driver died; the blocks that it left would work beside the new ones."""
        slurm.cancel(_run_of(out_prefix))
        return super().restart(out_prefix)

    def explain(self, workflow: Any, exception: BaseException | None) -> Loss:
        """Say why a job was lost or killed, by what became of its block."""
        folder = Path(workflow.path).parent
        lost = _endings(workflow.path)
        if isinstance(exception, ManagerLost):
            block = slurm.block_of(exception.manager_id.decode(), folder)
            lost = [ending for ending in lost if ending.block == block]
        elif exception is None:
            # The kernel ends one process of a block that has no memory left; the block goes on.
            lost = [ending for ending in lost if ending.for_memory]
        said = "; ".join(str(ending) for ending in lost) or str(exception or "")
        if any(ending.for_memory for ending in lost):
            return Loss("memory", said)
        return Loss("timeout" if any(ending.state == "TIMEOUT" for ending in lost) else "lost", said)

    def list_submitted_jobs(self, wms_id: str | None = None, *_: Any, **__: Any) -> list[str]:
        """Return the submit folder if any of its blocks waits or runs."""
        return [wms_id] if wms_id and slurm.blocks(_run_of(wms_id)) else []

    def cancel(self, wms_id: str, pass_thru: str | None = None) -> tuple[bool, str]:
        """Cancel all blocks of a run; tell whether any was there, and if not why."""
        try:
            cancelled = slurm.cancel(_run_of(wms_id))
        except TololoError as error:
            return False, str(error)
        return bool(cancelled), "" if cancelled else "it has no block in Slurm"


@functools.cache
def _endings(submit_path: str) -> list[slurm.Ending]:
    """Return how the blocks of a run that has ended were lost: asked once, whatever the number of jobs."""
    return slurm.endings(_run_of(submit_path), Path(submit_path).parent)


def _block_options(provider: SlurmProvider) -> list[str]:
    """Return the options of sbatch with which Parsl asks for a block."""
    lines = provider.scheduler_options.splitlines()
    options = [part for line in lines for part in shlex.split(line.removeprefix("#SBATCH"))]
    options += [f"--nodes={provider.nodes_per_block}", f"--time={provider.walltime}", "--ntasks-per-node=1"]
    if provider.mem_per_node:
        options.append(f"--mem={provider.mem_per_node}g")
    if provider.cores_per_node:
        options.append(f"--cpus-per-task={provider.cores_per_node}")
    return options


def _run_of(submit_path: str) -> str:
    """Return the output RUN of a submit folder, from the configuration that bps keeps there."""
    for path in sorted(Path(submit_path).glob("*_config.yaml")):
        config = yaml.safe_load(path.read_text())
        if run := config.get("payload", {}).get("outputRun"):
            return str(run)
    raise BadInputError(
        "This is not a submit folder of bps", submit_path, "name the folder that bps gave as submit dir"
    )
