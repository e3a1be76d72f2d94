"""Ten nights against the truth: objects, light curves, summaries, and nights that are run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tololo.facility.errors import BadInputError
from tololo.hooks.apdb import ApdbHook
from tololo.reduction.apdb import open_apdb
from tololo.reduction.campaign import Campaign, create_apdb

from . import ten_nights as t
from .sky import ARCSEC, NAME, TEMPLATE, connect, dump

SEEN = {
    name: [visit for visit, band, when in t.ALL if abs(t.flux(name, band, when)) > 5 * t.ERROR + 4 * t.ERROR]
    for name in t.FIXED
}
"""Visits in which a source is well above the limit, whatever its noise."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where an APDB of the ten nights is, on SQLite; nobody changes it."""
    folder = tmp_path_factory.mktemp("ten")
    config = folder / f"{NAME}.yaml"
    create_apdb(f"sqlite:///{folder}/{NAME}.db", None, config, Campaign("DECam", NAME))
    apdb = open_apdb(config)
    for night in t.NIGHTS:
        t.run_night(apdb, night)
    return folder


@pytest.fixture
def ten(folder):
    return open_apdb(folder / f"{NAME}.yaml")


@pytest.fixture
def ten_hook(folder, monkeypatch):
    connect(monkeypatch, extra={"backend": "sqlite", "config_folder": str(folder)})
    return ApdbHook()


def test_each_fixed_source_is_one_object_whose_light_curve_is_the_truth(ten_hook):
    pulls = []
    for name, (ra, dec) in t.FIXED.items():
        (found,) = ten_hook.objects_near(NAME, ra, dec, 1.0)
        curve = ten_hook.light_curve(NAME, int(found["diaObjectId"]))
        detected, points = (curve[curve["kind"] == kind] for kind in ("detected", "forced"))
        assert set(SEEN[name]) <= set(detected["visit"])
        assert len(set(detected["visit"])) == len(detected)
        first = detected["midpointMjdTai"].min()
        assert points["visit"].tolist() == [visit for visit, _, when in t.ALL if when >= first]
        for row in curve:
            truth = t.flux(name, row["band"], row["midpointMjdTai"])
            pulls.append((row["psfFlux"] - truth) / row["psfFluxErr"])
            assert t.TIME[row["visit"]] == row["midpointMjdTai"]
        separation = found["separation"] / (t.SCATTER / np.sqrt(len(detected)))
        assert separation < 4
    assert np.abs(pulls).max() < 5
    assert np.std(pulls) == pytest.approx(1, abs=0.25)
    assert abs(np.mean(pulls)) < 5 / np.sqrt(len(pulls))


def near(objects, ra, dec):
    """Which objects are within an arcsec of a position near the equator."""
    return np.hypot(objects["ra"] - ra, objects["dec"] - dec) < 1 * ARCSEC


def test_the_moving_object_is_as_many_objects_as_it_has_sources(ten_hook):
    objects = ten_hook.objects(NAME)
    for visit, _, when in t.ALL:
        assert objects["nDiaSources"][near(objects, *t.body(when))].tolist() == [1], visit
    fixed = len(t.FIXED)
    assert len(objects) == len(t.ALL) * (1 + t.FALSE_DETECTIONS) + fixed
    assert np.count_nonzero(objects["nDiaSources"] > 1) == fixed


def test_a_known_moving_object_makes_no_object(apdb):
    for night in t.NIGHTS[:4]:
        t.run_night(apdb, night, known_bodies=t.ephemerides())
    known = apdb.rows("DiaSource", ssObjectId=t.BODY)
    assert [row["visit"] for row in known] == [visit for visit, _, when in t.ALL if when < t.BEGIN + 3.5]
    assert {row["diaObjectId"] for row in known} == {None}
    others = [row for row in apdb.rows("DiaSource") if row["ssObjectId"] is None]
    assert len(others) + len(known) == apdb.counts()["DiaSource"]
    objects = apdb.read("DiaObject", ("ra", "dec"))
    assert not any(near(objects, *t.body(when)).any() for _, _, when in t.ALL)
    before = dump(apdb, timeless=True)
    withdrawn = apdb.withdraw(apdb.nights()[2])
    for night in t.NIGHTS[2:4]:
        t.run_night(apdb, night, known_bodies=t.ephemerides())
    assert dump(apdb, timeless=True) == before
    assert withdrawn.rows["DiaSource"] == withdrawn.rows["DiaObject"] + 4  # the body's sources have none


def weighted(values, errors):
    weights = 1 / np.asarray(errors, dtype=float) ** 2
    return (weights * values).sum() / weights.sum(), weights.sum() ** -0.5


