from __future__ import annotations

import pytest
from astropy.time import Time
from lsst.daf.butler import Timespan

from tololo.facility.errors import BadInputError
from tololo.hooks.validity import describe_validity, parse_validity

NOON = 12 * 3600


@pytest.mark.parametrize("night", [19850102, 20161230, 20161231, 20170101, 20190401, 20240229])
def test_a_night_is_that_of_the_middleware_to_the_nanosecond(night: int) -> None:
    assert parse_validity(str(night)) == Timespan.from_day_obs(night, offset=NOON)
    assert describe_validity(Timespan.from_day_obs(night, offset=NOON)) == str(night)


def test_a_range_is_exactly_its_nights() -> None:
    timespan = parse_validity("20190401..20190415")
    first, last = (Timespan.from_day_obs(night, offset=NOON) for night in (20190401, 20190415))
    assert (timespan.nsec[0], timespan.nsec[1]) == (first.nsec[0], last.nsec[1])
    assert (timespan.nsec[1] - timespan.nsec[0]) == 15 * 86400 * 10**9
    for night, inside in ((20190331, False), (20190401, True), (20190415, True), (20190416, False)):
        whole = Timespan.from_day_obs(night, offset=NOON)
        assert (timespan.contains(whole), timespan.overlaps(whole)) == (inside, inside)
    end = Time("2019-04-16T12:00:00", scale="tai")
    assert not timespan.contains(end)
    assert timespan.contains(Time("2019-04-16T11:59:59.999999", scale="tai"))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2019-04-01T12:00:00..2019-04-16T12:00:00", "20190401..20190415"),
        ("20190401..2019-04-16T12:00", "20190401..20190415"),
        (" 20190401 .. 20190401 ", "20190401"),
        ("20190401..", "20190401.."),
        ("..20190415", "..20190415"),
        ("..", ".."),
        ("2019-04-01T12:00:00.5..20190415", "2019-04-01T12:00:00.5..20190415"),
        (
            "2019-04-01T12:00:00.000000001..2019-04-16T11:59:59.999999999",
            "2019-04-01T12:00:00.000000001..2019-04-16T11:59:59.999999999",
        ),
    ],
)
def test_ways_to_write_it(text: str, same: str) -> None:
    timespan = parse_validity(text)
    assert describe_validity(timespan) == same
    assert parse_validity(same) == timespan


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a validity range"),
        ("april", "not a validity range"),
        ("2019-04-01T12:00:00", "not a validity range"),
        ("20190431", "no date of the calendar"),
        ("20190401:20190415", "not a validity range"),
        ("2019-04-01..2019-04-15", "'2019-04-01' is neither"),
        ("20190401..2019-04-15T12:00:00Z", "12:00:00Z' is neither"),
        ("2019-02-30T12:00:00..", "no moment of the calendar"),
        ("2019-04-01T25:00:00..", "no moment of the calendar"),
        ("20190415..20190401", "ends before it begins"),
        ("2019-04-01T12:00:00..2019-04-01T12:00:00", "ends before it begins"),
        ("20190401..20190415..20190501", "neither a night nor a moment"),
    ],
)
def test_what_is_no_range_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadInputError, match=says) as caught:
        parse_validity(text)
    assert "What to do:" in str(caught.value)
