"""Light curves: what is written, and what two of them have in common."""

from __future__ import annotations

import csv
import random
from dataclasses import replace

import numpy as np
import pytest
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.time import Time

from tololo.facility.errors import BadInputError
from tololo.facility.lightcurve import COLUMNS, LightCurve
from tololo.facility.photometry_point import PhotometryPoint
from tololo.reduction.heliocentric import hjd_utc

POINT = PhotometryPoint(58161.341, "TAI", 3630.78, 30.0, "g", 712345, 29, dia_object_id=2**62 + 1)

CTIO = EarthLocation.from_geodetic(-70.81489, -30.16606, 2215)


def curve(*points: PhotometryPoint) -> LightCurve:
    return LightCurve("AT 2018xyz", 186.744, 25.462, points)


def test_magnitudes() -> None:
    row = curve(POINT).rows()[0]
    assert float(row["magnitude"]) == pytest.approx(22.5, abs=1e-5)  # 3630.78 nJy
    assert float(row["error"]) == pytest.approx(1.0857362 * 30 / 3630.78, abs=1e-6)
    assert row["limit"] == ""
    assert float(row["time"]) == pytest.approx(58161.341 - 37 / 86400, abs=1e-9)
    assert float(row["mjd_tai"]) == 58161.341
    assert row["source_location"] == f"visit=712345&detector=29&diaObjectId={2**62 + 1}"


@pytest.mark.parametrize("flux", [-500.0, -1.0, 0.0, 89.9])
def test_below_threshold_is_a_limit(flux: float) -> None:
    row = curve(replace(POINT, flux_njy=flux)).rows()[0]
    assert (row["magnitude"], row["error"]) == ("", "")
    assert float(row["limit"]) == pytest.approx(31.4 - 2.5 * np.log10(150.0), abs=1e-6)
    assert float(row["flux_njy"]) == flux


def test_csv_reads_back() -> None:
    points = [replace(POINT, mjd=58161 + i / 10, visit=i, flux_njy=100.0 * i) for i in range(5)]
    rows = list(csv.DictReader(curve(*points).to_csv("v1").splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [float(row["flux_njy"]) for row in rows] == [0, 100, 200, 300, 400]
    assert {row["reduction_version"] for row in rows} == {"v1"}


def test_time_formats() -> None:
    light_curve = curve(POINT)
    (mjd,) = light_curve.rows()
    (jd,) = light_curve.rows(time_format="jd")
    assert float(jd["time"]) - float(mjd["time"]) == pytest.approx(2400000.5, abs=1e-8)
    with pytest.raises(BadInputError, match="no heliocentric date"):
        light_curve.rows(time_format="hjd")
    (hjd,) = light_curve.with_hjd(lambda times: hjd_utc(times, 186.744, 25.462)).rows(time_format="hjd")
    utc = Time(float(mjd["time"]), format="mjd", scale="utc", location=CTIO)
    delay = utc.light_travel_time(SkyCoord(186.744, 25.462, unit="deg"), "heliocentric", ephemeris="builtin")
    assert 300 < delay.sec < 500  # opposite to the Sun
    assert float(hjd["time"]) == pytest.approx((utc + delay).jd, abs=2e-9)
    assert hjd["time"] == hjd["hjd_utc"]
    assert [row["time_format"] for row in (mjd, jd, hjd)] == ["mjd", "jd", "hjd"]
    assert len({light_curve.content_hash(form) for form in ("mjd", "jd")}) == 2


def test_dates_that_are_known_are_kept() -> None:
    known = replace(POINT, hjd_utc=2458161.845)
    other = replace(POINT, visit=1, mjd=58162.341)
    filled = curve(other, known).with_hjd(lambda times: [mjd + 2400000.503 for mjd in times])
    assert [point.hjd_utc for point in filled.points] == [other.mjd_utc + 2400000.503, 2458161.845]


def test_instrumental_magnitudes_have_no_fluxes() -> None:
    (row,) = replace(curve(POINT), unit="mag").rows()
    assert (row["unit"], row["flux_njy"], row["flux_err_njy"]) == ("mag", "", "")
    assert float(row["magnitude"]) == pytest.approx(22.5, abs=1e-5)


def test_another_version_of_the_pipeline_is_no_other_content() -> None:
    light_curve = curve(POINT)
    newer = replace(light_curve, pipeline="tololo 99.0")
    assert newer.rows()[0]["pipeline_version"] == "tololo 99.0"
    assert newer.content_hash() == light_curve.content_hash()


def test_content_hash() -> None:
    points = [replace(POINT, mjd=58161 + i / 10, visit=i, flux_njy=1000.0 + i) for i in range(8)]
    shuffled = random.Random(1).sample(points, len(points))
    stored = [replace(p, mjd=float(f"{p.mjd:.12e}"), flux_njy=p.flux_njy * (1 + 1e-12)) for p in points]
    reference = curve(*points).content_hash()
    assert curve(*shuffled).content_hash() == reference
    assert curve(*stored).content_hash() == reference
    for change in (
        {"flux_njy": 1000.01},
        {"mjd": 58161.0001},
        {"flux_err_njy": 30.1},
        {"visit": 99},
        {"band": "r"},
    ):
        assert curve(replace(points[0], **change), *points[1:]).content_hash() != reference


def test_records_of_a_forced_source_table() -> None:
    record = {
        "midpointMjdTai": 58161.3,
        "psfFlux": np.float32(500),
        "psfFluxErr": np.float32(10),
        "band": "r",
    }
    record |= {"visit": np.int64(712345), "detector": np.int16(29), "diaObjectId": np.int64(2**62 + 1)}
    point = LightCurve.from_records("t", 1, 2, [record], filter_prefix="diff_").points[0]
    assert (point.visit, point.filter_label, point.dia_object_id) == (712345, "diff_r", 2**62 + 1)
    with pytest.raises(BadInputError, match=r"row 2, column psfFluxErr"):
        LightCurve.from_records("t", 1, 2, [record, {k: v for k, v in record.items() if k != "psfFluxErr"}])


def test_one_measurement_twice() -> None:
    with pytest.raises(BadInputError, match="the same one"):
        curve(POINT, replace(POINT, flux_njy=1.0))
    with pytest.raises(BadInputError, match="the same one"):  # the TOM would keep one of these
        curve(POINT, replace(POINT, detector=30))
