"""Association of nights with an APDB: objects, light curves, rows, order."""

from __future__ import annotations

import numpy as np
import pytest
from lsst.dax.apdb import Apdb
from lsst.sphgeom import Box

from tololo.facility.errors import BadInputError
from tololo.reduction.apdb_readers import sources_of
from tololo.reduction.association import DetectorVisit, VisitInfo, associate_night, associate_visit

from .sky import (
    ARCSEC,
    ERROR,
    MIDPOINTS,
    NAME,
    SELECTION,
    STAR,
    TRUTH,
    dump,
    forced,
    night,
    polygon,
    run,
    sources,
    visit_info,
    visit_time,
)


def test_three_nights_give_the_planted_objects_and_light_curves(hook, apdb):
    results = run(apdb, 1003, 1001, 1002)  # in any order
    assert [(r.visit, r.detector) for r in results] == [(v, d) for v in MIDPOINTS for d in (1, 2)]
    assert [(r.sources, r.rejected, r.new_objects, r.forced) for r in results] == [
        (1, 1, 1, 1),
        (0, 0, 0, 0),
        (2, 1, 1, 2),
        (1, 1, 1, 1),
        (1, 1, 0, 2),
        (0, 1, 0, 1),
    ]
    assert hook.counts(NAME) == {"DiaObject": 3, "DiaSource": 5, "DiaForcedSource": 7}

    for ra, dec, detector, flux, seen in TRUTH:
        objects = hook.objects_near(NAME, ra, dec, 1.0)
        assert len(objects) == 1
        assert objects["nDiaSources"][0] == len(seen)
        curve = hook.light_curve(NAME, int(objects["diaObjectId"][0]))
        assert curve["psfFlux"].unit == "nJy"
        detected = curve[curve["kind"] == "detected"]
        point = curve[curve["kind"] == "forced"]
        expected = [visit for visit in MIDPOINTS if visit >= min(seen)]
        assert point["visit"].tolist() == expected
        assert detected["visit"].tolist() == sorted(seen)
        for table in (detected, point):
            assert table["psfFlux"].tolist() == [flux[v] for v in table["visit"]]
            assert table["scienceFlux"].tolist() == [flux[v] + 1e4 for v in table["visit"]]
            assert table["midpointMjdTai"].tolist() == [MIDPOINTS[v] for v in table["visit"]]
            assert set(table["band"]) == {"z"}
            assert set(table["detector"]) == {detector}
            assert table["psfFluxErr"].tolist() == [ERROR] * len(table)
        assert curve["midpointMjdTai"].tolist() == sorted(curve["midpointMjdTai"])

    star = hook.objects_near(NAME, STAR[0], STAR[1], 1.0)[0]
    assert star["diaObjectId"] == 1001 * 1000 + 100  # the id of its first source
    assert star["separation"] < 0.3
    assert star["raErr"] == pytest.approx(0.1 * ARCSEC / 3**0.5, rel=1e-5)
    assert star["ra_dec_Cov"] == pytest.approx(0.3 * (0.1 * ARCSEC) ** 2 / 3, rel=1e-5)
    with hook.opened(NAME) as opened:
        stored = opened.rows("DiaSource")
    assert {row["psfLnL"] for row in stored} == {-1234.5}
    assert [row["ra_dec_Cov"] for row in stored] == pytest.approx([0.3 * (0.1 * ARCSEC) ** 2] * 5, abs=1e-14)
    fluxes = [5000.0, -3000.0, 8000.0]
    assert star["z_psfFluxNdata"] == 3
    assert star["r_psfFluxNdata"] == 0
    assert star["z_psfFluxMean"] == pytest.approx(np.mean(fluxes), rel=1e-6)
    assert star["z_fpFluxMean"] == pytest.approx(np.mean(fluxes), rel=1e-6)
    assert star["z_scienceFluxMean"] == pytest.approx(np.mean(fluxes) + 1e4, rel=1e-6)
    assert star["z_psfFluxSigma"] == pytest.approx(np.std(fluxes, ddof=1), rel=1e-6)
    assert star["z_psfFluxMin"] == -3000
    assert star["z_psfFluxMax"] == 8000
    assert star["z_psfFluxMaxSlope"] == pytest.approx(11000 / 0.98, rel=1e-5)
    assert star["firstDiaSourceMjdTai"] == MIDPOINTS[1001]
    assert star["lastDiaSourceMjdTai"] == MIDPOINTS[1003]
    assert star["validityStartMjdTai"] == pytest.approx(MIDPOINTS[1003], abs=1e-9)
    assert [o["diaObjectId"] for o in hook.objects(NAME, minimum_sources=2)] == [star["diaObjectId"]]
    with pytest.raises(BadInputError, match="no diaObject 77"):
        hook.light_curve(NAME, 77)


