"""Which visits make a template: rules, their order, and what is said of those that are left out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tololo.facility.errors import BadInputError
from tololo.facility.template_selection import (
    Candidate,
    LeftOut,
    Selection,
    choose,
    patch_query,
    read_selection,
)

HERE, THERE = frozenset({1, 2, 3}), frozenset({7, 8, 9})


def visit(number: int, **known: Any) -> Candidate:
    """A visit in r whose depth falls as its seeing grows, unless said otherwise."""
    seeing = known.pop("seeing", 1.0)
    values: dict[str, Any] = {
        "night": 20190401,
        "band": "r",
        "depth": 24 - seeing,
        "verdict": "accepted",
        "places": HERE,
    }
    return Candidate(visit=number, seeing=seeing, **values | known)


def numbers(candidates: list[Candidate], **rules: Any) -> list[int]:
    return [item.visit for item in choose(candidates, Selection(**rules))[0]]


def test_without_rules_all_accepted_visits_are_taken_and_those_nobody_judged() -> None:
    given = [visit(3, verdict=""), visit(1), visit(2, verdict="flagged"), visit(4, verdict="rejected")]
    chosen, left_out = choose(given, Selection())
    assert [item.visit for item in chosen] == [1, 3]
    assert left_out == {2: "flagged", 4: "rejected"}
    assert numbers(given, verdicts=("accepted", "flagged")) == [1, 2, 3]


def test_seeing_has_a_limit_and_an_unknown_one_is_beyond_it() -> None:
    given = [visit(1, seeing=1.2), visit(2, seeing=1.3), visit(3, seeing=math.nan)]
    assert numbers(given) == [1, 2, 3]
    chosen, left_out = choose(given, Selection(max_seeing=1.2))
    assert [item.visit for item in chosen] == [1]
    assert left_out == {2: "with seeing above 1.2 arcsec", 3: "of unknown seeing"}


@pytest.mark.parametrize(
    ("part", "taken"), [(0.5, [2, 4]), (0.51, [1, 2, 4]), (0.01, [4]), (1.0, [1, 2, 3, 4])]
)
def test_the_part_of_best_seeing_is_taken_of_each_band(part: float, taken: list[int]) -> None:
    given = [visit(n, seeing=seeing) for n, seeing in ((1, 1.4), (2, 1.1), (3, 1.5), (4, 0.9))]
    green = visit(9, band="g", seeing=3.0)
    assert numbers([*given, green], best_seeing=part) == [*taken, 9]


def test_the_part_is_one_of_what_the_other_rules_leave() -> None:
    given = [visit(1, seeing=0.8, verdict="flagged"), visit(2, seeing=1.0), visit(3, seeing=1.2)]
    assert numbers(given, best_seeing=0.5) == [2]


def test_with_a_maximum_the_deepest_are_taken() -> None:
    given = [visit(1, seeing=0.8, depth=22.0), visit(2, seeing=1.3, depth=24.0), visit(3, depth=23.0)]
    assert numbers(given, max_visits=2) == [2, 3]
    # One whose depth is not known comes after all others, then the seeing tells.
    unknown = [visit(4, depth=math.nan, seeing=0.7), visit(5, depth=math.nan, seeing=0.6)]
    assert numbers([*given, *unknown], max_visits=4) == [1, 2, 3, 5]
    _, left_out = choose(given, Selection(max_visits=1))
    assert left_out == dict.fromkeys((1, 3), "in band r less deep than 1 that cover the same sky")


def test_the_maximum_counts_where_visits_overlap() -> None:
    one, other = (visit(n, seeing=1 + n / 10) for n in (1, 2))
    elsewhere = visit(3, seeing=2.0, places=THERE)
    assert numbers([one, other, elsewhere], max_visits=1) == [1, 3]
    # Less than half of it is where there is another: it is mostly about other sky.
    touching = visit(4, seeing=2.1, places=frozenset({3, 4, 5, 6}))
    assert numbers([one, touching], max_visits=1) == [1, 4]
    inside = visit(5, seeing=2.1, places=frozenset({2, 3, 4}))
    assert numbers([one, inside], max_visits=1) == [1]
    # What is not known to be anywhere is everywhere the same.
    assert numbers([visit(n, places=frozenset()) for n in (1, 2)], max_visits=1) == [1]


def test_a_band_with_too_few_visits_is_left_out_with_the_numbers() -> None:
    given = [visit(1), visit(2, seeing=1.9), visit(3, band="g"), visit(4, band="g")]
    chosen, left_out = choose(given, Selection(max_seeing=1.5, min_visits=2))
    assert [item.visit for item in chosen] == [3, 4]
    assert left_out == {
        1: "in band r, of which 1 can be taken and 2 are needed",
        2: "with seeing above 1.5 arcsec",
    }
    assert choose([], Selection()) == ([], {})


def test_what_was_left_out_is_told_by_reason() -> None:
    told = str(LeftOut({5: "flagged", 1: "rejected", 2: "rejected"}, [20190401]))
    assert told == ("2 rejected (1-2); 1 flagged (5); there is no scorecard of 20190401, nobody judged these")
    assert str(LeftOut()) == "none"


def test_rules_that_are_not_given_are_those_of_the_facility() -> None:
    facility = Selection(max_seeing=1.6, min_visits=3, verdicts=("accepted", "flagged"))
    assert read_selection({}, facility) == facility
    assert read_selection(None) == Selection()
    given = read_selection({"max_seeing": None, "max_visits": 9}, facility)
    assert given == Selection(min_visits=3, max_visits=9, verdicts=("accepted", "flagged"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"max_seeing": 0}, "selection.max_seeing"),
        ({"best_seeing": 1.2}, "selection.best_seeing"),
        ({"min_visits": 0}, "selection.min_visits"),
        ({"min_visits": 2.5}, "selection.min_visits"),
        ({"verdicts": []}, "selection.verdicts"),
        ({"verdicts": ["rejected"]}, "selection.verdicts"),
        ({"seeing": 1}, "seeing"),
        ({"min_visits": 5, "max_visits": 3}, "At most 3 visits"),
    ],
)
def test_wrong_rules_are_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        read_selection(content)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        (None, ""),
        ("  ", ""),
        ("9813/42", "((tract = 9813 AND patch IN (42)))"),
        ("9813/42, 9813/41 9814/*", "((tract = 9813 AND patch IN (41, 42)) OR tract = 9814)"),
        ("9814/1, 9814/*, 9814/2", "(tract = 9814)"),
        ("tract = 3 AND patch IN (1, 2)", "(tract = 3 AND patch IN (1, 2))"),
    ],
)
def test_patches(text: str | None, query: str) -> None:
    assert patch_query(text) == query


@pytest.mark.parametrize("text", ["9813/", "9813/4/2", "north/1", "9813/41;9813/42", "-1/2"])
def test_patches_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="is no patch"):
        patch_query(text)
