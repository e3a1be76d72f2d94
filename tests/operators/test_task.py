from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators.airflow_context import context
from tololo.facility.errors import BadInputError, NothingToDoError, TololoError, UnavailableError
from tololo.operators.task import FacilityOperator


class Raising(FacilityOperator):
    def __init__(self, *, error: Exception | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.error = error

    def work(self, context: Any) -> Any:
        if self.error is not None:
            raise self.error
        return {"visits": 3}


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (NothingToDoError("Clouds", "night 20190401", "wait"), AirflowSkipException),
        (BadInputError("Clouds", "night 20190401", "wait"), AirflowFailException),
        (TololoError("Clouds", "night 20190401", "wait"), AirflowFailException),
        (UnavailableError("Clouds", "night 20190401", "wait"), UnavailableError),
        (ValueError("Clouds"), ValueError),
    ],
)
def test_what_an_error_means_to_airflow(error: Exception, becomes: type[Exception]) -> None:
    with pytest.raises(becomes) as caught:
        Raising(task_id="x", error=error).execute(context())
    assert type(caught.value) is becomes
    assert str(caught.value) == str(error)


def test_what_work_returns_is_the_xcom() -> None:
    assert Raising(task_id="x", error=None).execute(context()) == {"visits": 3}
