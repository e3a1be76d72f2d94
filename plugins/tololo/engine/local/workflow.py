"""The jobs of a bps workflow, as plain data in the submit folder."""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from networkx import lexicographical_topological_sort

from tololo.facility.errors import BadInputError
from tololo.facility.run import write_json

if TYPE_CHECKING:
    from lsst.ctrl.bps import BpsConfig, GenericWorkflow, GenericWorkflowJob

FILE = "workflow.json"
FINAL = "final"


@dataclass(frozen=True)
class Job:
    """One job: a command line and what it may use.

    Parameters
    ----------
    name, label : `str`
        As bps gives them.
    commands : `list` [`str`]
        Command lines, to be run until one fails; none for a node that only orders others.
    log : `str`
        File for its output, without the number of the try.
    parents : `list` [`str`]
        Jobs that must have succeeded.
    quanta : `list` [`str`]
        UUIDs of its quanta.
    counts : `dict` [`str`, `int`]
        Quanta by task label.
    cpus : `int`
        Cores.
    memory, memory_max : `int`
        MiB of the first try, and of any; 0 is no limit.
    multiplier : `float`
        Growth of the memory after a try that was killed for it.
    retries : `int`
        Further tries after the first.
    no_retry : `list` [`int`]
        Exit codes that are not tried again.
    walltime : `float`
        Seconds that a try may take; 0 is no limit.
    abort_on : `int`, optional
        Exit code that ends the whole workflow.
    environment : `dict` [`str`, `str`]
        Variables for the job.
    """

    name: str
    label: str
    commands: list[str]
    log: str
    parents: list[str] = field(default_factory=list)
    quanta: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    cpus: int = 1
    memory: int = 0
    memory_max: int = 0
    multiplier: float = 1.0
    retries: int = 0
    no_retry: list[int] = field(default_factory=list)
    walltime: float = 0.0
    abort_on: int | None = None
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Workflow:
    """What the runner runs.

    Parameters
    ----------
    name : `str`
        Name of the run.
    jobs : `dict` [`str`, `Job`]
        Parents come first, and else the lower data ID; the one called `FINAL` runs last, in any case.
    cores : `int`
        Cores that the jobs may use at a time.
    attributes : `dict` [`str`, `str`]
        What ``bps report`` shows: operator, project, campaign, payload, site, run.
    """

    name: str
    jobs: dict[str, Job]
    cores: int
    attributes: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into the submit folder."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Workflow:
        """Read it from the submit folder.

        Raises
        ------
        BadInputError
            The folder holds no run of this service.
        """
        try:
            content = json.loads((folder / FILE).read_text())
            content["jobs"] = {name: Job(**job) for name, job in content["jobs"].items()}
            return cls(**content)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise BadInputError(
                "There is no run of the local service",
                str(folder),
                f"name the submit folder of one ({error})",
            ) from error

    @classmethod
    def from_generic(cls, config: BpsConfig, generic: GenericWorkflow, folder: Path) -> Workflow:
        """Take what the runner needs from the workflow that bps prepared."""
        site = {"curr_site": config["computeSite"]}
        _, cores = config.search("cores", opt={"curvals": site, "default": os.cpu_count() or 1})
        in_order = lexicographical_topological_sort(generic, lambda name: _rank(generic.get_job(name)))
        jobs = {name: _job(generic.get_job(name), generic, config, folder) for name in in_order}
        final = generic.get_final()
        if final is not None:
            jobs[FINAL] = _job(final, generic, config, folder, name=FINAL)
        attributes = {
            key.removeprefix("bps_"): str(value)
            for key, value in generic.run_attrs.items()
            if key != "bps_isjob"
        }
        return cls(generic.name, jobs, int(cores), attributes)


def _job(node: Any, generic: GenericWorkflow, config: BpsConfig, folder: Path, name: str = "") -> Job:
    parents = sorted(generic.predecessors(node.name)) if not name else []
    kind = node.node_type.name if hasattr(node, "node_type") else "workflow"
    if kind == "NOOP":
        return Job(node.name, node.label, [], "", parents)
    if kind != "PAYLOAD":
        raise BadInputError(
            f"The site 'local' runs no job groups ({node.name!r} is a {kind})",
            "the bps configuration, key ordering or finalJob.implementation",
            "leave groups out, or choose another site",
        )
    quanta = node.cmdvals.get("qgraphNodeId")
    return Job(
        name=name or node.name,
        label=node.label,
        commands=_commands(node, generic),
        log=_log(node, config, folder),
        parents=parents,
        quanta=str(quanta).split(",") if quanta else [],
        counts=dict(node.quanta_counts or {}),
        cpus=node.request_cpus or 1,
        memory=node.request_memory or 0,
        memory_max=node.request_memory_max or _memory_limit(config),
        multiplier=node.memory_multiplier or 1.0,
        retries=node.number_of_retries or 0,
        no_retry=_as_list(node.retry_unless_exit),
        walltime=60.0 * float(node.request_walltime or 0),
        abort_on=node.abort_on_value,
        environment={key: str(value) for key, value in node.environment.items()},
    )


def _rank(node: Any) -> list[tuple[float, str]]:
    """Give what jobs are sorted by: the data ID, then the task, with numbers as numbers."""
    words = map(str, [*(getattr(node, "tags", None) or {}).values(), node.label, node.name])
    return [(float(word), "") if word.isdecimal() else (math.inf, word) for word in words]


def _memory_limit(config: BpsConfig) -> int:
    opt = {"curvals": {"curr_site": config["computeSite"]}, "default": 0}
    return int(config.search("memoryLimit", opt=opt)[1])


def _commands(job: GenericWorkflowJob, generic: GenericWorkflow) -> list[str]:
    """Fill in the names that bps leaves to the service: values, files, variables of the environment."""
    files = {file.name: file.src_uri for file in generic.get_files(data=True, transfer_only=False)}
    files |= {file.name: file.src_uri for file in generic.get_job_inputs(job.name)}
    command = f"{job.executable.src_uri} {job.arguments}".format(**job.cmdvals)
    previous = ""
    while command != previous:  # a value may hold a further name
        previous = command
        command = re.sub(r"<ENV:([^>]+)>", r"${\1}", command)
        command = re.sub(r"<FILE:([^>]+)>", lambda match: files[match[1]], command)
    return _script(command) or [command]


def _script(command: str) -> list[str]:
    """Return the lines of the script that bps writes for its final job, to be run without a shell.

    A process for it would import the stack once more, which costs more than all that it does.
    """
    words = command.split()
    if len(words) != 3 or not words[0].endswith("/final_job.bash"):
        return []
    head, _, body = Path(words[0]).read_text().partition("butlerConfig=$2\n")
    if head.split() != ["#!/bin/bash", "set", "-e", "set", "-x", "qgraphFile=$1"]:
        return []
    lines = [line for line in body.splitlines() if line.strip()]
    return [line.replace("${qgraphFile}", words[1]).replace("${butlerConfig}", words[2]) for line in lines]


def _log(job: GenericWorkflowJob, config: BpsConfig, folder: Path) -> str:
    opt = {"curvals": {"curr_cluster": job.label}, "replaceVars": False, "default": ""}
    _, template = config.search("subDirTemplate", opt=opt)
    values: dict[str, Any] = defaultdict(str, {"label": job.label, **(job.tags or {})})
    return str(folder / "logs" / os.path.normpath(template.format_map(values)) / str(job.name))


def _as_list(value: int | Iterable[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else [int(code) for code in value]
