"""Ten nights by the DAGs on a real scheduler, from pixels to light curves, in and out of order.

The tests follow each other: each goes on with what the one before has left.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from lsst.daf.butler import Butler

from hooks.apdb.sky import dump
from tololo.reduction.apdb import CampaignApdb, open_apdb
from tololo.reduction.apdb_readers import all_objects, light_curve, objects_near
from tololo.services import facility
from tololo.services.airflow_client import AirflowClient
from tololo.services.home import Home
from tololo.simulation.instcal import simulate_nights
from tololo.simulation.truth import Truth

from .season import (
    APDB,
    ASTEROID,
    NIGHTS,
    SUBSET,
    SUPERNOVA,
    TEMPLATE,
    VARIABLE,
    Season,
    change,
    night_of,
    season_plan,
)

pytestmark = [pytest.mark.services, pytest.mark.long, pytest.mark.timeout(7200)]

LATE, LAST = NIGHTS[6], NIGHTS[9]
"""A night that comes when later ones are stored, and one that is subtracted in the other way."""
IMAGING: dict[str, Any] = {"coadd_subset": SUBSET, "proc_type": "instcal"}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return simulate_nights(tmp_path_factory.mktemp("season") / "nights", plan=season_plan(), seed=7)


@pytest.fixture(scope="module")
def season(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Season]:
    """The nights up to the last but one are in the APDB, without the one that comes late."""
    home = Home(tmp_path_factory.mktemp("facility") / "var", web_port=18390, tom_port=18411)
    try:
        running = facility.up(home)
        client = AirflowClient(running.airflow.url, running.airflow.token)
        dags = ["repo_bootstrap", "nightly_decam", "template_coadds", "difference_imaging", "apdb_nights"]
        client.wait_for_dags(dags)
        season = Season(client, home)
        season.run("repo_bootstrap", refcats=str(truth.reference))
        season.backfill("nightly_decam", TEMPLATE[0], LAST, source="instcal", data=str(truth.images))
        season.run("template_coadds", coadd_subset=SUBSET, nights=f"{TEMPLATE[0]}:{TEMPLATE[1]}")
        season.backfill("difference_imaging", NIGHTS[0], LATE - 1, **IMAGING)
        season.backfill("difference_imaging", LATE + 1, LAST - 1, **IMAGING)
        yield season
    finally:
        facility.down(home)


@pytest.fixture
def apdb(season: Season) -> CampaignApdb:
    return open_apdb(season.config())


def curve_of(apdb: CampaignApdb, truth: Truth, kind: str) -> tuple[Any, Any]:
    """Return the light curve of the one object at a fixed source, and the rows of the truth by visit."""
    rows = truth.transients[truth.transients["kind"] == kind]
    (found,) = objects_near(apdb, float(rows["ra"][0]), float(rows["dec"][0]), 1.0)
    return light_curve(apdb, int(found["diaObjectId"])), {row["visit"]: row for row in rows}


def test_several_nights_went_on_at_a_time_and_the_apdb_took_them_in_order(
    season: Season, apdb: CampaignApdb
) -> None:
    runs = season.runs("difference_imaging")
    assert {run["state"] for run in runs} == {"success"}
    spans = [(run["start_date"], run["end_date"]) for run in runs]
    assert any(a != b and a[0] < b[0] < a[1] for a in spans for b in spans)
    assert apdb.nights() == [night for night in NIGHTS[:-1] if night != LATE]
    stored = sorted((row["timeProcessedMjdTai"], row["visit"]) for row in apdb.rows("DiaSource"))
    visits = [visit for _, visit in stored]
    assert visits == sorted(visits)


def test_a_night_that_comes_late_is_replayed(season: Season, apdb: CampaignApdb) -> None:
    before = {run["dag_run_id"] for run in season.runs("difference_imaging")}
    season.run("difference_imaging", night=str(LATE), late_nights="replay", **IMAGING)
    season.wait_for("difference_imaging", range(LATE, LAST), before)
    runs = [run for run in season.runs("difference_imaging") if run["dag_run_id"] not in before]
    assert sorted((night_of(run), run["state"]) for run in runs) == [
        (night, "success") for night in range(LATE, LAST)
    ]
    assert apdb.nights() == list(NIGHTS[:-1])
    assert apdb.waiting() == []


def test_the_other_method_and_alert_packets(season: Season, apdb: CampaignApdb) -> None:
    season.run("difference_imaging", night=str(LAST), method="zogy", alerts=True, **IMAGING)
    assert apdb.nights() == list(NIGHTS)
    with Butler.from_config(str(season.home.repository)) as butler:
        chain = f"{LAST}/{SUBSET}/meanclip/diff_instcal"
        (ref,) = butler.query_datasets("alert_packets", chain)
        sources = [row for row in apdb.rows("DiaSource") if row["visit"] == ref.dataId["visit"]]
        assert len(butler.get(ref).records()) == len(sources) > 0


def test_each_fixed_source_is_one_object(apdb: CampaignApdb, truth: Truth) -> None:
    fixed = truth.transients[truth.transients["kind"] != ASTEROID.kind]
    for number in set(fixed["id"].tolist()):
        rows = fixed[fixed["id"] == number]
        assert len(objects_near(apdb, float(rows["ra"][0]), float(rows["dec"][0]), 1.0)) == 1, number


@pytest.mark.parametrize("source", [SUPERNOVA, VARIABLE])
def test_light_curves_are_the_truth_within_their_errors(
    apdb: CampaignApdb, truth: Truth, source: Any
) -> None:
    curve, rows = curve_of(apdb, truth, source.kind)
    points = curve[curve["kind"] == "forced"]
    seen = sorted(visit for visit, row in rows.items() if visit >= min(curve["visit"]))
    assert points["visit"].tolist() == seen
    assert len(seen) >= len(NIGHTS) - 2
    expected = np.array([change(source, rows[visit], truth) for visit in points["visit"].tolist()])
    pulls = (np.asarray(points["psfFlux"]) - expected) / np.asarray(points["psfFluxErr"])
    assert np.abs(pulls).max() < 4.5, pulls
    assert np.sqrt(np.mean(pulls**2)) < 1.6, pulls


def test_what_moves_is_not_one_object(apdb: CampaignApdb, truth: Truth) -> None:
    rows = truth.transients[truth.transients["kind"] == ASTEROID.kind]
    lit = rows[np.asarray(rows["flux"]) > 0]
    found = [objects_near(apdb, float(row["ra"]), float(row["dec"]), 1.0) for row in lit]
    ids = [int(table["diaObjectId"][0]) for table in found if len(table)]
    assert len(ids) >= len(lit) - 1
    assert len(set(ids)) == len(ids)
    objects = all_objects(apdb)
    assert set(objects["nDiaSources"][np.isin(objects["diaObjectId"], ids)].tolist()) == {1}


def test_a_night_that_is_run_again_leaves_every_row_as_it_was(season: Season, apdb: CampaignApdb) -> None:
    before = dump(apdb)
    season.run("difference_imaging", night=str(NIGHTS[3]), **IMAGING)
    assert dump(apdb) == before


def test_a_night_that_is_taken_out_and_comes_back_leaves_the_same_rows(
    season: Season, apdb: CampaignApdb
) -> None:
    before, night = dump(apdb, timeless=True), LAST - 1
    known = {run["dag_run_id"] for run in season.runs("difference_imaging")}
    season.run("apdb_nights", night=str(night), action="withdraw", **IMAGING)
    season.wait_for("difference_imaging", [LAST], known)
    assert apdb.nights() == [held for held in NIGHTS if held != night]
    known = {run["dag_run_id"] for run in season.runs("difference_imaging")}
    season.run("difference_imaging", night=str(night), late_nights="replay", **IMAGING)
    season.wait_for("difference_imaging", [night, LAST], known)
    assert apdb.nights() == list(NIGHTS)
    assert rows_of(dump(apdb, timeless=True)) == rows_of(before)


def rows_of(tables: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The tables of the APDB, without the ledger, which counts how often a visit was stored."""
    return {name: rows for name, rows in tables.items() if not name.startswith("tololo_")}


def test_events_tell_of_each_night(season: Season) -> None:
    events = season.client.call("GET", "assets/events?limit=100")["asset_events"]
    told = {name: [event["extra"] for event in events if event["name"] == name] for name in ASSETS}
    assert {extra["night"] for extra in told["visits"]} == {str(night) for night in (*TEMPLATE, *NIGHTS)}
    assert {extra["night"] for extra in told["differences"]} == {str(night) for night in NIGHTS}
    assert {extra["apdb"] for extra in told["differences"]} == {APDB}
    (template,) = told["templates"]
    assert template["version"] == f"{SUBSET}/meanclip/coadd/v1"


ASSETS = ("visits", "templates", "differences")
