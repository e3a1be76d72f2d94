from __future__ import annotations

import pytest

from tololo.facility.waiting import NAMED, answer, describe, names_in, numbered, ranges


@pytest.mark.parametrize(
    ("numbers", "written"),
    [([], ""), ([3], "3"), ([3, 1, 2], "1-3"), ([1, 3, 4, 4, 9], "1, 3-4, 9"), (range(1, 63), "1-62")],
)
def test_numbers_are_written_as_ranges(numbers: list[int], written: str) -> None:
    assert ranges(numbers) == written


def test_a_noun_agrees_with_its_numbers() -> None:
    assert numbered("detector", [28]) == "detector 28"
    assert numbered("detector", [28, 30]) == "detectors 28, 30"
    assert numbered("patch", [1, 2]) == "patches 1-2"
    assert numbered("patch", []) == ""


def test_an_answer_is_ready_if_nothing_is_missing_unless_said_otherwise() -> None:
    assert answer([], 3) == {"ready": True, "missing": [], "found": 3}
    assert answer(["a"], 3)["ready"] is False
    assert answer(["a"], 3, ready=True) == {"ready": True, "missing": ["a"], "found": 3}


@pytest.mark.parametrize("more", [0, 1, 100])
def test_the_first_missing_things_are_named_and_the_rest_counted(more: int) -> None:
    missing = answer([f"n{i}" for i in range(NAMED + more)], 0)["missing"]
    assert missing[:NAMED] == [f"n{i}" for i in range(NAMED)]
    assert missing[NAMED:] == ([f"... and {more} more"] if more else [])


def test_a_message_names_what_is_missing_and_who_did_not_answer() -> None:
    assert describe(["bias", "flat"]) == "missing: bias; flat"
    assert describe([], "no server") == "the last question was not answered: no server"
    assert describe(["bias"], "no server") == "missing: bias; the last question was not answered: no server"
    assert describe([])


def test_names_are_separated_by_commas() -> None:
    assert names_in(" a/b, c ,,") == ["a/b", "c"]
    assert names_in("") == []
