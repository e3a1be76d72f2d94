"""The operators that reduce datasets of frames: choose them, reduce one, say what became of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.facility.configuration import facility
from tololo.facility.errors import BadInputError, NothingToDoError, TololoError
from tololo.facility.locks import checked_policy
from tololo.operators.task import FacilityOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.facility.dataset_manager import ManagerConfig
    from tololo.hooks.timeseries import DatasetReduction, Selection

POOL = "datasets"
"""The Airflow pool of reductions: what all runs together do at once."""

_FOLDER = "(task.folder if task.folder is defined else task.dataset['folder'])"
NAME = f"{{{{ '/'.join({_FOLDER}.split('/')[-3:]) }}}}"
"""Template of the name that the task of a dataset has in the web UI."""


class SelectDatasetsOperator(FacilityOperator):
    """Choose the datasets of a run, and give the pool of reductions as many slots as ``max_parallel`` says.

    Reads the params ``manager`` (that of facility.yaml where empty), ``datasets`` (folders,
    instead of the manager's selection), ``lock_policy`` and ``dry_run``. Datasets that others hold are
    named and left out. Returns the folders; skipped where there are none.
    """

    def work(self, context: Context) -> list[str]:
        """Choose."""
        params = context["params"]
        config = read_manager(params)
        found = _selection(config, context)
        self.log.info("%s", found)
        for path, why in {**found.locked, **found.undated}.items():
            self.log.warning("%s: %s", path, why)
        for folder in found.chosen:
            self.log.info("%s", folder)
        context["task_state_store"].set("progress", _named(str(found), [str(path) for path in found.locked]))
        if params["dry_run"]:
            raise NothingToDoError(f"Dry run: {found}")
        if not found.chosen:
            locked = "; ".join(f"{folder} is {line}" for folder, line in found.locked.items())
            raise NothingToDoError(f"No dataset is to be reduced: {found}", locked, "see dataset_selection")
        if config:
            self._set_pool(config.max_parallel)
        return [str(folder) for folder in found.chosen]

    def _set_pool(self, slots: int) -> None:
        from tololo.hooks.pools import PoolHook

        if PoolHook().set_slots(POOL, slots, "Datasets of frames that are reduced at once"):
            self.log.info("At most %d datasets are reduced at once (pool %s)", slots, POOL)
        else:
            self.log.warning(
                "There is no connection airflow_api: the pool %s keeps its slots, max_parallel is %d",
                POOL,
                slots,
            )


class ReduceDatasetOperator(FacilityOperator):
    """Reduce one dataset, in a process of its own, under its lock; map it over what select returned.

    Reads the params ``again`` and ``lock_policy``. A dataset that another holds by now, or that has no
    frames, is skipped with the reason. Returns ``folder``, ``target``, ``filter``, ``light_curve``,
    ``frames``, ``measured`` (those that are new), ``set_aside`` (reasons by frame) and ``upload``.

    :param folder: the dataset (templated).
    """

    template_fields: Sequence[str] = (*FacilityOperator.template_fields, "folder")

    def __init__(self, *, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder
        self._reduction: DatasetReduction | None = None

    def work(self, context: Context) -> dict[str, Any]:
        """Reduce it."""
        from tololo.hooks.locks import LockHook, owner_of
        from tololo.hooks.timeseries import TTL, DatasetReduction

        params = context["params"]
        self._reduction = DatasetReduction(
            Path(self.folder),
            LockHook(owner_of(context), ttl=TTL),
            checked_policy(params["lock_policy"]),
            again=params["again"],
            reference_catalog=facility().dataset_catalog,
        )
        made = self._reduction.run(lambda line: self.log.info("%s", line))
        for name, reason in made["set_aside"].items():
            self.log.warning("%s is set aside: %s", name, reason)
        context["task_state_store"].set(
            "progress", f"{made['frames']} frames, {made['measured']} new, {len(made['set_aside'])} set aside"
        )
        return made

    def on_kill(self) -> None:
        """End the process that reduces."""
        if self._reduction is not None:
            self._reduction.kill()


class ReportDatasetsOperator(FacilityOperator):
    """Say what became of the datasets of a run: fail if one failed, which let the others go on.

    :param select: task that chose them.
    :param tasks: tasks whose failures count, also those that are mapped.

    Returns ``datasets``, ``frames``, ``measured``, ``set_aside`` (counts).
    """

    def __init__(
        self, *, tasks: Sequence[str], select: str = "select", reduce: str = "reduce", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.tasks = tasks
        self.select = select
        self.reduce = reduce

    def work(self, context: Context) -> dict[str, int]:
        """Count, and name what failed."""
        ti = context["ti"]
        folders = ti.xcom_pull(task_ids=self.select) or []
        pulled = ti.xcom_pull(task_ids=self.reduce)
        # Of one mapped instance Airflow gives what it returned, of several a list.
        made = [pulled] if isinstance(pulled, dict) else [item for item in pulled or [] if item]
        states = ti.get_task_states(ti.dag_id, task_ids=list(self.tasks), run_ids=[ti.run_id])
        failed = {name: _failed(states.get(ti.run_id, {}), name) for name in self.tasks}
        counts = {
            "datasets": len(made),
            "frames": sum(item["frames"] for item in made),
            "measured": sum(item["measured"] for item in made),
            "set_aside": sum(len(item["set_aside"]) for item in made),
        }
        self.log.info("Of %d datasets: %s", len(folders), counts)
        if told := [f"{name} ({count})" for name, count in failed.items() if count]:
            missing = [folder for folder in folders if folder not in {item["folder"] for item in made}]
            raise TololoError(
                f"Failed: {', '.join(told)}",
                _named("no light curve", missing),
                "see the logs of these tasks",
            )
        if not made:
            raise NothingToDoError("No dataset was reduced", f"task {self.reduce}", "its log says why")
        return counts


def read_manager(params: Mapping[str, Any]) -> ManagerConfig | None:
    """Return the manager's configuration of a run; `None` if it names none, but folders.

    Raises
    ------
    BadInputError
        It is wrong, or the run names neither.
    """
    from tololo.facility.dataset_manager import read_manager_config

    path = params.get("manager") or facility().dataset_manager
    if path:
        return read_manager_config(Path(path).expanduser())
    if params.get("datasets"):
        return None
    raise BadInputError(
        "No configuration of the datasets' manager is named",
        "param manager",
        "name the file there, or as datasets.manager in facility.yaml; or name folders in the param datasets",
    )


def _selection(config: ManagerConfig | None, context: Context) -> Selection:
    from tololo.hooks.locks import LockHook, owner_of
    from tololo.hooks.timeseries import named_datasets, select_datasets

    params = context["params"]
    hook, policy = LockHook(owner_of(context)), checked_policy(params["lock_policy"])
    if names := params.get("datasets"):
        return named_datasets(names, config.root if config else None, hook, policy)
    assert config is not None
    return select_datasets(config, hook, policy, datetime.now(UTC))


def _failed(states: Mapping[str, str | None], task: str) -> int:
    """Count the failures among the mapped instances of a task."""
    mine: Iterable[str] = (
        name for name in states if name == task or name.removeprefix(f"{task}_").isdecimal()
    )
    return sum(str(states[name]) == "failed" for name in mine)


def _named(line: str, names: Sequence[str], most: int = 5) -> str:
    """Return a line with the first few of some names."""
    if not names:
        return line
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{line}: {', '.join(names[:most])}{rest}"
