"""What makes a version of a template good enough."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tololo.facility.configuration import INCLUDE, read_facility
from tololo.facility.errors import BadInputError
from tololo.facility.templates import MEASURES, Limits, judge, median, misordered, read_limits, told


def row(patch: int = 1, **values: Any) -> dict[str, Any]:
    fine = {
        "tract": 9,
        "patch": patch,
        "band": "r",
        "size": 0.1,
        "coverage": 1.0,
        "inputs": 5.0,
        "seeing": 1.1,
        "noise_ratio": 1.0,
        "background": 0.1,
        "clipped": 0.001,
        "depth": 24.0,
    }
    return fine | values


def test_a_fine_version_is_good() -> None:
    assert judge([row(), row(2, band="g")]).is_good
    assert not judge([]).is_good


@pytest.mark.parametrize(
    ("values", "limits", "says"),
    [
        ({"seeing": 2.6}, {}, "seeing 2.6 arcsec, above 2.5"),
        ({"noise_ratio": 0.4}, {}, "noise over expectation 0.4, below 0.5"),
        ({"noise_ratio": 2.1}, {}, "above 2"),
        ({"background": 2.5}, {}, "above 2"),
        ({"clipped": 0.3}, {}, "clipped part 0.3, above 0.2"),
        ({"coverage": 0.2}, {"coverage": [0.5, None]}, "below 0.5"),
        ({"inputs": 1.0}, {"inputs": [2, None]}, "number of inputs 1, below 2"),
        ({}, {"depth": {"r": [24.5, None]}}, "depth 24 mag, below 24.5"),
    ],
)
def test_what_is_beyond_a_limit_is_named(values: dict[str, Any], limits: dict[str, Any], says: str) -> None:
    found = judge([row(**values)], read_limits(limits))
    assert not found.is_good
    assert says in found.reasons[0]
    assert list(found.poor) == ["r 9/1"]
    # Each limit can be lifted.
    name = next(iter(values), "depth")
    assert judge([row(**values)], read_limits({name: {} if name == "depth" else None})).is_good


def test_a_limit_of_one_band_is_not_that_of_another() -> None:
    limits = read_limits({"depth": {"g": [25, None]}})
    assert judge([row()], limits).is_good
    assert not judge([row(band="g")], limits).is_good


def test_what_is_not_known_is_not_judged() -> None:
    unknown = {name: math.nan for name in MEASURES if name != "coverage"}
    assert judge([row(**unknown)]).is_good


def test_little_bad_area_does_no_harm() -> None:
    rows = [row(n) for n in range(9)] + [row(9, seeing=3.0)]
    found = judge(rows)
    assert found.is_good
    assert found.poor == {"r 9/9": ["seeing 3 arcsec, above 2.5"]}
    # At the edge of a field a patch is covered in part, and counts for that part.
    assert judge([row(1), row(2, seeing=3.0, coverage=0.05)]).is_good
    worse = judge([*rows, row(10, seeing=3.0)])
    assert not worse.is_good
    assert "82% of the area is within the limits, 90% has to be; 2 of 11 patches" in worse.reasons[0]
    assert judge([*rows, row(10, seeing=3.0)], read_limits({"good": 0.8})).is_good


def test_a_version_that_loses_what_the_accepted_one_covers_is_not_good() -> None:
    before = [row(1), row(2), row(1, band="g")]
    assert judge(before, accepted=before).is_good
    found = judge([row(1), row(2)], accepted=before)
    assert found.reasons == [
        "Band g: it covers 0% of what the accepted version covers, 90% is needed; "
        "1 of 1 patches are not there."
    ]
    half = judge([row(1), row(2, coverage=0.5), row(1, band="g")], accepted=before)
    assert "covers 75% of what" in half.reasons[0]
    assert judge([row(1)], read_limits({"kept": 0}), before).is_good


def test_limits_are_those_of_the_configuration(tmp_path: Path) -> None:
    text = (INCLUDE / "configs" / "facility.yaml").read_text()
    path = tmp_path / "facility.yaml"
    added = (
        "  type: meanclip\n  selection: {max_seeing: 1.4, min_visits: 2}\n  limits: {seeing: [null, 1.5]}\n"
    )
    path.write_text(text.replace("  type: meanclip\n", added))
    facility = read_facility(path)
    assert facility.template_limits.of("seeing", "r") == (None, 1.5)
    assert facility.template_limits.of("noise_ratio", "r") == Limits().bounds["noise_ratio"]
    assert facility.template_selection.max_seeing == 1.4
    assert told(facility.template_limits)["seeing"] == [None, 1.5]
    for wrong, says in (
        ("  limits: {seeing: [2, 1]}\n", r"templates\.limits\.seeing.*|lowest value \(2\)"),
        ("  limits: {seing: [2, 1]}\n", r"templates\.limits\.seing"),
        ("  limits: {good: 2}\n", r"templates\.limits\.good"),
        ("  selection: {max_seeing: -1}\n", r"templates\.selection\.max_seeing"),
    ):
        path.write_text(text.replace("  type: meanclip\n", f"  type: meanclip\n{wrong}"))
        with pytest.raises(BadInputError, match=says):
            read_facility(path)


def test_misordered_limits() -> None:
    assert misordered({"seeing": [1, 2], "depth": {"r": [24, None]}}) is None
    assert misordered({"depth": {"r": [24, 23]}}) == (
        ["depth", "r"],
        "the lowest value (24) is above the highest (23)",
    )


def test_median() -> None:
    assert median([3, math.nan, 1]) == 2
    assert math.isnan(median([math.nan]))
