from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors

from operators.airflow_context import context
from tololo.assets import VISITS
from tololo.operators.finish import FinishOperator

TOLD = {"scorecard": ("chain", "visits"), "ingest": ("new",)}
RETURNED = {
    "scorecard": {"chain": "20190401/drp", "visits": 3, "repository": "/data"},
    "ingest": {"new": [1, 2, 3]},
}


def finish(running: dict[str, Any], **options: Any) -> Any:
    running["outlet_events"] = OutletEventAccessors()
    operator = FinishOperator(task_id="night", asset=VISITS, told=TOLD, **options)
    operator.render_template_fields(running | {"night_of": lambda *_: "20190401"})
    return operator.execute(running)


def test_the_event_tells_what_was_named_and_no_more() -> None:
    running = context(xcoms=RETURNED)
    told = {
        "night": "20190401",
        "repo": "butler_test",
        "chain": "20190401/drp",
        "visits": 3,
        "new": [1, 2, 3],
    }
    assert finish(running) == told
    assert running["outlet_events"][VISITS].extra == told


def test_a_run_without_a_night_tells_none() -> None:
    assert "night" not in finish(context(xcoms=RETURNED), night="")


@pytest.mark.parametrize("returned", [{}, {"scorecard": RETURNED["scorecard"]}, RETURNED | {"ingest": None}])
def test_a_run_that_finished_nothing_is_skipped(returned: dict[str, Any]) -> None:
    running = context(xcoms=returned)
    with pytest.raises(AirflowSkipException, match="Nothing was finished"):
        finish(running)
    assert running["outlet_events"][VISITS].extra == {}


def test_a_dry_run_and_a_reason_are_skips() -> None:
    with pytest.raises(AirflowSkipException, match="Dry run"):
        finish(context(xcoms=RETURNED, dry_run=True))
    with pytest.raises(AirflowSkipException, match="not accepted"):
        finish(context(xcoms=RETURNED), skip="The version is not accepted")


def test_its_asset_is_its_outlet() -> None:
    assert FinishOperator(task_id="night", asset=VISITS, told=TOLD).outlets == [VISITS]
