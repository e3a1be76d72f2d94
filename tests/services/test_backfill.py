"""Ten nights of raws by `airflow backfill create`, some of them with faults, on a facility of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler

from tololo.services import facility
from tololo.services.airflow_client import ENDED, AirflowClient
from tololo.services.home import CHECKOUT, Home
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawFault, RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth

pytestmark = [pytest.mark.services, pytest.mark.long]

FIRST, LAST, DETECTORS = 20190401, 20190410, (28, 35)
BORROWS, CLOUDED, TRUNCATED, EMPTY, INCOMPLETE, ODD_FILTER, ALONE = range(FIRST + 3, LAST + 1)
CLEAR = (FIRST, FIRST + 1, FIRST + 2)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> RawTruth:
    """Three nights without faults, and one of each kind of fault; that of EMPTY has no raws at all."""
    nights = [
        RawNight(
            night,
            zeros=3,
            flats=0 if night in (BORROWS, ALONE) else 3,
            objects=2,
            bands=("g",) if night == ALONE else ("r",),
        )
        for night in range(FIRST, LAST + 1)
        if night != EMPTY
    ]
    faults = (
        RawFault("clouded", CLOUDED, 1),
        RawFault("truncated", TRUNCATED, 0),
        RawFault("missing_detector", INCOMPLETE, 0),
        RawFault("unknown_filter", ODD_FILTER, 1),
    )
    plan = RawPlan(nights=tuple(nights), detectors=DETECTORS, shape=(1024, 1024), faults=faults)
    return simulate_raw_nights(tmp_path_factory.mktemp("raw") / "nights", plan, seed=5)


@dataclass(frozen=True)
class Season:
    """What the backfill left behind."""

    client: AirflowClient
    repository: Path
    runs: dict[int, dict[str, Any]]

    def states(self, night: int) -> dict[str, str]:
        tasks = self.client.tasks("nightly_decam", self.runs[night]["dag_run_id"])
        return {task["task_id"]: task["state"] for task in tasks}

    def result(self, night: int, task: str) -> Any:
        return self.client.result("nightly_decam", self.runs[night]["dag_run_id"], task)

    def events(self, asset: str) -> list[dict[str, Any]]:
        found = self.client.call("GET", "assets/events?limit=100")["asset_events"]
        return [event for event in found if event["name"] == asset]

    def images(self, night: int) -> int:
        with Butler.from_config(str(self.repository)) as butler:
            there = butler.collections.query(f"{night}/drp/nightly_decam/*")
            if not there:
                return 0
            return len(butler.query_datasets("visit_image", there, find_first=False, explain=False))


@pytest.fixture(scope="module")
def season(truth: RawTruth, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Season]:
    home = Home(tmp_path_factory.mktemp("facility") / "var", web_port=18280, tom_port=18301)
    try:
        running = facility.up(home)
        client = AirflowClient(running.airflow.url, running.airflow.token)
        client.wait_for_dags(["repo_bootstrap", "nightly_decam"])
        run = client.trigger("repo_bootstrap", {"refcats": str(truth.reference)})
        assert _wait(client, "repo_bootstrap", {run}) == {run: "success"}
        _backfill(home, truth)
        yield Season(client, home.repository, _nights(client))
    finally:
        facility.down(home)


def _backfill(home: Home, truth: RawTruth) -> None:
    conf = {"source": "raw", "data": str(truth.folder), "max_calib_age": 4}
    command = ["bin/airflow", "backfill", "create", "--dag-id", "nightly_decam", "--max-active-runs", "3"]
    command += ["--from-date", "2019-04-01", "--to-date", "2019-04-10", "--dag-run-conf", json.dumps(conf)]
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env={**os.environ, "TOLOLO_HOME": str(home.root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _wait(client: AirflowClient, dag_id: str, wanted: set[str]) -> dict[str, str]:
    while True:
        states = {run: client.run(dag_id, run)["state"] for run in wanted}
        if all(state in ENDED for state in states.values()):
            return states
        time.sleep(2)


def _nights(client: AirflowClient) -> dict[int, dict[str, Any]]:
    """Wait for the runs of the backfill; return them by night."""
    deadline = time.monotonic() + 3000
    while time.monotonic() < deadline:
        found = client.call("GET", "dags/nightly_decam/dagRuns?limit=100")["dag_runs"]
        # The DAG is on, so the schedule adds the night that ended last.
        runs = [run for run in found if run["run_type"] == "backfill"]
        if len(runs) >= LAST - FIRST + 1 and all(run["state"] in ENDED for run in runs):
            assert len(runs) == LAST - FIRST + 1
            return {int(run["partition_key"]): run for run in runs}
        time.sleep(3)
    raise AssertionError(f"not ended: {[(run['partition_key'], run['state']) for run in runs]}")


def test_each_night_ran_once_and_several_at_a_time(season: Season) -> None:
    assert sorted(season.runs) == list(range(FIRST, LAST + 1))
    spans = [(run["start_date"], run["end_date"]) for run in season.runs.values()]
    assert any(a != b and a[0] < b[0] < a[1] for a in spans for b in spans)


def test_each_night_ended_in_the_state_that_it_deserves(season: Season) -> None:
    failed = {night for night, run in season.runs.items() if run["state"] == "failed"}
    assert failed == {ALONE}
    assert set(season.states(EMPTY).values()) == {"skipped"}
    published = {event["extra"]["night"]: event for event in season.events("visits")}
    assert set(published) == {str(night) for night in season.runs if night not in (EMPTY, ALONE)}
    assert all(event["partition_key"] == night for night, event in published.items())
    assert published[str(FIRST)]["extra"]["chain"] == f"{FIRST}/drp"


def test_nothing_is_doubled_and_nothing_missing(season: Season) -> None:
    images = {night: season.images(night) for night in season.runs}
    whole = 2 * len(DETECTORS)
    assert images == dict.fromkeys(season.runs, whole) | {
        EMPTY: 0,
        ALONE: 0,
        TRUNCATED: whole - len(DETECTORS),
        ODD_FILTER: whole - len(DETECTORS),
        INCOMPLETE: whole - 1,
    }


def test_the_clear_nights_are_accepted_and_the_clouded_exposure_is_not(
    season: Season, truth: RawTruth
) -> None:
    for night in CLEAR:
        score = season.result(night, "scorecard")
        assert (score["visits"], score["accepted"]) == (2, 2), score
    score = season.result(CLOUDED, "scorecard")
    exposures = truth.exposures
    (clouded,) = exposures["visit"][exposures["fault"] == "clouded"]
    assert [*score["flagged"], *score["rejected"]] == [clouded]


def test_what_could_not_be_taken_is_said(season: Season) -> None:
    for night in (TRUNCATED, ODD_FILTER):
        assert len(season.result(night, "ingest_raw")["skipped"]) == 1
        assert len(season.result(night, "ingest_raw")["new"]) == 7


def test_a_night_without_flats_borrowed_and_one_that_could_not_says_what_is_missing(season: Season) -> None:
    (use,) = season.result(BORROWS, "certify_flat")["uses"]
    assert 1 <= abs(use["age"]) <= 4
    assert sorted(use["detectors"]) == list(DETECTORS)
    states = season.states(ALONE)
    assert (states["certify_flat"], states["visits"], states["unlock"]) == (
        "failed",
        "upstream_failed",
        "success",
    )
    said = season.client.last_lines("nightly_decam", season.runs[ALONE]["dag_run_id"], "certify_flat", 1)
    assert "flat for filter g" in said
