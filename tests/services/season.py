"""Ten nights of a field in which things change, and a facility of its own that works on them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.table import Table

from tololo.services.airflow_client import ENDED, AirflowClient
from tololo.services.home import CHECKOUT, Home
from tololo.simulation.plan import Plan, PlannedExposure, PlannedSource
from tololo.simulation.truth import Truth, nanojansky

TEMPLATE = (20190401, 20190402)
NIGHTS = tuple(range(20190403, 20190413))
DETECTOR = 28
SUBSET, APDB = "2019", "2019_meanclip"

_RISE_AND_FALL = (None, 21.8, 20.9, 20.4, 20.2, 20.2, 20.4, 20.7, 21.1, 21.5)
_STAR = (1.0, 1.2, 1.35, 1.25, 1.0, 0.8, 0.65, 0.75, 0.9, 1.15)
STEADY = float(nanojansky(19.2))
"""Flux of the variable star in the nights of the template, nJy."""

SUPERNOVA = PlannedSource(
    "supernova",
    DETECTOR,
    640.0,
    420.0,
    tuple(
        (night, float(nanojansky(magnitude)))
        for night, magnitude in zip(NIGHTS, _RISE_AND_FALL, strict=True)
        if magnitude
    ),
)
VARIABLE = PlannedSource(
    "variable star",
    DETECTOR,
    300.0,
    700.0,
    (
        *((night, STEADY) for night in TEMPLATE),
        *((night, STEADY * factor) for night, factor in zip(NIGHTS, _STAR, strict=True)),
    ),
)
ASTEROID = PlannedSource(
    "asteroid",
    DETECTOR,
    60.0,
    95.0,
    tuple((night, float(nanojansky(20.3))) for night in NIGHTS),
    motion=(21.0, -21.0),
)


def season_plan(transients: int = 6) -> Plan:
    """Two exposures in each night of the template, one in the others, of a square of 1024 pixels."""
    return Plan(
        exposures=(
            *(PlannedExposure(night) for night in TEMPLATE for _ in range(2)),
            *(PlannedExposure(night, science=True) for night in NIGHTS),
        ),
        detectors=(DETECTOR,),
        shape=(1024, 1024),
        galaxies=60,
        transients=transients,
        sources=(SUPERNOVA, VARIABLE, ASTEROID),
    )


def change(source: PlannedSource, row: Table.Row, truth: Truth) -> float:
    """Return by how much a source has changed since the template, nJy, in a visit of the truth."""
    nights = dict(zip(truth.exposures["visit"].tolist(), truth.exposures["night"].tolist(), strict=True))
    flux = dict(source.flux)
    return float(flux.get(nights[row["visit"]], 0.0) - flux.get(TEMPLATE[0], 0.0))


@dataclass(frozen=True)
class Season:
    """A facility that has worked on the nights."""

    client: AirflowClient
    home: Home

    def backfill(self, dag_id: str, first: int, last: int, at_once: int = 3, **conf: Any) -> None:
        """Let `airflow backfill create` run a range of nights, several at a time, and wait for its runs."""
        before = {run["dag_run_id"] for run in self.runs(dag_id)}
        dates = [f"{night // 10000}-{night // 100 % 100:02d}-{night % 100:02d}" for night in (first, last)]
        command = ["bin/airflow", "backfill", "create", "--dag-id", dag_id, "--from-date", dates[0]]
        command += ["--to-date", dates[1], "--max-active-runs", str(at_once)]
        command += ["--reprocess-behavior", "completed", "--dag-run-conf", json.dumps(conf)]
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env={**os.environ, "TOLOLO_HOME": str(self.home.root)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self.wait_for(dag_id, range(first, last + 1), other_than=before)
        # The scheduler closes it some time after its last run, and takes no other one of the DAG before.
        while not all(one["completed_at"] for one in self._backfills(dag_id)):
            time.sleep(2)

    def _backfills(self, dag_id: str) -> list[dict[str, Any]]:
        return list(self.client.call("GET", f"backfills?dag_id={dag_id}")["backfills"])

    def run(self, dag_id: str, **params: Any) -> str:
        """Run a DAG by hand, wait for it, and return the run's id."""
        run_id = self.client.trigger(dag_id, params)
        while (state := self.client.run(dag_id, run_id)["state"]) not in ENDED:
            time.sleep(1)
        assert state == "success", (dag_id, params, self.states(dag_id, run_id))
        return run_id

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the runs of a DAG that are for a night of ours."""
        found = self.client.call("GET", f"dags/{dag_id}/dagRuns?limit=100")["dag_runs"]
        return [run for run in found if night_of(run) in (*TEMPLATE, *NIGHTS)]

    def wait_for(self, dag_id: str, nights: Iterable[int], other_than: Iterable[str] = ()) -> None:
        """Wait until each of some nights has a run besides those named, and all runs have ended."""
        wanted, known, deadline = set(nights), set(other_than), time.monotonic() + 3600
        while True:
            runs = self.runs(dag_id)
            made = {night_of(run) for run in runs if run["dag_run_id"] not in known}
            if wanted <= made and all(run["state"] in ENDED for run in runs):
                return
            assert time.monotonic() < deadline, [(night_of(run), run["state"]) for run in runs]
            time.sleep(2)

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return the states of the tasks of a run."""
        return {task["task_id"]: task["state"] for task in self.client.tasks(dag_id, run_id)}

    def config(self) -> Path:
        """Return the configuration of the APDB."""
        return self.home.apdb / f"{APDB}.yaml"


def night_of(run: dict[str, Any]) -> int:
    """Return the night of a run, whatever started it."""
    return int(run["partition_key"] or (run["conf"] or {}).get("night") or 0)
