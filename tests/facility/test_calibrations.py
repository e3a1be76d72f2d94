from __future__ import annotations

import math
from typing import Any

import jsonschema
import pytest

from tololo.facility.calibrations import (
    LIMITS,
    CalibrationKey,
    checked_limits,
    days_between,
    describe_age,
    limits_schema,
    missing_calibrations,
    named,
    nearest,
    nights_within,
    reasons_against,
    validity,
)
from tololo.facility.errors import BadInputError

R = "r DECam SDSS c0002 6415.0 1480.0"
BIAS: dict[str, Any] = {
    "amplifier": "A",
    "problem": "",
    "n_used": 10,
    "read_noise": 7.0,
    "variance_ratio": 1.0,
    "row_rms": 0.2,
    "column_rms": 1.0,
    "defects": 0.0,
}


def test_the_nearest_night_is_taken_and_the_earlier_of_two() -> None:
    assert nearest(20190401, [20190401, 20190331], 7) == 20190401
    assert nearest(20190401, [20190402, 20190331], 7) == 20190331
    assert nearest(20190401, [20190402, 20190330], 7) == 20190402
    assert nearest(20190401, [20190324, 20190409], 7) is None
    assert nearest(20190401, [20190325, 20190408], 7) == 20190325
    assert nearest(20190401, [20190331], 0) is None
    assert nearest(20190401, [], 7) is None


def test_nights_come_nearest_first_over_the_ends_of_years() -> None:
    assert nights_within(20181231, 2) == [20181230, 20190101, 20181229, 20190102]
    assert nights_within(20181231, 0) == []
    with pytest.raises(BadInputError, match="-1 days"):
        nights_within(20181231, -1)
    with pytest.raises(BadInputError, match="not a night"):
        nights_within("today", 1)


def test_days_are_counted_over_leap_seconds_and_said() -> None:
    assert days_between(20161231, 20170101) == 1
    assert days_between(20200301, 20200228) == -2
    assert [describe_age(days) for days in (0, -1, 2)] == ["own", "1 day earlier", "2 days later"]


@pytest.mark.parametrize(
    ("night", "end"), [(20190401, "2019-04-02T16:00:37"), (20190701, "2019-07-02T17:00:37")]
)
def test_a_night_is_valid_until_its_morning_calibrations_may_be_taken(night: int, end: str) -> None:
    assert validity(night) == f"{night}..{end}"


def test_what_is_good_enough_has_no_reason_against_it() -> None:
    assert reasons_against("bias", [BIAS, BIAS | {"amplifier": "B"}]) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"read_noise": 20.5}, "read_noise of amplifier A is 20.5, above 20"),
        ({"n_used": 2}, "n_used of amplifier A is 2, below 3"),
        ({"row_rms": math.nan}, "row_rms of amplifier A is not known"),
    ],
)
def test_what_breaks_a_limit_is_named(change: dict[str, Any], reason: str) -> None:
    assert reasons_against("bias", [BIAS | change]) == [reason]


def test_a_column_that_is_not_there_is_not_known() -> None:
    row = {name: value for name, value in BIAS.items() if name != "defects"}
    assert reasons_against("bias", [row]) == ["defects of amplifier A is not known"]


def test_a_dead_amplifier_does_not_count_unless_all_are() -> None:
    dead = BIAS | {"amplifier": "B", "problem": "overscan saturated", "read_noise": math.nan}
    assert reasons_against("bias", [BIAS, dead]) == []
    assert reasons_against("bias", [dead, dead]) == ["no amplifier is usable (overscan saturated)"]
    assert reasons_against("bias", []) == ["there are no metrics"]


def test_limits_are_changed_one_by_one() -> None:
    limits = checked_limits({"bias": {"read_noise": [None, 12]}, "flat": {}})
    assert limits["bias"]["read_noise"] == (None, 12)
    assert limits["bias"]["n_used"] == LIMITS["bias"]["n_used"]
    assert checked_limits() == LIMITS
    assert reasons_against("bias", [BIAS | {"read_noise": 13}], limits)
    assert LIMITS["bias"]["read_noise"] == (1.0, 20.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dark": {"level": [0, 1]}}, "no such limit.*dark, level.*use one of bias: n_used"),
        ({"bias": {"noise": [0, 1]}}, "no such limit.*bias, noise"),
        ({"bias": {"read_noise": [9, 1]}}, r"\[9, 1\] is no pair"),
        ({"bias": {"read_noise": [1]}}, r"\[1\] is no pair"),
        ({"bias": {"read_noise": "1..2"}}, "'1..2' is no pair"),
        ({"bias": {"read_noise": [True, 2]}}, "is no pair"),
    ],
)
def test_wrong_limits_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        checked_limits(changes)


def test_the_schema_takes_what_is_right_and_nothing_else() -> None:
    schema = jsonschema.Draft202012Validator(limits_schema())
    assert schema.is_valid(
        {kind: {name: list(pair) for name, pair in there.items()} for kind, there in LIMITS.items()}
    )
    assert schema.is_valid({"bias": {"read_noise": [None, 12]}})
    for wrong in (
        {"dark": {}},
        {"bias": {"noise": [0, 1]}},
        {"bias": {"read_noise": [1]}},
        {"flat": {"counts": 3}},
    ):
        assert not schema.is_valid(wrong)


def test_calibrations_are_named_by_filter_and_detectors() -> None:
    keys = [CalibrationKey(d, R) for d in (30, 28, 29, 25)]
    assert named("flat", keys) == ["flat for filter r, detectors 25, 28-30"]
    assert named("bias", [CalibrationKey(3)]) == ["bias for detector 3"]
    assert named("bias", []) == []


def test_the_message_says_what_is_missing_where_was_looked_and_what_to_do() -> None:
    error = missing_calibrations(
        "flat", 20190401, [CalibrationKey(25, R)], 3, [20190330], {CalibrationKey(25, R): "counts is 3"}
    )
    assert str(error) == (
        "There is no accepted flat for filter r, detector 25; its own were rejected: counts is 3. "
        "Where: night 20190401; looked at nights 20190329 to 20190404, of these 20190330 have some, "
        "for others. "
        "What to do: take or reduce calibrations, raise max_calib_age (now 3), or certify some by hand into "
        "20190401/calib/flat."
    )
