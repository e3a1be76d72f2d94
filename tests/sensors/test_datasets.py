from __future__ import annotations

from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout

from conftest import DETECTOR, GOOD_VISITS, NIGHT
from sensors.datasets import add_visit_images
from sensors.waiting import deferred, make, resume
from tololo.params import NIGHT as NIGHT_TEMPLATE
from tololo.sensors.datasets import DatasetCountSensor

VISITS = {
    "dataset_type": "visit_image",
    "collections": f"{NIGHT_TEMPLATE}/instcal",
    "where_terms": ["instrument = 'DECam'", f"visit.day_obs = {NIGHT_TEMPLATE}"],
}


def test_ready(visited: Path) -> None:
    sensor, filled = make(DatasetCountSensor, **VISITS, count=2)
    assert sensor.execute(filled) == 2


def test_it_waits_for_the_last_one(repository: Path) -> None:
    add_visit_images(repository, GOOD_VISITS[:1])
    sensor, filled = make(DatasetCountSensor, **VISITS, count="2")
    stopped = deferred(sensor, filled)
    add_visit_images(repository, GOOD_VISITS[1:])
    assert resume(sensor, filled, stopped) == 2


def test_the_message_counts_and_names(visited: Path) -> None:
    sensor, filled = make(DatasetCountSensor, **VISITS, count=5, timeout=0.4)
    with pytest.raises(AirflowSensorTimeout) as caught:
        resume(sensor, filled, deferred(sensor, filled))
    assert (
        f"missing: 3 more visit_image in {NIGHT}/instcal where instrument = 'DECam' AND "
        f"visit.day_obs = {NIGHT} (2 of 5 are there)"
    ) in str(caught.value)


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"detectors": f"{DETECTOR}, 30"}, 2),
        ({"where": f"visit = {GOOD_VISITS[0]}"}, 1),
        ({"detectors": "30"}, 0),
    ],
)
def test_the_params_of_the_run_choose(visited: Path, params: dict[str, str], found: int) -> None:
    sensor, filled = make(DatasetCountSensor, **VISITS, params=params, timeout=0.2)
    if found:
        assert sensor.execute(filled) == found
    else:
        with pytest.raises(AirflowSensorTimeout, match=r"detector IN \(30\)"):
            resume(sensor, filled, deferred(sensor, filled))


@pytest.mark.parametrize("count", [0, -1, "many", "", "1.5"])
def test_a_number_that_is_none_is_refused(repository: Path, count: int | str) -> None:
    sensor, filled = make(DatasetCountSensor, **VISITS, count=count)
    with pytest.raises(AirflowFailException, match="no number of datasets"):
        sensor.execute(filled)


def test_a_data_query_that_cannot_be_read_fails_at_once(visited: Path) -> None:
    sensor, filled = make(DatasetCountSensor, **VISITS, params={"where": "seeing < 3"})
    with pytest.raises(AirflowFailException, match=r"seeing.*What to do: mend the data query"):
        sensor.execute(filled)
