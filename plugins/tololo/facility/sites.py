"""Where quanta can run: the compute sites, what each promises and what a facility can set for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from tololo.facility.errors import BadInputError


@dataclass(frozen=True)
class Promise:
    """Whether a site does something, and how; it is true or false by ``kept``."""

    kept: bool
    how: str

    def __bool__(self) -> bool:
        return self.kept


def yes(how: str) -> Promise:
    """Return a promise that is kept."""
    return Promise(True, how)


def no(how: str) -> Promise:
    """Return a promise that is not kept, and what happens instead."""
    return Promise(False, how)


@dataclass(frozen=True)
class Promises:
    """What a site promises to whoever runs a workflow on it."""

    returns_at_once: Promise = field(metadata={"title": "submission returns at once"})
    outlives_the_driver: Promise = field(metadata={"title": "run outlives the driver"})
    status: Promise = field(metadata={"title": "`bps status`"})
    report: Promise = field(metadata={"title": "`bps report`"})
    cancel: Promise = field(metadata={"title": "`bps cancel`"})
    restart: Promise = field(metadata={"title": "`bps restart`"})
    retries: Promise = field(metadata={"title": "retries in a run"})
    memory_growth: Promise = field(metadata={"title": "memory grows in a run"})
    memory_limit: Promise = field(metadata={"title": "memory limit"})


@dataclass(frozen=True)
class Setting:
    """A key of ``sites.<name>`` in ``facility.yaml``.

    ``bps`` is its place in bps's configuration, ``schema`` its JSON schema, ``meaning`` a line for people.
    """

    bps: str
    schema: Mapping[str, Any]
    meaning: str


@dataclass(frozen=True)
class Site:
    """A compute site: ``include/pipelines/bps/<name>.yaml`` describes it to bps."""

    name: str
    runs: str
    promises: Promises
    settings: Mapping[str, Setting]
    needs_naming: bool = False
    """Whether a facility offers it only if ``sites`` in ``facility.yaml`` names it."""


_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}
_YES_NO = {"type": "boolean"}
_WALLTIME = {
    "type": "string",
    "pattern": "^[0-9]+:[0-5][0-9]:[0-5][0-9]$",
    "description": 'write hours:minutes:seconds in quotes, "04:00:00"',
}

_REQUEST_MEMORY = Setting("requestMemory", _COUNT, "MiB that one quantum is expected to need")
_MEMORY_LIMIT = Setting("memoryLimit", _COUNT, "MiB beyond which memory is not grown")
_RETRIES = Setting("numberOfRetries", {"type": "integer", "minimum": 0}, "how often a job is tried again")

LOCAL = Site(
    "local",
    "on this machine, in processes that hold the stack (`tololo.engine.LocalService`)",
    Promises(
        returns_at_once=yes("a detached runner takes over"),
        outlives_the_driver=yes("the runner is a process of its own; it is started again if it dies"),
        status=yes("by submit folder"),
        report=yes("by submit folder, or of all runs of late"),
        cancel=yes("the runner ends its workers and all that they started"),
        restart=yes("goes on where it stopped, or runs again what failed"),
        retries=yes("`numberOfRetries`, not after an exit code in `retryUnlessExit`"),
        memory_growth=yes("times `memoryMultiplier`, up to the memory of the machine"),
        memory_limit=yes("each job; runs that go on at the same time share cores and memory"),
    ),
    {"request_memory": _REQUEST_MEMORY, "memory_limit": _MEMORY_LIMIT, "retries": _RETRIES},
)

PARSL = Site(
    "parsl",
    "on this machine, a process for each job (`ctrl_bps_parsl`)",
    Promises(
        returns_at_once=no("submission ends when the last job has ended"),
        outlives_the_driver=no(
            "jobs that run come to their end; what comes after them waits for the next driver"
        ),
        status=no("Tololo counts the quanta that are done"),
        report=no("Tololo counts the quanta that are done"),
        cancel=no("Tololo ends the driver's process group, and with it the jobs"),
        restart=yes("jobs that ended well are not run again"),
        retries=no("`numberOfRetries` is ignored; Parsl's own retry would run permanent failures again"),
        memory_growth=no("the next attempt asks for more, and nothing comes of it"),
        memory_limit=no("the machine's own"),
    ),
    {},
)

SLURM = Site(
    "slurm",
    "on a Slurm cluster, in blocks of cores that Parsl asks for (`ctrl_bps_parsl`)",
    Promises(
        returns_at_once=no("submission ends when the last job has ended"),
        outlives_the_driver=no(
            "blocks end by themselves within two minutes, at once when the run is cancelled or gone on with"
        ),
        status=no("Tololo counts the quanta that are done; `squeue --name tololo.<run>` shows the blocks"),
        report=no("Tololo counts the quanta that are done"),
        cancel=yes("`scancel` of every block of the run"),
        restart=yes("blocks that are left are cancelled; jobs that ended well are not run again"),
        retries=yes(
            "once, where the block was lost: preempted, out of time, node gone. A job's own failure is final"
        ),
        memory_growth=no("the next attempt has fewer jobs at a time in a block, or larger blocks"),
        memory_limit=no("of each block, as Slurm enforces it; jobs in a block share it"),
    ),
    {
        "partition": Setting("site.slurm.partition", _TEXT, "partition (queue); else Slurm's default"),
        "account": Setting("site.slurm.account", _TEXT, "account that is charged"),
        "qos": Setting("site.slurm.qos", _TEXT, "quality of service"),
        "constraint": Setting("site.slurm.constraint", _TEXT, "features that a node must have"),
        "nodes": Setting("site.slurm.nodes", _COUNT, "nodes of a block, 1 unless set"),
        "cores_per_node": Setting(
            "site.slurm.cores_per_node", _COUNT, "cores of a node that a block takes; else all"
        ),
        "mem_per_node": Setting(
            "site.slurm.mem_per_node",
            _COUNT,
            "GB of a node that a block takes; else `request_memory` for each of `cores_per_node`",
        ),
        "max_blocks": Setting("site.slurm.max_blocks", _COUNT, "blocks at a time, 1 unless set"),
        "walltime": Setting("site.slurm.walltime", _WALLTIME, 'time limit of a block, "04:00:00" unless set'),
        "exclusive": Setting(
            "site.slurm.exclusive", _YES_NO, "whether a block shares its nodes with nobody, no unless set"
        ),
        "scheduler_options": Setting(
            "site.slurm.scheduler_options", _TEXT, "further lines `#SBATCH ...` of the submit script"
        ),
        "worker_init": Setting(
            "site.slurm.worker_init", _TEXT, "shell commands that make the environment on a node"
        ),
        "address": Setting(
            "site.slurm.address", _TEXT, "address of this machine as the nodes see it; else that of its name"
        ),
        "request_memory": _REQUEST_MEMORY,
    },
    needs_naming=True,
)

HTCONDOR = Site(
    "htcondor",
    "in an HTCondor pool, as a DAG (`ctrl_bps_htcondor`)",
    Promises(
        returns_at_once=yes("DAGMan takes over"),
        outlives_the_driver=yes("DAGMan is a job of the pool's own scheduler"),
        status=yes("by submit folder"),
        report=yes("by submit folder, id or user"),
        cancel=yes("removes the DAG and its jobs"),
        restart=yes("from the rescue DAG that DAGMan wrote"),
        retries=yes("`numberOfRetries`, not after an exit code in `retryUnlessExit`"),
        memory_growth=yes("times `memoryMultiplier`, up to `memoryLimit`"),
        memory_limit=yes("each job, as the pool enforces it"),
    ),
    {
        "accounting_group": Setting("site.htcondor.accountingGroup", _TEXT, "group that is charged"),
        "accounting_user": Setting("site.htcondor.accountingUser", _TEXT, "user in that group"),
        "commands": Setting(
            "site.htcondor.profile.condor",
            {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
            "further commands of the submit files, `requirements: ...`; `+Name` is an attribute of the job",
        ),
        "request_memory": _REQUEST_MEMORY,
        "memory_limit": _MEMORY_LIMIT,
        "retries": _RETRIES,
    },
    needs_naming=True,
)

SITES = {site.name: site for site in (LOCAL, PARSL, SLURM, HTCONDOR)}
"""All compute sites by name."""


def site_named(name: str) -> Site:
    """Return a compute site.

    Raises
    ------
    BadInputError
        There is none of that name.
    """
    try:
        return SITES[name]
    except KeyError:
        raise BadInputError(
            f"There is no compute site {name!r}", "compute site", f"name one of: {', '.join(SITES)}"
        ) from None


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of ``sites`` in ``facility.yaml``."""
    return {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {
            site.name: {
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": {key: dict(setting.schema) for key, setting in site.settings.items()},
            }
            for site in SITES.values()
        },
    }