def test_rows_are_those_of_the_schema(hook, apdb):
    run(apdb, 1001)
    frame = Apdb.from_uri(str(hook.config_path(NAME))).getDiaSources(polygon(1), None, visit_time(1001))
    assert len(frame) == 1
    row, given = frame.iloc[0], sources(1001, 1)[0]
    for name in given.colnames:
        if name == "notInTheSchema":
            assert name not in frame.columns
        elif isinstance(given[name], (float, np.floating)):
            assert row[name] == pytest.approx(given[name], rel=1e-6)
        else:
            assert row[name] == given[name], name
    assert row["exposureTime"] == 60
    assert row["diaObjectId"] == given["diaSourceId"]
    assert row["psfNdata"] == row["bboxSize"] == row["trailNdata"] == 0
    associations, points = sources_of(apdb, 1001, 1)
    assert associations["diaObjectId"].tolist() == [row["diaObjectId"]]
    assert points["diaForcedSourceId"][0] > 0


def test_a_stored_visit_is_left_as_it_is(apdb):
    first = run(apdb, 1001, 1002, 1003)
    before = dump(apdb)
    never = [DetectorVisit(item.info, lambda: pytest.fail("rows were loaded")) for item in night(1001, 1003)]
    again = associate_night(apdb, never, selection=SELECTION)
    assert [r.already_stored for r in again] == [True] * 4
    assert [(r.sources, r.new_objects, r.forced) for r in again] == [
        (r.sources, r.new_objects, r.forced) for r in first if r.visit != 1002
    ]
    other = associate_visit(apdb, visit_info(1001, 1), sources(1002, 1), forced(1002, 1))
    assert other.already_stored
    assert dump(apdb) == before


def test_an_earlier_night_is_refused_unless_allowed(apdb):
    run(apdb, 1001, 1003)
    before = dump(apdb)
    with pytest.raises(BadInputError) as caught:
        run(apdb, 1002)
    assert "night 20180212" in str(caught.value)
    assert "night 20180213" in str(caught.value)
    assert dump(apdb) == before
    results = run(apdb, 1002, out_of_order=True)
    assert [r.already_stored for r in results] == [False, False]
    assert apdb.counts() == {"DiaObject": 3, "DiaSource": 5, "DiaForcedSource": 5}


def test_a_late_detector_of_the_latest_visit_is_welcome(apdb):
    associate_night(apdb, night(1002, detectors=(2,)), selection=SELECTION)
    assert run(apdb, 1002)[0].new_objects == 2


def test_two_detectors_that_see_the_same_object(apdb):
    info = VisitInfo(1001, 2, "z", MIDPOINTS[1001], polygon(1))
    rows = sources(1001, 1)
    associate_visit(apdb, visit_info(1001, 1), rows, forced(1001, 1), selection=SELECTION)
    rows["diaSourceId"] += 5000
    rows["detector"] = 2
    result = associate_visit(apdb, info, rows, forced(1001, 2), selection=SELECTION)
    assert (result.matched, result.new_objects) == (1, 0)
    assert apdb.counts()["DiaObject"] == 1


def test_an_id_that_is_taken_stores_nothing(apdb):
    run(apdb, 1001)
    before = dump(apdb)
    rows = sources(1002, 1)
    rows["diaSourceId"][0] = sources(1001, 1)["diaSourceId"][0]
    with pytest.raises(BadInputError, match="nothing of them is stored"):
        associate_visit(apdb, visit_info(1002, 1), rows, forced(1002, 1))
    assert dump(apdb) == before


def test_positions_off_the_image_get_no_forced_row(apdb):
    def off(ra, dec):
        return {**forced(1001, 1)(ra, dec), "on_image": np.zeros(len(ra), dtype=bool)}

    result = associate_visit(apdb, visit_info(1001, 1), sources(1001, 1), off)
    assert (result.sources, result.forced) == (2, 0)
    assert apdb.counts()["DiaForcedSource"] == 0


def test_box_regions_will_do(apdb):
    box = Box.fromDegrees(150.0, 2.0, 150.1, 2.2)
    info = VisitInfo(1001, 1, "z", MIDPOINTS[1001], box)
    assert associate_visit(apdb, info, sources(1001, 1), forced(1001, 1), selection=SELECTION).forced == 1
