"""The DAG nightly_decam by `dag.test`, from raws, with the real engine: a night, and one without flats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from lsst.daf.butler import Butler

from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth

FILE = Path(__file__).parents[2] / "dags" / "nightly_decam.py"
NIGHT, WITHOUT_FLATS, DRY, BEYOND, DETECTOR = 20190402, 20190404, 20190406, 20190420, 28
RAW_TASKS = ("bias", "certify_bias", "flat", "certify_flat", "visits")
AROUND = ("files", "lock", "unlock", "ingest_raw", "scorecard", "night")
NOT_USED = ("ingest", "calibrate", "injection", "inject")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> RawTruth:
    nights = (
        RawNight(NIGHT, zeros=4, flats=4, objects=1),
        RawNight(WITHOUT_FLATS, zeros=4, flats=0, objects=1),
        RawNight(DRY, zeros=4, flats=0, objects=1),
        RawNight(BEYOND, zeros=4, flats=0, objects=1),
    )
    plan = RawPlan(nights=nights, detectors=(DETECTOR,), shape=(1024, 1024))
    return simulate_raw_nights(tmp_path_factory.mktemp("raw") / "nights", plan, seed=3)


@pytest.fixture(scope="module")
def repository(truth: RawTruth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import yaml

    from tololo.facility.configuration import INCLUDE
    from tololo.hooks.bootstrap import BootstrapPlan, bootstrap, footprint_of

    plan = BootstrapPlan(
        repository=str(tmp_path_factory.mktemp("nightly") / "repository"),
        skymaps=yaml.safe_load((INCLUDE / "configs" / "skymaps.yaml").read_text()),
        footprint=footprint_of(str(truth.reference)),
        refcats={"gaia_dr2": str(truth.reference)},
    )
    bootstrap(plan)
    return Path(plan.repository)


@pytest.fixture(scope="module", autouse=True)
def _airflow(repository: Path) -> Iterator[None]:
    """A database for Airflow, which knows the folder of DAGs and the repository."""
    from airflow.utils.db import initdb

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(FILE.parent))
        monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        butler = {"conn_type": "butler", "host": str(repository)}
        monkeypatch.setenv("AIRFLOW_CONN_BUTLER_DEFAULT", json.dumps(butler))
        initdb()
        yield


class Run:
    """A run of the DAG for a night from raws."""

    def __init__(self, truth: RawTruth, night: int, **params: Any) -> None:
        dag = DagBag(str(FILE), collect_dags=True).dags["nightly_decam"]
        given = {"source": "raw", "data": str(truth.folder), "night": str(night), "site": "local"}
        instances = dag.test(run_conf=given | params).get_task_instances()
        self.states = {instance.task_id: str(instance.state) for instance in instances}
        self.state = str(instances[0].dag_run.state)
        self._any = instances[0]

    def returned(self, task: str) -> Any:
        return self._any.xcom_pull(task_ids=task)


@pytest.fixture(scope="module")
def night(truth: RawTruth) -> Run:
    return Run(truth, NIGHT)


def test_a_night_of_raws_becomes_calibrated_visits(night: Run, truth: RawTruth, repository: Path) -> None:
    assert night.states == dict.fromkeys(NOT_USED, "skipped") | dict.fromkeys(RAW_TASKS + AROUND, "success")
    assert night.state == "success"
    counts = {task: night.returned(task) for task in ("bias", "flat", "visits")}
    assert {task: (found["done"], found["expected"]) for task, found in counts.items()} == {
        "bias": (1, 1),
        "flat": (3, 3),
        "visits": (2, 2),
    }
    visit = int(truth.exposures["visit"][truth.exposures["night"] == NIGHT][0])
    with Butler.from_config(str(repository), collections=f"{NIGHT}/drp") as butler:
        image = butler.get("visit_image", instrument="DECam", visit=visit, detector=DETECTOR)
        (row,) = butler.get("detector_summary", instrument="DECam", visit=visit, detector=DETECTOR)
    assert image.image.array.shape == (1024, 1024)
    assert row["astrometric_rms_bright"] < 0.05
    assert row["zero_point_scatter"] < 0.02


def test_again_adds_nothing(night: Run, truth: RawTruth, repository: Path) -> None:
    again = Run(truth, NIGHT)
    assert again.returned("ingest_raw")["new"] == []
    for task in ("bias", "flat", "visits"):
        counts = ("done", "expected", "failed_permanent")
        first, second = night.returned(task), again.returned(task)
        assert [first[count] for count in counts] == [second[count] for count in counts]
        assert again.states[task] == "success"
    certified = again.returned("certify_flat")
    assert (certified["certified"], certified["known"], certified["removed"]) == (0, 1, 0)
    with Butler.from_config(str(repository)) as butler:
        for kind in ("bias", "flat", "visit_image"):
            assert len(butler.query_datasets(kind, f"{NIGHT}/*", find_first=False)) == 1


def test_a_night_without_flats_borrows_and_says_from_when(night: Run, truth: RawTruth) -> None:
    assert night.states["certify_flat"] == "success"
    later = Run(truth, WITHOUT_FLATS)
    skipped = (*NOT_USED, "flat")
    assert later.states == dict.fromkeys(RAW_TASKS + AROUND, "success") | dict.fromkeys(skipped, "skipped")
    (use,) = later.returned("certify_flat")["uses"]
    assert (use["night"], use["age"], use["detectors"]) == (NIGHT, -2, [DETECTOR])
    assert "none of its own" in use["reason"]


def test_beyond_the_age_it_stops(truth: RawTruth) -> None:
    run = Run(truth, BEYOND)
    assert (run.states["certify_flat"], run.states["visits"]) == ("failed", "upstream_failed")
    # It is scored nevertheless, the lock is released, and the run as a whole has failed.
    assert (run.states["scorecard"], run.states["unlock"], run.state) == ("success", "success", "failed")
    assert run.returned("scorecard")["rejected"] == run.returned("ingest_raw")["new"][-1:]


def test_what_is_not_asked_for_is_skipped(truth: RawTruth) -> None:
    run = Run(truth, NIGHT, proc_types=["bias"])
    assert run.states["bias"] == run.states["certify_bias"] == "success"
    assert {run.states[task] for task in ("calibrate", "flat", "certify_flat", "visits")} == {"skipped"}


def test_a_step_that_is_not_asked_for_is_skipped(night: Run, truth: RawTruth) -> None:
    assert night.state == "success"
    run = Run(truth, NIGHT, steps=["bias"])
    assert run.states["bias"] == "success"
    assert {run.states[task] for task in ("flat", "certify_flat", "visits")} == {"skipped"}


@pytest.mark.long
def test_filters_leave_out_what_is_of_others(night: Run, truth: RawTruth) -> None:
    assert night.state == "success"
    run = Run(truth, NIGHT, filters=["z"])
    assert (run.states["bias"], run.states["flat"], run.states["visits"]) == ("success", "skipped", "skipped")


def test_a_dry_run_says_what_would_be_done_and_touches_nothing(truth: RawTruth, repository: Path) -> None:
    before = tree(repository)
    run = Run(truth, DRY, dry_run=True)
    assert run.state == "success"
    plan = run.returned("ingest_raw")
    assert plan["would_run"] == {"combineBias": 1, "calibrateVisit": 1, "summarizeVisit": 1}
    assert plan["missing"] == [f"flats in r of detector {DETECTOR}"]
    assert {run.states[task] for task in ("bias", "flat", "visits")} == {"skipped"}
    assert tree(repository) == before


def tree(folder: Path) -> set[tuple[Path, int]]:
    """All files of a folder with their sizes."""
    return {(path, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def test_a_night_without_raws_is_skipped_as_a_whole(truth: RawTruth) -> None:
    run = Run(truth, 20190501)
    assert run.state == "success"
    assert set(run.states.values()) == {"skipped"}
