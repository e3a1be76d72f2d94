from __future__ import annotations

import math

import pytest

from tololo.pages import rendering

LIMITS = {
    "seeing": {"flag": 2.0, "reject": 3.5},
    "transparency": {"flag": 0.65, "reject": 0.3},
    "stars": {"flag": None, "reject": None},
    "detectors": {"flag": 0.9, "reject": 0.5},
    "depth": {"g": {"flag": 24.0, "reject": None}},
}
ROW = {"band": "g", "seeing": 1.0, "transparency": 1.0, "stars": 0, "detectors": 62, "detectors_expected": 62}


@pytest.mark.parametrize(
    ("value", "digits", "written"),
    [(24.309, 2, "24.31"), (-0.5, 1, "−0.5"), (612.4, 0, "612"), (None, 2, "–"), (math.nan, 2, "–")],
)
def test_numbers_have_the_digits_they_deserve(value: float | None, digits: int, written: str) -> None:
    assert rendering.number(value, digits) == written


@pytest.mark.parametrize(
    ("fraction", "written"),
    [(1.0, "100 %"), (0.9999, "99.9 %"), (0.746, "74.6 %"), (None, "–"), (0, "0.0 %")],
)
def test_what_is_not_all_of_it_is_never_100_percent(fraction: float | None, written: str) -> None:
    assert rendering.percent(fraction) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(4.24, "4.2 s"), (59.7, "1 min 00 s"), (41.2, "41 s"), (3700, "1 h 01 min"), (None, "–")],
)
def test_times_are_written_for_people(seconds: float | None, written: str) -> None:
    assert rendering.duration(seconds) == written


def test_the_clock_shows_utc_of_a_date_in_tai() -> None:
    assert rendering.clock(58574.5 + 37 / 86400) == "12:00:00"
    assert rendering.clock(None) == "–"


@pytest.mark.parametrize(
    ("change", "column", "verdict"),
    [
        ({"seeing": 1.9}, "seeing", ""),
        ({"seeing": 2.1}, "seeing", "flagged"),
        ({"seeing": 3.6}, "seeing", "rejected"),
        ({"seeing": None}, "seeing", ""),
        ({"transparency": 0.4}, "transparency", "flagged"),
        ({"transparency": 0.2}, "transparency", "rejected"),
        ({"stars": 0}, "stars", ""),
        ({"detectors": 55}, "detectors", "flagged"),
        ({"detectors": 0, "detectors_expected": 0}, "detectors", "rejected"),
        ({"depth": 23.9}, "depth", "flagged"),
        ({"depth": 20.0, "band": "r"}, "depth", ""),
    ],
)
def test_a_value_beyond_a_limit_is_marked(change: dict[str, float], column: str, verdict: str) -> None:
    assert rendering.mark(ROW | change, column, LIMITS) == verdict


def test_limits_are_told_with_their_unit_and_those_that_are_none_are_left_out() -> None:
    rows = {row["name"]: (row["side"], row["flag"], row["reject"]) for row in rendering.limit_rows(LIMITS)}
    assert rows == {
        "seeing": ("above", "2 arcsec", "3.5 arcsec"),
        "transparency": ("below", "0.65", "0.3"),
        "depth g": ("below", "24 mag", "–"),
        "calibrated part of the detectors": ("below", "0.9", "0.5"),
    }


def test_incomplete_detectors_are_grouped() -> None:
    rows = [{"detector": number, "done": 3 + (number > 2), "expected": 4} for number in range(1, 5)]
    assert rendering.incomplete(rows) == [((3, 4), [1, 2])]


def test_a_message_is_escaped() -> None:
    page = rendering.render("message.html", "/tololo", {"what": "<b>&", "where": "<i>", "remedy": ""})
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;&amp;" in page
