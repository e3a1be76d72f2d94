from __future__ import annotations

from dataclasses import replace

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from conftest import BAD_VISIT, Reduced
from operators.conftest import coadd_operator
from tololo.engine.attempt import AttemptState
from tololo.facility.errors import UnavailableError
from tololo.operators.bps import RunPipelineOperator, describe_progress

SELECTED = {"version": "2019/meanclip/coadd/v1", "inputs": "x", "where": "skymap = 's'"}


@pytest.fixture
def operator() -> RunPipelineOperator:
    return coadd_operator(SELECTED)


def ended(retriable: int, permanent: int) -> AttemptState:
    counts = {"expected": 4, "failed_retriable": retriable, "failed_permanent": permanent, "no_data": 0}
    counts["done"] = 4 - retriable - permanent
    reasons = ["task (visit=7): MemoryError"] * retriable + ["task (visit=8): ValueError"] * permanent
    outcome = {"run": "r", "chain": "c", "seconds": 1.0, "labels": {"task": counts}, "reasons": reasons}
    return AttemptState(phase="done", outcome=outcome)


def test_a_threshold_decides_over_a_real_run(reduced: Reduced, operator: RunPipelineOperator) -> None:
    summary = operator._judge(reduced.state, 0.5)
    assert (summary["expected"], summary["done"], summary["failed_permanent"]) == (6, 4, 2)
    with pytest.raises(AirflowFailException, match=f"4 of 6 quanta.*visit={BAD_VISIT}"):
        operator._judge(reduced.state, 0.7)


@pytest.mark.parametrize(
    ("state", "becomes", "says"),
    [
        (ended(1, 0), UnavailableError, "3 of 4 quanta.*visit=7"),
        (ended(1, 1), AirflowFailException, "2 of 4 quanta.*visit=7.*visit=8"),
    ],
)
def test_only_what_may_pass_is_tried_again(
    operator: RunPipelineOperator, state: AttemptState, becomes: type[Exception], says: str
) -> None:
    with pytest.raises(becomes, match=says):
        operator._judge(state, 1.0)


@pytest.mark.parametrize(
    ("phase", "what", "becomes"),
    [
        ("empty", "There is nothing to do", AirflowSkipException),
        ("error", "There is no compute site 'moon'", AirflowFailException),
        ("error", "OperationalError: server closed the connection", UnavailableError),
    ],
)
def test_what_the_end_of_an_attempt_means(
    operator: RunPipelineOperator, phase: str, what: str, becomes: type[Exception]
) -> None:
    state = AttemptState(phase=phase, error={"what": what, "where": "here", "remedy": "look"})
    with pytest.raises(becomes, match=f"{what}.*here.*look"):
        operator._judge(state, 1.0)


def test_progress_in_one_line() -> None:
    state = AttemptState(phase="submitted", expected={"a": 3, "b": 2}, finished={"a": 1})
    assert describe_progress(state) == "submitted: a 1 of 3, b 0 of 2"
    assert describe_progress(replace(state, expected={}, phase="building")) == "building"


def test_killing_a_task_that_started_nothing_is_harmless(operator: RunPipelineOperator) -> None:
    operator.on_kill()


def test_a_run_without_data_is_skipped_with_the_reason(operator: RunPipelineOperator) -> None:
    counts = {"expected": 2, "done": 0, "failed_permanent": 0, "failed_retriable": 0, "no_data": 2}
    notes = ["differenceDetector: visit 7, detector 28: the template covers 0% of the detector"] * 2
    outcome = {"run": "r", "chain": "c", "seconds": 1.0, "labels": {"task": counts}, "notes": notes}
    with pytest.raises(AirflowSkipException, match="visit 7, detector 28: the template covers 0%"):
        operator._judge(AttemptState(phase="done", outcome=outcome), 1.0)
    earlier = outcome | {"earlier": 3}
    assert operator._judge(AttemptState(phase="done", outcome=earlier), 1.0)["no_data"] == 2
