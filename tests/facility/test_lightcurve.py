"""Light curves: numbers against astropy and against the definition of an AB magnitude."""

from __future__ import annotations

import csv
import random
from dataclasses import replace
from datetime import UTC

import numpy as np
import pytest
from astropy.time import Time

from tololo.facility.errors import BadInputError
from tololo.facility.lightcurve import (
    COLUMNS,
    LightCurve,
    PhotometryPoint,
    mjd_utc_of,
    tai_to_utc,
    utc_to_tai,
)

POINT = PhotometryPoint(58161.341, "TAI", 3630.78, 30.0, "g", 712345, 29, dia_object_id=2**62 + 1)


def curve(*points: PhotometryPoint) -> LightCurve:
    return LightCurve("AT 2018xyz", 186.744, 25.462, points)


# the last night of 2016 ends with a leap second; the others lie on both sides of each step since 2009
@pytest.mark.parametrize(
    "mjd", [55197.3, 56108.9, 56109.1, 57203.99, 57204.01, 57753.2, 57753.9, 57754.3, 58161.341]
)
def test_time_scales_agree_with_astropy(mjd: float) -> None:
    assert tai_to_utc(mjd) == pytest.approx(Time(mjd, format="mjd", scale="tai").utc.mjd, abs=1e-10)
    assert utc_to_tai(mjd) == pytest.approx(Time(mjd, format="mjd", scale="utc").tai.mjd, abs=1e-10)
    moment = Time(mjd, format="mjd", scale="utc").to_datetime(timezone=UTC)
    assert mjd_utc_of(moment) == pytest.approx(mjd, abs=1e-10)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mjd": 2458161.8}, "neither JD"),
        ({"flux_njy": float("nan")}, "not a measurement"),
        ({"flux_err_njy": 0.0}, "not a measurement"),
        ({"time_scale": "UT1"}, "time scale"),
        ({"filter_label": "g DECam SDSS c0001 4720.0 1520.0 A"}, "cannot be used"),
        ({"band": "1"}, "cannot be used"),
    ],
)
def test_bad_points(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        replace(POINT, **change)
    assert "visit 712345, detector 29" in str(caught.value)


def test_one_measurement_twice() -> None:
    with pytest.raises(BadInputError, match="the same one"):
        curve(POINT, replace(POINT, flux_njy=1.0))
    with pytest.raises(BadInputError, match="the same one"):  # the TOM would keep one of these
        curve(POINT, replace(POINT, detector=30))
