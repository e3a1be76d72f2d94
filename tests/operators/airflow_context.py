"""As much of a task's context as the operators read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest


class StateStore(dict[str, Any]):
    def set(self, key: str, value: Any) -> None:
        self[key] = value


@dataclass
class DagRun:
    partition_key: str | None = None
    run_after: datetime = datetime(2019, 4, 3, 12, tzinfo=UTC)


@dataclass
class TaskInstance:
    dag_id: str = "dag"
    run_id: str = "manual__1"
    task_id: str = "task"
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 0
    start_date: datetime = field(default_factory=lambda: datetime.now(UTC))
    stats_tags: dict[str, str] = field(default_factory=dict)
    xcoms: dict[str, Any] = field(default_factory=dict)
    pushed: dict[str, Any] = field(default_factory=dict)

    def xcom_pull(self, task_ids: str, **_: Any) -> Any:
        return self.xcoms.get(task_ids)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


COMMON = {
    "repo": "butler_test",
    "night": None,
    "detectors": None,
    "where": "",
    "site": "parsl",
    "dry_run": False,
    "thresholds": 1.0,
}
TEMPLATE = {"coadd_subset": "2019", "template_type": "meanclip", "acceptance": "auto"}


def context(*, key: str | None = None, xcoms: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    """Return the context of a task with these params over the common ones."""
    params = COMMON | params
    return {
        "ti": TaskInstance(xcoms=xcoms or {}),
        "dag_run": DagRun(key),
        "params": params,
        "task_state_store": StateStore(),
    }


def connect(monkeypatch: pytest.MonkeyPatch, repository: Path, home: Path) -> None:
    """Let the connections `butler_test` and `apdb_default` lead into a test's folders."""
    butler = {"conn_type": "butler", "host": str(repository)}
    apdb = {"conn_type": "apdb", "extra": {"backend": "sqlite", "config_folder": str(home / "apdb")}}
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_TEST", json.dumps(butler))
    monkeypatch.setenv("AIRFLOW_CONN_APDB_DEFAULT", json.dumps(apdb))
    monkeypatch.setenv("TOLOLO_HOME", str(home))
