"""A night of raws of which everything is killed in turn, on a facility of its own: it ends complete."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler

from conftest import processes_below
from tololo.services import facility
from tololo.services.airflow_client import ENDED, AirflowClient
from tololo.services.home import Home
from tololo.services.process import Daemon
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth

pytestmark = [pytest.mark.services, pytest.mark.long]

NIGHT, DETECTORS, OBJECTS = 20190402, (28, 35), 2
TASKS = ("ingest_raw", "bias", "certify_bias", "flat", "certify_flat", "visits", "scorecard")
QUANTA = {
    "combineBias": len(DETECTORS),
    "combineFlat": len(DETECTORS),
    "calibrateVisit": OBJECTS * len(DETECTORS),
    "summarizeVisit": OBJECTS,
}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> RawTruth:
    nights = (RawNight(NIGHT, zeros=3, flats=3, objects=OBJECTS),)
    plan = RawPlan(nights=nights, detectors=DETECTORS, shape=(1024, 1024))
    return simulate_raw_nights(tmp_path_factory.mktemp("raw") / "nights", plan, seed=9)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("facility") / "var", web_port=18380, tom_port=18401)
    try:
        yield home
    finally:
        facility.down(home)


def title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def below(parent: int) -> set[int]:
    """Processes that descend from one."""
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    found, wave = set[int](), {parent}
    while wave:
        wave = {pid for pid, above in parents.items() if above in wave} - found
        found |= wave
    return found


def kill_what_works(home: Home) -> int:
    """Kill the processes of tasks, drivers, runners and jobs; return how many."""
    scheduler = Daemon(home, "airflow-scheduler").pid()
    tasks = (
        {pid for pid in below(scheduler) if title(pid).startswith("airflow worker --")}
        if scheduler
        else set()
    )
    names = ("tololo driver", "tololo runner", "tololo worker", "tololo job")
    engine = {pid for pid in processes_below(str(home.root.parent)) if title(pid).startswith(names)}
    for pid in tasks | engine:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(tasks | engine)


def test_a_night_of_which_every_task_is_killed_ends_complete(home: Home, truth: RawTruth) -> None:
    running = facility.up(home)
    client = AirflowClient(running.airflow.url, running.airflow.token)
    client.wait_for_dags(["repo_bootstrap", "nightly_decam"])
    _end(client, "repo_bootstrap", client.trigger("repo_bootstrap", {"refcats": str(truth.reference)}))
    run = client.trigger("nightly_decam", {"night": str(NIGHT), "source": "raw", "data": str(truth.folder)})
    killed: dict[str, int] = {}
    deadline = time.monotonic() + 1500
    while time.monotonic() < deadline:
        states = {task["task_id"]: task["state"] for task in client.tasks("nightly_decam", run)}
        for task in TASKS:
            # A second into the task: when its work has begun.
            if states.get(task) in ("running", "deferred") and task not in killed:
                time.sleep(1.5)
                killed[task] = kill_what_works(home)
        state = client.run("nightly_decam", run)["state"]
        if state == "failed":
            client.call(
                "POST",
                "dags/nightly_decam/clearTaskInstances",
                json={"dry_run": False, "dag_run_id": run, "only_failed": True},
            )
            time.sleep(2)
        elif state == "success":
            break
        time.sleep(0.3)
    assert state == "success", states
    assert {task for task, number in killed.items() if number} >= {"ingest_raw", "bias", "flat", "visits"}
    _check(home.repository, truth)


def _end(client: AirflowClient, dag_id: str, run: str) -> dict[str, Any]:
    while (found := client.run(dag_id, run))["state"] not in ENDED:
        time.sleep(1)
    assert found["state"] == "success"
    return found


def _check(repository: Path, truth: RawTruth) -> None:
    """Everything is there once, and what was done before a kill was not done again."""
    with Butler.from_config(str(repository)) as butler:

        def number(kind: str, where: str) -> int:
            runs = butler.collections.query(where)
            return len(butler.query_datasets(kind, runs, find_first=False, explain=False, limit=None))

        files = len(truth.exposures) + len(truth.calibrations)
        assert number("raw", "DECam/raw/all") == files * len(DETECTORS)
        assert (
            number("bias", f"{NIGHT}/calib/bias") == number("flat", f"{NIGHT}/calib/flat") == len(DETECTORS)
        )
        for label, quanta in QUANTA.items():
            assert number(f"{label}_metadata", f"{NIGHT}/*/nightly_decam/*") == quanta, label
        chained = butler.query_datasets("visit_image", f"{NIGHT}/drp", find_first=True, explain=False)
        assert len(chained) == OBJECTS * len(DETECTORS)
        assert (
            len(butler.get("night_scorecard", instrument="DECam", day_obs=NIGHT, collections=f"{NIGHT}/drp"))
            == OBJECTS
        )
