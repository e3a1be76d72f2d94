"""Tasks that write an APDB: what they left there when they died decides whether they may run again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tololo.facility.errors import TololoError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lsst.pipe.base.pipeline_graph import TaskNode

_log = logging.getLogger("tololo.apdb")

ASKS_FIRST = frozenset({"tololo.reduction.tasks.associate_apdb.AssociateApdbTask"})
"""Tasks that ask the APDB for each detector of a visit, and store it whole or not at all.

They can be killed at any point and run again.
"""

READERS = frozenset({"LoadDiaCatalogsTask", "PackageAlertsTask"})
"""Classes that have an APDB in their configuration and only read it."""

REMEDY = "ask the APDB what it holds of it (containsVisitDetector), then run with retry_failed"


def may_run_again(task: TaskNode, data_id: Mapping[str, int | str]) -> bool:
    """Tell whether a quantum that did not end well can be run again without storing anything twice.

    Parameters
    ----------
    task : `lsst.pipe.base.pipeline_graph.TaskNode`
        Its task, imported and configured.
    data_id : mapping
        Its data ID.

    Returns
    -------
    safe : `bool`
        True for a task that writes no APDB or asks it first, and where the APDB itself says that it holds
        nothing of this detector of this visit. False where it holds something or cannot be asked.
    """
    return retry_is_safe(task) or _holds_nothing(task, data_id)


def retry_is_safe(task: TaskNode) -> bool:
    """Tell whether any quantum of a task can be run again, whatever became of it.

    A compute site must not retry the jobs of other tasks by itself.
    """
    return not _apdb_config(task) or task.task_class_name in ASKS_FIRST


def _apdb_config(task: TaskNode) -> str:
    """Return the configuration field that names the APDB which a task writes; empty if it writes none."""
    if task.task_class_name.rpartition(".")[2] in READERS:
        return ""
    return next((name for name in task.config.toDict() if name.startswith("apdb")), "")


def _holds_nothing(task: TaskNode, data_id: Mapping[str, int | str]) -> bool:
    from tololo.reduction.apdb import open_apdb

    path = getattr(task.config, _apdb_config(task))
    if not isinstance(path, str) or "visit" not in data_id or "detector" not in data_id:
        return False
    try:
        return open_apdb(path).stored(int(data_id["visit"]), int(data_id["detector"])) is None
    except TololoError as error:
        _log.warning("The APDB of %s cannot be asked: %s", task.label, error)
        return False
