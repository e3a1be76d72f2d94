"""Who is asked before light curves are published, about what, and what the answer means."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from operators.airflow_context import TEMPLATE, context
from tololo.facility.errors import NothingToDoError
from tololo.operators.tom_approval import (
    SHOWN,
    ApprovePublicationOperator,
    GatherLightCurvesOperator,
    question,
    require_approval,
)

ASKED = TEMPLATE | {"publish": "after approval", "source": "apdb", "tom": "tom_test"}
GATHERED = {
    "label": "2019_meanclip",
    "curves": [
        {
            "target": "SN 1",
            "points": 7,
            "detections": 2,
            "first": 58575.1,
            "last": 58580.2,
            "brightest": 20.5,
        },
        {"target": "SN 2", "points": 3, "detections": 0, "first": 58575.1, "last": 58576, "brightest": None},
    ],
}
REDUCED = {
    "folder": "/data/OB1/sinistro/ip",
    "target": "OB1",
    "filter": "ip",
    "frames": 60,
    "measured": 3,
    "set_aside": {"a": "clouds"},
    "upload": True,
}


def answer(option: str, reason: str | None = None) -> dict[str, Any]:
    return {
        "chosen_options": [option],
        "params_input": {"reason": reason} if reason else {},
        "responded_by_user": {"id": "1", "name": "ana"},
    }


@pytest.mark.parametrize("publish", ["yes", "no"])
@pytest.mark.parametrize("operator", [ApprovePublicationOperator, GatherLightCurvesOperator])
def test_nobody_is_asked_unless_the_run_says_so(operator: Any, publish: str) -> None:
    with pytest.raises(AirflowSkipException, match=f"publish is '{publish}'"):
        operator(task_id="x").execute(context(**ASKED | {"publish": publish}))


def test_nobody_is_asked_where_there_is_nothing_to_ask() -> None:
    operator = ApprovePublicationOperator(task_id="approve")
    with pytest.raises(AirflowSkipException, match="Dry run"):
        operator.execute(context(**ASKED | {"dry_run": True}, xcoms={"gather": GATHERED}))
    for xcoms in ({}, {"reduce": []}, {"reduce": [REDUCED | {"upload": False}]}):
        with pytest.raises(AirflowSkipException, match="nothing to publish"):
            operator.execute(context(**ASKED, xcoms=xcoms))
    with pytest.raises(AirflowSkipException, match="not gathered"):
        GatherLightCurvesOperator(task_id="gather").execute(context(**ASKED | {"source": "datasets"}))


def test_the_question_shows_what_would_be_published() -> None:
    text = question(GATHERED, None)
    assert "| SN 1 | 7 | 2 | 58575.10 | 58580.20 | 20.5 |" in text
    assert "| SN 2 | 3 | 0 | 58575.10 | 58576.00 |  |" in text
    row = "| OB1 | ip | 60 | 3 | 1 | `/data/OB1/sinistro/ip` |"
    assert row in question(None, REDUCED)  # Airflow gives the result of a single task so
    silent = REDUCED | {"target": "OB2", "upload": False}
    text = question(None, [REDUCED, silent, None])
    assert row in text
    assert "OB2" not in text
    many = question(None, [REDUCED] * (SHOWN + 5))
    assert many.count(row) == SHOWN
    assert "and 5 more" in many


@pytest.mark.parametrize("option", ["Approve", "Reject"])
def test_either_answer_lets_the_run_go_on(option: str) -> None:
    operator = ApprovePublicationOperator(task_id="approve")
    event = answer(option, "fine") | {"responded_at": datetime(2026, 1, 1, tzinfo=UTC)}
    given = operator.execute_complete(context(**ASKED), event)
    assert (given["chosen_options"], given["params_input"]) == ([option], {"reason": "fine"})


def test_only_an_approval_is_one() -> None:
    require_approval(context(**ASKED, xcoms={"approve": answer("Approve")}))
    with pytest.raises(NothingToDoError, match="rejected by ana: clouds"):
        require_approval(context(**ASKED, xcoms={"approve": answer("Reject", "clouds")}))
    for nothing in ({}, {"approve": None}):
        with pytest.raises(NothingToDoError, match="Nobody has approved"):
            require_approval(context(**ASKED, xcoms=nothing))
