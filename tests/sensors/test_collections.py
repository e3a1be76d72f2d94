from __future__ import annotations

from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout

from conftest import GOOD_VISITS, NIGHT
from sensors.datasets import add_visit_images
from sensors.waiting import deferred, make, resume
from tololo.params import NIGHT as NIGHT_TEMPLATE
from tololo.sensors.collections import CollectionSensor

CHAIN = f"{NIGHT_TEMPLATE}/instcal"


def test_ready(repository: Path) -> None:
    sensor, filled = make(CollectionSensor, collections=f"{CHAIN}, skymaps")
    assert sensor.collections == f"{NIGHT}/instcal, skymaps"
    assert sensor.execute(filled) == 2


def test_it_waits_until_the_chain_holds_visits(repository: Path) -> None:
    sensor, filled = make(CollectionSensor, collections=CHAIN, dataset_types="visit_image")
    stopped = deferred(sensor, filled)
    add_visit_images(repository, GOOD_VISITS)
    assert resume(sensor, filled, stopped) == 1


def test_the_message_names_each(repository: Path) -> None:
    sensor, filled = make(
        CollectionSensor, collections=f"{CHAIN},absent", dataset_types="visit_*, flat", timeout=0.4
    )
    with pytest.raises(AirflowSensorTimeout) as caught:
        resume(sensor, filled, deferred(sensor, filled))
    assert str(caught.value).endswith(
        f"missing: collection {NIGHT}/instcal (it holds no visit_* or flat); "
        "collection absent (it does not exist)"
    )