def test_summaries_are_those_of_the_rows(ten_hook):
    for ra, dec in t.FIXED.values():
        (found,) = ten_hook.objects_near(NAME, ra, dec, 1.0)
        curve = ten_hook.light_curve(NAME, int(found["diaObjectId"]))
        detected = curve[curve["kind"] == "detected"]
        assert found["nDiaSources"] == len(detected)
        assert found["firstDiaSourceMjdTai"] == detected["midpointMjdTai"].min()
        assert (
            found["lastDiaSourceMjdTai"] == found["validityStartMjdTai"] == detected["midpointMjdTai"].max()
        )
        assert found["ra"] == pytest.approx(detected["ra"].mean(), abs=1e-3 * ARCSEC)
        assert found["decErr"] == pytest.approx(t.SCATTER * ARCSEC / np.sqrt(len(detected)), rel=1e-5)
        for band in t.BANDS:
            mine = detected[detected["band"] == band]
            # what was forced after the last detection is not in its version yet
            until = curve["midpointMjdTai"] <= found["lastDiaSourceMjdTai"]
            points = curve[(curve["kind"] == "forced") & (curve["band"] == band) & until]
            flux = np.asarray(mine["psfFlux"], dtype=float)
            mean, error = weighted(flux, mine["psfFluxErr"])
            expected = {
                "psfFluxNdata": len(mine),
                "psfFluxMean": mean,
                "psfFluxMeanErr": error,
                "psfFluxSigma": np.std(flux, ddof=1),
                "psfFluxMin": flux.min(),
                "psfFluxMax": flux.max(),
                "psfFluxErrMean": t.ERROR,
                "psfFluxMaxSlope": (np.diff(flux) / np.diff(mine["midpointMjdTai"])).max(),
                "fpFluxMean": weighted(points["psfFlux"], points["psfFluxErr"])[0],
                "fpFluxMeanErr": weighted(points["psfFlux"], points["psfFluxErr"])[1],
                "scienceFluxMean": weighted(mine["scienceFlux"], mine["scienceFluxErr"])[0],
                "scienceFluxMeanErr": weighted(mine["scienceFlux"], mine["scienceFluxErr"])[1],
            }
            for column, value in expected.items():
                assert found[f"{band}_{column}"] == pytest.approx(value, rel=1e-4), column
        assert found["z_psfFluxNdata"] == 0
        assert np.isnan(found["z_psfFluxMean"])


def test_any_night_run_again_leaves_the_rows_as_they_are(ten):
    before = dump(ten)
    for night in np.random.default_rng(1).permutation(len(t.NIGHTS)):
        for policy in ("refuse", "replay"):
            results = t.run_night(ten, night, late_nights=policy)  # numbers of numpy
            assert [result.already_stored for result in results] == [True, True]
    assert dump(ten) == before


def test_a_night_in_the_middle_that_comes_last(hook, apdb):
    for night in range(6):
        t.run_night(apdb, night)
    whole = dump(apdb, timeless=True)
    hook.create(NAME, policy="reset", **TEMPLATE)
    apdb = open_apdb(hook.config_path(NAME))
    for night in (0, 1, 2, 4, 5):
        t.run_night(apdb, night)
    with pytest.raises(BadInputError, match="set late_nights to replay"):
        t.run_night(apdb, 3)
    t.run_night(apdb, 3, late_nights="replay")
    assert apdb.waiting() == [20180304, 20180305]
    t.run_night(apdb, 4)
    t.run_night(apdb, 5)
    assert apdb.waiting() == []
    assert dump(apdb, timeless=True) == whole


@pytest.mark.long
def test_killed_again_and_again(hook, apdb):
    """Whatever the moment: the next run goes on, and in the end all is as if nothing had happened."""
    for night in t.NIGHTS:
        t.run_night(apdb, night)
    whole = dump(apdb, timeless=True)
    hook.create(NAME, policy="reset", **TEMPLATE)
    code = f"""
from tololo.reduction.apdb import open_apdb
from hooks.apdb import ten_nights as t
apdb = open_apdb({str(hook.config_path(NAME))!r})
for night in t.NIGHTS:
    t.run_night(apdb, night)
    print(night, flush=True)
"""
    random, killed = np.random.default_rng(3), 0
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for _ in t.NIGHTS:  # each time one night more, at least
        child = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        while (line := child.stdout.readline()) and int(line) < killed:
            pass
        time.sleep(random.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        child.stdout.close()
        killed += child.wait() == -signal.SIGKILL
    apdb = open_apdb(hook.config_path(NAME))
    for night in t.NIGHTS:
        t.run_night(apdb, night)
    assert killed > len(t.NIGHTS) / 2
    assert dump(apdb, timeless=True) == whole
