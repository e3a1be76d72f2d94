"""Matching and summaries against brute force and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest
from astropy.table import MaskedColumn, Table
from lsst.sphgeom import Angle, Circle, LonLat, UnitVector3d

from tololo.facility.errors import BadInputError
from tololo.reduction.association import VisitInfo
from tololo.reduction.dia_objects import mean_positions, summarise
from tololo.reduction.forced_rows import forced_source_ids
from tololo.reduction.matching import match_sources
from tololo.reduction.source_selection import SourceSelection, checked_sources

ARCSEC = 1 / 3600.0
BANDS = ("u", "g", "r", "i", "z", "y")


def info(visit=714123, detector=25, band="z", midpoint=58161.2):
    centre = UnitVector3d(LonLat.fromDegrees(150.0, 2.0))
    return VisitInfo(visit, detector, band, midpoint, Circle(centre, Angle.fromDegrees(0.1)), 60.0)


def sky(kind, ra, dec, err=0.02 * ARCSEC, **extra):
    ra, dec = np.atleast_1d(ra).astype(float), np.atleast_1d(dec).astype(float)
    columns = {f"dia{kind}Id": np.arange(1, len(ra) + 1), "ra": ra, "dec": dec}
    columns |= {name: np.full(len(ra), err) for name in ("raErr", "decErr")}
    return columns | {name: np.asarray(value) for name, value in extra.items()}


@pytest.mark.parametrize("centre", [(150.0, 2.0), (359.99999, -89.9), (0.0, 45.0)])
def test_match_finds_every_planted_pair_and_no_other(centre):
    rng = np.random.default_rng(5)
    n = 400
    ra, dec = centre[0] + rng.uniform(-1, 1, n), centre[1] + rng.uniform(-0.05, 0.05, n)
    objects = sky("Object", ra % 360, dec)
    planted = rng.permutation(n)[:150]
    shift = rng.normal(0, 0.05 * ARCSEC, (2, 150))
    sources = sky(
        "Source",
        np.concatenate([ra[planted] + shift[0] / np.cos(np.radians(dec[planted])), ra[:50] + 0.0]) % 360,
        np.concatenate([dec[planted] + shift[1], dec[:50] + 0.15]),
    )
    match = match_sources(sources, objects, 1.0)
    assert np.array_equal(match[:150], planted)
    assert np.all(match[150:] == -1)


def test_match_is_one_to_one_and_prefers_the_significant_pair():
    # A bright source 0.10" off with a good position, a faint one 0.12" off with a bad one.
    objects = sky("Object", 10.0, 0.0)
    sources = sky("Source", [10.0 + 0.12 * ARCSEC, 10.0 + 0.10 * ARCSEC], [0.0, 0.0], snr=[5.5, 80.0])
    sources["raErr"] = sources["decErr"] = np.array([0.3, 0.01]) * ARCSEC
    assert match_sources(sources, objects, 1.0).tolist() == [-1, 0]
    # Two sources between two objects: each gets its own, though both are nearest to the same one.
    objects = sky("Object", [10.0, 10.0 + 0.8 * ARCSEC], [0.0, 0.0])
    sources = sky("Source", [10.0 + 0.02 * ARCSEC, 10.0 + 0.3 * ARCSEC], [0.0, 0.0])
    assert match_sources(sources, objects, 1.0).tolist() == [0, 1]


def test_match_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(9)
    objects = sky("Object", 20 + rng.uniform(0, 20, 300) * ARCSEC, rng.uniform(0, 20, 300) * ARCSEC)
    sources = sky(
        "Source",
        20 + rng.uniform(0, 20, 300) * ARCSEC,
        rng.uniform(0, 20, 300) * ARCSEC,
        snr=rng.uniform(5, 9, 300),
    )

    def pairs(order_s, order_o):
        s = {name: column[order_s] for name, column in sources.items()}
        o = {name: column[order_o] for name, column in objects.items()}
        match = match_sources(s, o, 1.0)
        return {(int(s["diaSourceId"][i]), int(o["diaObjectId"][j])) for i, j in enumerate(match) if j >= 0}

    straight = pairs(np.arange(300), np.arange(300))
    assert len(straight) == len({o for _, o in straight}) > 100
    assert pairs(rng.permutation(300), rng.permutation(300)) == straight


def test_match_radius_and_empty_tables():
    objects = sky("Object", [10.0], [60.0])
    sources = sky("Source", [10.0 + 0.99 * ARCSEC / math.cos(math.radians(60))], [60.0])
    assert match_sources(sources, objects, 1.0).tolist() == [0]
    assert match_sources(sources, objects, 0.98).tolist() == [-1]
    nothing = sky("Object", [], [])
    assert match_sources(sources, nothing, 1.0).tolist() == [-1]
    assert match_sources(sky("Source", [], []), objects, 1.0).tolist() == []


def history(rng, n=200, objects=20):
    band = rng.choice(["r", "z", "VR"], n)
    columns = {
        "diaObjectId": rng.integers(0, objects, n) * 11 + 5,
        "midpointMjdTai": 58000 + rng.permutation(n) * 0.7,
        "band": band,
        "ra": (rng.normal(0, 0.1, n) * ARCSEC) % 360,
        "dec": 30 + rng.normal(0, 0.1, n) * ARCSEC,
    }
    for name in ("raErr", "decErr"):
        columns[name] = rng.uniform(0.01, 0.2, n) * ARCSEC
    columns["ra_dec_Cov"] = rng.uniform(-0.9, 0.9, n) * columns["raErr"] * columns["decErr"]
    columns["ra_dec_Cov"][::13] = np.nan
    for name in ("psfFlux", "scienceFlux"):
        columns[name] = rng.normal(1000, 300, n)
        columns[f"{name}Err"] = rng.uniform(10, 60, n)
    columns["psfFlux"][::17] = np.nan
    return columns


def test_positions_are_weighted_means_also_across_the_meridian():
    rows = history(np.random.default_rng(3))
    ids = np.unique(rows["diaObjectId"])
    means = mean_positions(ids, rows)
    frame = pandas.DataFrame(rows)
    for k, (object_id, group) in enumerate(frame.groupby("diaObjectId")):
        ra = (group.ra + 180) % 360 - 180
        w_ra, w_dec = 1 / group.raErr**2, 1 / group.decErr**2
        assert means["diaObjectId"][k] == object_id
        off = (means["ra"][k] + 180) % 360 - 180 - (w_ra * ra).sum() / w_ra.sum()
        assert abs(off) < 1e-6 * ARCSEC
        assert means["dec"][k] == pytest.approx((w_dec * group.dec).sum() / w_dec.sum(), abs=1e-12)
        assert means["raErr"][k] == pytest.approx(w_ra.sum() ** -0.5)
        covariance = (w_ra * w_dec * group.ra_dec_Cov.fillna(0)).sum() / (w_ra.sum() * w_dec.sum())
        assert means["ra_dec_Cov"][k] == pytest.approx(covariance)
        assert means["nDiaSources"][k] == len(group)
        assert means["firstDiaSourceMjdTai"][k] == group.midpointMjdTai.min()
        assert means["lastDiaSourceMjdTai"][k] == group.midpointMjdTai.max()


def test_positions_without_errors_count_alike():
    rows = sky("Object", [10.0, 10.0 + 2e-5, 20.0], [0.0, 2e-5, 1.0], err=np.nan)
    rows |= {"diaObjectId": np.array([1, 1, 2]), "midpointMjdTai": np.array([1.0, 2.0, 3.0])}
    rows["ra_dec_Cov"] = np.full(3, np.nan)
    means = mean_positions(np.array([1, 2]), rows)
    assert means["ra"] == pytest.approx([10.00001, 20.0], abs=1e-12)
    assert np.all(np.isnan(means["raErr"]))
    assert np.all(np.isnan(means["ra_dec_Cov"]))


def test_flux_summaries_agree_with_their_definitions():
    rng = np.random.default_rng(4)
    sources, forced = history(rng), history(rng, 300, 25)
    ids = np.unique(sources["diaObjectId"])
    columns = summarise(ids, sources, forced, BANDS)
    frame, points = pandas.DataFrame(sources), pandas.DataFrame(forced)
    checked = 0
    for k, object_id in enumerate(ids):
        for band in BANDS:
            rows = frame[(frame.diaObjectId == object_id) & (frame.band == band)]
            good = rows.dropna(subset=["psfFlux"]).sort_values("midpointMjdTai")
            n, w = len(good), 1 / good.psfFluxErr**2
            got = {
                name: columns[f"{band}_{name}"][k] for name in ("psfFluxNdata", "psfFluxMean", "psfFluxSigma")
            }
            assert got["psfFluxNdata"] == n
            if n == 0:
                assert math.isnan(got["psfFluxMean"])
                continue
            checked += 1
            assert got["psfFluxMean"] == pytest.approx((w * good.psfFlux).sum() / w.sum())
            assert columns[f"{band}_psfFluxMeanErr"][k] == pytest.approx(w.sum() ** -0.5)
            assert got["psfFluxSigma"] == pytest.approx(good.psfFlux.std(), nan_ok=True)
            assert columns[f"{band}_psfFluxMin"][k] == good.psfFlux.min()
            assert columns[f"{band}_psfFluxMax"][k] == good.psfFlux.max()
            assert columns[f"{band}_psfFluxErrMean"][k] == pytest.approx(good.psfFluxErr.mean())
            slope = (good.psfFlux.diff() / good.midpointMjdTai.diff()).max()
            assert columns[f"{band}_psfFluxMaxSlope"][k] == pytest.approx(slope, nan_ok=True)
            ws = 1 / rows.scienceFluxErr**2
            assert columns[f"{band}_scienceFluxMean"][k] == pytest.approx(
                (ws * rows.scienceFlux).sum() / ws.sum()
            )
            f = points[(points.diaObjectId == object_id) & (points.band == band)].dropna(subset=["psfFlux"])
            wf = 1 / f.psfFluxErr**2
            mean = (wf * f.psfFlux).sum() / wf.sum() if len(f) else math.nan
            assert columns[f"{band}_fpFluxMean"][k] == pytest.approx(mean, nan_ok=True)
    assert checked > 30
    assert np.all(columns["u_psfFluxNdata"] == 0)


def source_table(n=3, **changes):
    columns = {
        "diaSourceId": np.arange(n) + 100,
        "visit": np.full(n, 714123),
        "detector": np.full(n, 25, dtype=np.int16),
        "band": np.full(n, "z"),
        "midpointMjdTai": np.full(n, 58161.2),
        "ra": 150 + np.arange(n) * 0.01,
        "dec": np.full(n, 2.0),
        "x": np.arange(n) * 100.0,
        "y": np.arange(n) * 50.0,
        "psfFlux": np.full(n, 900.0),
        "psfFluxErr": np.full(n, 30.0),
    }
    return {name: column for name, column in (columns | changes).items() if column is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"psfFlux": None}, "no column psfFlux"),
        ({"diaSourceId": np.array([1, 1, 2])}, "share an id"),
        ({"ra": np.array([150.0, np.nan, 150.1])}, "1 diaSources have no ra"),
        ({"visit": np.array([714123, 714124, 714123])}, "another visit than 714123"),
        ({"band": np.array(["z", "z", "r"])}, "another band than z"),
        ({"midpointMjdTai": np.array([58161.2, 58161.2, 58161.3])}, "another midpointMjdTai"),
    ],
)
def test_sources_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(BadInputError, match=words) as caught:
        checked_sources(Table(source_table(**changes)), info())
    assert "night 20180211, visit 714123, detector 25" in str(caught.value)


def test_sources_are_completed_from_the_visit_and_unmasked():
    table = Table(source_table(visit=None, detector=None, band=None, midpointMjdTai=None))
    table["raErr"] = MaskedColumn([1e-5, 2e-5, 3e-5], mask=[False, True, False])
    columns = checked_sources(table, info())
    assert columns["visit"].tolist() == [714123] * 3
    assert columns["exposureTime"].tolist() == [60.0] * 3
    assert np.isnan(columns["raErr"]).tolist() == [False, True, False]
    assert np.isnan(columns["scienceFlux"]).all()


def test_selection_cuts_what_it_says():
    columns = checked_sources(source_table(), info())
    columns |= {
        "reliability": np.array([0.9, 0.2, np.nan]),
        "snr": np.array([-20.0, 20.0, 20.0]),
        "pixelFlags_bad": np.array([False, False, True]),
    }
    assert SourceSelection().mask(columns).tolist() == [True, True, True]
    assert SourceSelection(minimum_reliability=0.5).mask(columns).tolist() == [True, False, False]
    assert SourceSelection(minimum_snr=10).mask(columns).tolist() == [True, True, True]
    assert SourceSelection(rejected_flags=("pixelFlags_bad",)).mask(columns).tolist() == [True, True, False]
    with pytest.raises(BadInputError, match="pixelFlags_cr"):
        SourceSelection(rejected_flags=("pixelFlags_cr",)).mask(columns)


def test_forced_source_ids_are_unique_over_visits_and_detectors():
    ids = [
        forced_source_ids(info(visit, detector), 5)
        for visit in (1, 714123, 2**31 - 1)
        for detector in (1, 62)
    ]
    joined = np.concatenate(ids)
    assert len(np.unique(joined)) == 30
    assert joined.min() > 0
    with pytest.raises(BadInputError, match="numbered"):
        forced_source_ids(info(2**31), 1)