def offered(settings: Mapping[str, Mapping[str, Any] | None]) -> dict[str, dict[str, Any]]:
    """Return the settings of each site that a facility offers, from ``sites`` in its ``facility.yaml``."""
    return {
        name: dict(settings.get(name) or {})
        for name, site in SITES.items()
        if name in settings or not site.needs_naming
    }


def bps_config(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a facility's settings of a site as bps wants them in its submit file.

    Parameters
    ----------
    name : `str`
        The site.
    settings : `~collections.abc.Mapping` [`str`, `typing.Any`]
        Its settings, as in ``facility.yaml``.
    """
    config: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, last = SITES[name].settings[key].bps.split(".")
        section = config
        for part in sections:
            section = section.setdefault(part, {})
        section[last] = copy.deepcopy(value)
    return config


def promises_table() -> str:
    """Return what each site promises, as the documentation shows it."""
    lines = [f"| | {' | '.join(f'`{name}`' for name in SITES)} |", f"|---|{'---|' * len(SITES)}"]
    for promise in fields(Promises):
        kept = ("yes" if getattr(site.promises, promise.name) else "no" for site in SITES.values())
        lines.append(f"| {promise.metadata['title']} | {' | '.join(kept)} |")
    return "\n".join(lines)


def promises_of(site: Site) -> str:
    """Return how one site keeps each promise, or what happens instead, as the documentation shows it."""
    rows = (
        f"| {promise.metadata['title']} | {'yes' if kept else 'no'} | {kept.how} |"
        for promise in fields(Promises)
        for kept in [getattr(site.promises, promise.name)]
    )
    return "\n".join(["| | | |", "|---|---|---|", *rows])


def settings_of(site: Site) -> str:
    """Return the settings of one site, as the documentation shows them."""
    rows = (f"| `{key}` | {setting.meaning} | `{setting.bps}` |" for key, setting in site.settings.items())
    return "\n".join(["| key | meaning | in bps |", "|---|---|---|", *rows])
