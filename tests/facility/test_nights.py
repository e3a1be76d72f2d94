from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tololo.facility import nights
from tololo.facility.errors import BadInputError


@pytest.mark.parametrize(
    ("utc", "night"),
    [
        (datetime(2018, 2, 12, 8, 30, 9, tzinfo=UTC), 20180211),
        # 2018: TAI = UTC + 37 s, so the night begins at 11:59:23 UTC
        (datetime(2018, 2, 12, 11, 59, 22, tzinfo=UTC), 20180211),
        (datetime(2018, 2, 12, 11, 59, 23, tzinfo=UTC), 20180212),
        # before 2015-07-01: 35 s
        (datetime(2015, 4, 11, 11, 59, 24, tzinfo=UTC), 20150410),
        (datetime(2015, 4, 11, 11, 59, 25, tzinfo=UTC), 20150411),
        (datetime(2018, 2, 12, 5, 30, tzinfo=timezone(timedelta(hours=-3))), 20180211),
        (datetime(2020, 1, 1, 3, 0, tzinfo=UTC), 20191231),
    ],
)
def test_night_is_the_date_of_tai_less_twelve_hours(utc: datetime, night: int) -> None:
    assert nights.night_of(utc) == night
    begin, end = nights.night_bounds(night)
    assert begin <= utc < end


def test_agrees_with_astropy() -> None:
    from astropy.time import Time

    for mjd in (56000.49, 57203.4999, 57204.4999, 58161.354271, 60000.49957, 60000.4996):
        tai = Time(mjd, format="mjd", scale="utc").tai
        expected = int(Time(tai.mjd - 0.5, format="mjd", scale="tai").strftime("%Y%m%d"))
        assert nights.night_of_mjd_utc(mjd) == expected
        assert nights.night_of_mjd_tai(tai.mjd) == expected


@pytest.mark.parametrize(
    ("utc", "science", "calibration"),
    [
        # Chilean summer (UTC-3): the archive's day changes at 16:00 UTC, LSST's at noon TAI
        (datetime(2019, 4, 1, 19, 30, tzinfo=UTC), 20190401, 20190401),  # the afternoon before
        (datetime(2019, 4, 2, 9, 50, tzinfo=UTC), 20190401, 20190401),  # twilight
        (datetime(2019, 4, 2, 11, 59, 22, tzinfo=UTC), 20190401, 20190401),
        (datetime(2019, 4, 2, 11, 59, 23, tzinfo=UTC), 20190402, 20190401),  # the morning after
        (datetime(2019, 4, 2, 15, 59, 59, tzinfo=UTC), 20190402, 20190401),
        (datetime(2019, 4, 2, 16, 0, tzinfo=UTC), 20190402, 20190402),
        # winter (UTC-4): at 17:00
        (datetime(2019, 6, 2, 16, 59, 59, tzinfo=UTC), 20190602, 20190601),
        (datetime(2019, 6, 2, 17, 0, tzinfo=UTC), 20190602, 20190602),
        # DATE-OBS and DTCALDAT of two real headers: EXPNUM 160496 (a bias) and 941420
        (datetime(2012, 12, 11, 22, 6, 32, tzinfo=UTC), 20121211, 20121211),
        (datetime(2020, 3, 6, 0, 4, 15, tzinfo=UTC), 20200305, 20200305),
    ],
)
def test_calibrations_serve_the_night_of_the_archives_caldat(
    utc: datetime, science: int, calibration: int
) -> None:
    assert nights.night_served(utc, calibration=False) == nights.night_of(utc) == science
    assert nights.night_served(utc, calibration=True) == calibration


def test_on_the_sky_both_rules_agree() -> None:
    """From sunset to sunrise, so that no exposure of the sky has two nights."""
    for day in range(0, 366, 3):
        for hour in (21.5, 24, 28, 32, 35.9):
            utc = datetime(2019, 1, 1, tzinfo=UTC) + timedelta(days=day, hours=hour)
            assert nights.night_served(utc, calibration=True) == nights.night_of(utc)


def test_naive_time_is_refused() -> None:
    for function in (nights.night_of, lambda time: nights.night_served(time, calibration=True)):
        with pytest.raises(ValueError, match="time zone"):
            function(datetime(2018, 2, 12))


@pytest.mark.parametrize("bad", ["2018-02-11", "201802", "20180231", "", "2018021٢", "20181301", -1])
def test_bad_night_is_named(bad: str | int) -> None:
    with pytest.raises(BadInputError, match="night") as caught:
        nights.parse_night(bad)
    assert repr(bad) in str(caught.value)


def test_resolver() -> None:
    noon = datetime(2018, 2, 12, 12, 0, tzinfo=UTC)
    assert nights.resolve_night("20180101", None, noon) == 20180101
    assert nights.resolve_night("20180101", "20180101", noon) == 20180101
    assert nights.resolve_night(None, "20180102", noon) == 20180102
    assert nights.resolve_night("", " ", noon) == 20180211
    assert nights.resolve_night(None, None, noon - timedelta(hours=1)) == 20180210
    with pytest.raises(BadInputError, match=r"20180101.*20180102"):
        nights.resolve_night("20180101", 20180102, noon)


def test_ranges_and_globs() -> None:
    known = [20180131, 20180201, "20180228", 20180301]
    assert nights.night_range(20180227, 20180301) == [20180227, 20180228, 20180301]
    assert nights.select_nights("20180201:20180301", known) == [20180201, 20180228, 20180301]
    assert nights.select_nights("201802*, 20170101", known) == [20170101, 20180201, 20180228]
    assert nights.select_nights([20180301, "20180131-20180201"], known) == [20180131, 20180201, 20180301]
    for bad in ("", "20180301..20180201", "2018x", "[a-z]*"):
        with pytest.raises(BadInputError):
            nights.select_nights(bad, known)
    assert nights.shift(20180301, -1) == 20180228
