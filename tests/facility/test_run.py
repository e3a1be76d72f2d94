from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tololo.facility.errors import BadInputError
from tololo.facility.run import COUNTS, RunOutcome, RunRequest, empty_labels, write_json


def outcome(done: int, no_data: int, permanent: int, retriable: int) -> RunOutcome:
    counts = {"done": done, "no_data": no_data, "failed_permanent": permanent, "failed_retriable": retriable}
    counts["expected"] = sum(counts.values())
    reasons = [f"task (visit={n}): broken" for n in range(permanent + retriable)]
    return RunOutcome("n/p/s/20190401T000000Z", "n", 1.5, {"task": counts}, reasons)


def test_a_request_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    request = RunRequest("repo", "p.yaml#s", "20190401/instcal", "s", ["a", "b"], "visit = 1", {"t:x": "2"})
    request.write(tmp_path / "request.json")
    assert RunRequest.read(tmp_path / "request.json") == request
    assert [path.name for path in tmp_path.iterdir()] == ["request.json"]


def test_a_request_of_before_reads_as_an_ordinary_one(tmp_path: Path) -> None:
    content = {"repository": "r", "pipeline": "p.yaml", "parent": "n", "step": "s", "inputs": ["a"]}
    write_json(tmp_path / "request.json", content)
    request = RunRequest.read(tmp_path / "request.json")
    assert (request.retry_failed, request.memory_factor, request.locks) == (False, 1.0, [])


def test_what_a_request_is_about_in_a_message() -> None:
    request = RunRequest("repo", "p.yaml#s", "n", "s", ["a", "b"])
    assert request.described == "pipeline p.yaml#s, inputs a, b"
    assert replace(request, where="visit = 1").described.endswith("inputs a, b, data query 'visit = 1'")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_the_summary_has_the_five_counts_over_all_and_by_label() -> None:
    result = outcome(5, 1, 2, 1)
    result.labels["other"] = empty_labels({"other": 4})["other"]
    summary = result.summary()
    assert set(summary) == {"run", "chain", "seconds", "labels", *COUNTS}
    assert {count: summary[count] for count in COUNTS} == {
        "expected": 13,
        "done": 5,
        "failed_permanent": 2,
        "failed_retriable": 1,
        "no_data": 1,
    }
    assert summary["labels"]["other"] == dict.fromkeys(COUNTS, 0) | {"expected": 4}
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize(
    ("result", "threshold", "good"),
    [
        (outcome(4, 0, 0, 0), 1.0, True),
        (outcome(3, 1, 0, 0), 1.0, True),  # a detector without data is no failure
        (outcome(3, 0, 1, 0), 1.0, False),
        (outcome(3, 0, 1, 0), 0.75, True),
        (outcome(3, 0, 0, 1), 0.76, False),
        (outcome(0, 0, 1, 0), 0.0, True),
    ],
)
def test_the_threshold_decides(result: RunOutcome, threshold: float, good: bool) -> None:
    if good:
        result.check(threshold)
    else:
        with pytest.raises(BadInputError, match=r"3 of 4 quanta are good.*visit=0"):
            result.check(threshold)


def test_the_good_ones_of_earlier_attempts_are_in_the_counts_already() -> None:
    result = replace(outcome(3, 0, 1, 0), earlier=3)
    assert (result.good, result.fraction_good) == (3, 0.75)


@pytest.mark.parametrize(
    ("result", "remedy"),
    [
        (outcome(9, 0, 1, 0), "mend the cause and run with retry_failed"),
        (outcome(9, 0, 0, 1), "clear this task"),
    ],
)
def test_the_remedy_depends_on_what_is_left(result: RunOutcome, remedy: str) -> None:
    result.check(0.9)
    with pytest.raises(BadInputError, match=r"9 of 10 quanta are good, 95\.5% are needed") as caught:
        result.check(0.955)
    assert remedy in caught.value.remedy


def test_nothing_expected_is_not_good() -> None:
    with pytest.raises(BadInputError, match="0 of 0 quanta"):
        RunOutcome("r", "n", 0.0, {}).check(0.5)


def test_many_reasons_are_cut_and_counted() -> None:
    with pytest.raises(BadInputError) as caught:
        outcome(0, 0, 8, 0).check(1.0)
    assert "visit=4" in str(caught.value)
    assert "visit=5" not in str(caught.value)
    assert "and 3 more" in str(caught.value)
