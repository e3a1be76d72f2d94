"""A run whose task waits in the triggerer of a real Airflow: it outlives the triggerer, not the task."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tololo.engine.attempt import Attempt
from tololo.engine.client import stop_server
from tololo.hooks.bps import BpsHook
from tololo.services import airflow, postgres
from tololo.services.airflow_client import AirflowClient
from tololo.services.home import Home
from tololo.services.process import Daemon
from tololo.simulation.drill import INPUTS, PARENT, PIPELINE, make_drill_repository, wrong_numbers
from tololo.simulation.drill_faults import write_faults

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
DAG, TASK = "run_pipeline", "run"


@dataclass
class Running:
    """An Airflow of its own, with a repository of numbers."""

    home: Home
    client: AirflowClient
    repository: Path
    faults: Path
    restart: Callable[[], object]

    def trigger(self, output: str) -> str:
        labels = ("drillOne", "drillTwo", "drillGather")
        params = {
            "pipeline": f"{PIPELINE}#all",
            "inputs": INPUTS,
            "output": output,
            "night": "20190401",
            "site": "local",
            "config": {f"{label}:faults": str(self.faults) for label in labels},
        }
        return self.client.trigger(DAG, params)

    def task(self, run_id: str) -> dict[str, Any]:
        return self.client.tasks(DAG, run_id)[0]

    def log(self, run_id: str) -> str:
        path = f"dags/{DAG}/dagRuns/{run_id}/taskInstances/{TASK}/logs/1?full_content=true"
        return str(self.client.call("GET", path)["content"])

    def attempt(self, run_id: str) -> Attempt:
        return Attempt(BpsHook.for_task(DAG, run_id, TASK).folder / "1")

    def starts(self, run_id: str) -> int:
        """How many triggerers have taken up the task's trigger."""
        folder = self.home.root / "airflow" / "logs" / f"dag_id={DAG}" / f"run_id={run_id}"
        return sum(" starting" in path.read_text() for path in folder.rglob("*.trigger.*.log"))

    def clear(self, run_id: str) -> None:
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": [TASK], "only_failed": False}
        self.client.call("POST", f"dags/{DAG}/clearTaskInstances", json=body)


def wait(until: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if found := until():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited in vain until {what}")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("triggerer")
    home = Home(root / "var", web_port=18280)
    repository, faults = root / "repository", root / "faults.json"
    make_drill_repository(repository, detectors=2)
    connections = {"butler_default": {"conn_type": "butler", "host": str(repository)}}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TOLOLO_HOME", str(home.root))
        for name in ("TOLOLO_POSTGRES_URL", "LSST_DB_AUTH"):
            monkeypatch.delenv(name, raising=False)
        try:
            server = postgres.start(home)
            info = airflow.start(home, server, connections)
            client = AirflowClient(info.url, info.token)
            client.wait_for_dags([DAG])
            yield Running(home, client, repository, faults, lambda: airflow.start(home, server, connections))
        finally:
            airflow.stop(home)
            stop_server()
            postgres.stop(home)


@pytest.mark.long
def test_a_run_outlives_the_triggerer_and_ends_with_its_task(running: Running) -> None:
    write_faults(running.faults, sleep={"*": 600})
    run_id = running.trigger(PARENT)
    wait(lambda: running.starts(run_id) == 1, "the task waits in the triggerer")
    attempt = running.attempt(run_id)
    path = f"dags/{DAG}/dagRuns/{run_id}/taskInstances/{TASK}"
    assert running.client.call("GET", f"{path}/state-store/attempt")["value"] == str(attempt.folder)
    progress = "submitted: drillOne 0 of 2; drillTwo 0 of 2; drillGather 0 of 1"
    assert progress in running.client.progress(DAG, run_id, TASK)
    wait(lambda: running.log(run_id).count(progress) > 1, "the trigger logs the progress too")

    assert Daemon(running.home, "airflow-triggerer").stop()
    running.restart()
    wait(lambda: running.starts(run_id) == 2, "the new triggerer goes on with the trigger")
    assert attempt.is_alive()
    assert not attempt.is_cancelled

    running.client.call("PATCH", path, json={"new_state": "failed"})
    wait(lambda: not attempt.is_alive(), "the run is cancelled")
    assert attempt.is_cancelled

    write_faults(running.faults)
    running.clear(run_id)
    wait(lambda: running.task(run_id)["state"] == "success", "the cleared task has run")
    assert running.client.result(DAG, run_id, TASK)["done"] == 5
    assert wrong_numbers(running.repository) == []


def test_a_task_that_is_failed_in_its_worker_takes_its_run_along(running: Running) -> None:
    write_faults(running.faults, sleep={"*": 600})
    run_id = running.trigger(f"{PARENT}_stopped")
    attempt = running.attempt(run_id)
    wait(attempt.is_alive, "the run has started")
    assert running.task(run_id)["state"] == "running"
    path = f"dags/{DAG}/dagRuns/{run_id}/taskInstances/{TASK}"
    running.client.call("PATCH", path, json={"new_state": "failed"})
    wait(lambda: not attempt.is_alive(), "the run is cancelled")
    assert attempt.is_cancelled
    assert running.task(run_id)["state"] == "failed"


@pytest.mark.long
def test_a_killed_triggerer_does_not_take_the_run_along(running: Running) -> None:
    write_faults(running.faults, sleep={"*": 600})
    run_id = running.trigger(f"{PARENT}_again")
    wait(lambda: running.starts(run_id) == 1, "the task waits in the triggerer")
    attempt = running.attempt(run_id)
    Daemon(running.home, "airflow-triggerer").stop(signal.SIGKILL)
    running.restart()
    wait(lambda: running.starts(run_id) == 2, "the new triggerer goes on with the trigger")
    assert attempt.is_alive()
    assert not attempt.is_cancelled
    # The trigger hears of it, and the next try comes, in either order; the run that hangs is left.
    write_faults(running.faults)
    running.clear(run_id)
    wait(lambda: running.task(run_id)["state"] == "success", "the cleared task has run")
    assert running.client.result(DAG, run_id, TASK)["done"] == 5
    assert wrong_numbers(running.repository, collections=f"{PARENT}_again") == []
