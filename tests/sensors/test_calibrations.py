from __future__ import annotations

from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout

from conftest import GOOD_VISITS, NIGHT
from sensors.datasets import G_EXPOSURE, G, R, add_g_exposure, add_raws, certify
from sensors.waiting import deferred, make, resume
from tololo.sensors.calibrations import CalibrationSensor


@pytest.fixture
def night(repository: Path) -> Path:
    """Raws of NIGHT: detectors 25 to 27 in r, 25 also in g."""
    add_g_exposure(repository)
    add_raws(repository, (25, 26, 27), GOOD_VISITS)
    add_raws(repository, (25,), [G_EXPOSURE])
    return repository


def test_it_waits_for_the_last_filter(night: Path) -> None:
    certify(night, "bias", (25, 26, 27))
    certify(night, "flat", (25, 26, 27), glass=R)
    sensor, filled = make(CalibrationSensor)
    stopped = deferred(sensor, filled)
    assert stopped.trigger.missing == ["flat for filter g, detector 25"]
    certify(night, "flat", (25,), glass=G)
    assert resume(sensor, filled, stopped) == 7
    sensor, filled = make(CalibrationSensor)
    assert sensor.execute(filled) == 7


def test_the_message_names_kind_filter_and_detectors(night: Path) -> None:
    certify(night, "bias", (25,))
    certify(night, "bias", (26,), first=20190310, last=20190312, collection="DECam/calib")
    certify(night, "flat", (26,), glass=R)
    sensor, filled = make(CalibrationSensor, timeout=0.4)
    with pytest.raises(AirflowSensorTimeout) as caught:
        resume(sensor, filled, deferred(sensor, filled))
    assert str(caught.value).endswith(
        "missing: bias for detector 27; bias for detector 26 (certified for other times only); "
        "flat for filter g, detector 25; flat for filter r, detectors 25, 27"
    )


def test_the_facilitys_own_calibrations_serve(night: Path) -> None:
    certify(night, "bias", (25, 26, 27), first=20190101, last=20191231, collection="DECam/calib")
    sensor, filled = make(CalibrationSensor, kinds="bias")
    assert sensor.execute(filled) == 3


def test_only_the_chosen_detectors_need_any(night: Path) -> None:
    certify(night, "bias", (26,))
    sensor, filled = make(CalibrationSensor, kinds="bias", params={"detectors": "26"})
    assert sensor.execute(filled) == 1


def test_another_night_has_no_raws(night: Path) -> None:
    sensor, filled = make(CalibrationSensor, params={"night": str(NIGHT)}, timeout=0.2)
    sensor.where_terms = ("instrument = 'DECam'", "exposure.day_obs = 20190312")
    with pytest.raises(AirflowSensorTimeout, match=r"raw in DECam/raw/all where .* \(there are none\)"):
        resume(sensor, filled, deferred(sensor, filled))


def test_what_is_no_calibration_fails_at_once(night: Path) -> None:
    sensor, filled = make(CalibrationSensor, kinds="bias,raw")
    with pytest.raises(AirflowFailException, match="'raw' is no calibration"):
        sensor.execute(filled)
