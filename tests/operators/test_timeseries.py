from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from hooks.datasets import manager
from operators.airflow_context import TaskInstance, context
from tololo.facility.locks import LOCK_FILE
from tololo.operators.timeseries import ReduceDatasetOperator, ReportDatasetsOperator, SelectDatasetsOperator

ASKED = {"manager": None, "datasets": [], "lock_policy": "if_stale", "again": False}


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AIRFLOW_CONN_AIRFLOW_API", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("A/sinistro/ip", "B/qhy/gp", "C/sinistro/ip"):
        (tmp_path / "root" / name).mkdir(parents=True)
    (tmp_path / "root/B/qhy/gp" / LOCK_FILE).write_text("2024-05-01T00:00:00")
    return tmp_path / "root"


def select(filled: dict[str, Any]) -> Any:
    return SelectDatasetsOperator(task_id="select").execute(filled)


def test_the_managers_selection(root: Path) -> None:
    asked = context(**ASKED | {"manager": str(manager(root))})
    assert select(asked) == [str(root / "A/sinistro/ip"), str(root / "C/sinistro/ip")]
    progress = asked["task_state_store"]["progress"]
    assert progress == f"2 datasets to be reduced, 1 locked by others: {root}/B/qhy/gp"


def test_folders_instead_of_a_selection(root: Path) -> None:
    assert select(context(**ASKED | {"datasets": [f"{root}/C/sinistro/ip"]})) == [f"{root}/C/sinistro/ip"]
    both = ASKED | {"manager": str(manager(root)), "datasets": ["A/sinistro/ip"]}
    assert select(context(**both)) == [f"{root}/A/sinistro/ip"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "No configuration of the datasets' manager is named"),
        ({"manager": "/nowhere.yaml"}, "/nowhere.yaml"),
        ({"datasets": ["A/sinistro/ip"]}, "from / on"),
    ],
)
def test_what_is_missing_is_said(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(AirflowFailException, match=says):
        select(context(**ASKED | asked))


def test_where_all_are_locked_the_holders_are_named(root: Path) -> None:
    asked = ASKED | {"manager": str(manager(root)), "datasets": ["B/qhy/gp"]}
    with pytest.raises(AirflowSkipException, match=r"B/qhy/gp is held by another tool"):
        select(context(**asked))


def test_a_dry_run_chooses_and_touches_nothing(root: Path) -> None:
    path = manager(root)
    before = sorted(root.rglob("*"))
    with pytest.raises(AirflowSkipException, match="Dry run: 2 datasets"):
        select(context(**ASKED | {"manager": str(path), "dry_run": True}))
    assert sorted(root.rglob("*")) == before


def test_a_locked_dataset_is_skipped(root: Path) -> None:
    task = ReduceDatasetOperator(task_id="reduce", folder=str(root / "B/qhy/gp"))
    with pytest.raises(AirflowSkipException, match="held by another tool"):
        task.execute(context(**ASKED))
    assert [path.name for path in (root / "B/qhy/gp").iterdir()] == [LOCK_FILE]


@dataclass
class Reporter(TaskInstance):
    """A task that can ask for the states of others."""

    states: dict[str, str] = field(default_factory=dict)

    def get_task_states(self, dag_id: str, *, task_ids: list[str], run_ids: list[str]) -> dict[str, Any]:
        return {
            run_ids[0]: {
                name: state for name, state in self.states.items() if name.startswith(tuple(task_ids))
            }
        }


def report(states: dict[str, str], *made: str) -> Any:
    reduced: Any = [{"folder": name, "frames": 12, "measured": 5, "set_aside": {"x": "y"}} for name in made]
    reduced = reduced[0] if len(reduced) == 1 else reduced  # as Airflow does
    filled = context(**ASKED)
    filled["ti"] = Reporter(states=states, xcoms={"select": ["/a", "/b"], "reduce": reduced})
    counted = ["select", "reduce", "publish_datasets"]
    return ReportDatasetsOperator(task_id="report", tasks=counted).execute(filled)


def test_the_report_counts() -> None:
    states = {"reduce_0": "success", "reduce_1": "success", "publish_datasets_0": "skipped"}
    assert report(states, "/a", "/b") == {"datasets": 2, "frames": 24, "measured": 10, "set_aside": 2}
    assert report(states, "/a") == {"datasets": 1, "frames": 12, "measured": 5, "set_aside": 1}


def test_the_report_fails_for_all_that_failed() -> None:
    states = {
        "reduce_0": "success",
        "reduce_1": "failed",
        "publish_datasets_0": "failed",
        "select": "success",
    }
    with pytest.raises(
        AirflowFailException, match=r"reduce \(1\), publish_datasets \(1\).*no light curve: /b"
    ):
        report(states, "/a")
    with pytest.raises(AirflowSkipException, match="No dataset was reduced"):
        report({"reduce": "skipped"})
