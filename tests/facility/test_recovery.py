from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tololo.facility.configuration import INCLUDE, read_facility
from tololo.facility.errors import BadInputError
from tololo.facility.recovery import FAIL, WARN, Limits, alarms, read_limits


def found(**changes: Any) -> dict[str, Any]:
    numbers = {"depth": 23.0, "completeness": 0.97, "purity": 0.99, "bias": 0.004}
    errors = {"depth_error": 0.05, "completeness_error": 0.01, "purity_error": 0.01, "bias_error": 0.002}
    return numbers | errors | changes


def test_a_good_night_gives_no_alarm() -> None:
    assert alarms({"r": found(), "g": found()}, Limits(depth={"r": 22.5})) == []


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("depth", 22.3, "half of the sources are recovered at 22.30 mag, the limit is 22.50 mag"),
        ("completeness", 0.8, "80.0% of the bright sources are recovered, the limit is 90.0%"),
        ("purity", 0.5, "50.0% of the new detections are injected sources, the limit is 90.0%"),
        ("bias", -0.05, "fluxes are -5.0 % off (error 0.2 %), the limit is 3 %"),
        ("bias", 0.05, r"fluxes are \+5.0 % off"),
    ],
)
def test_each_limit_is_told(name: str, value: float, sentence: str) -> None:
    (told,) = alarms({"r": found(**{name: value}), "g": found()}, Limits(depth={"r": 22.5}))
    assert told.startswith("Band r: ")
    assert sentence.replace("\\", "") in told


def test_what_is_not_certain_or_not_known_is_no_alarm() -> None:
    limits = Limits(depth={"r": 22.5})
    assert alarms({"r": found(depth=22.45)}, limits) == []
    assert alarms({"r": found(bias=0.032)}, limits) == []
    unknown = dict.fromkeys(found(), None)
    assert alarms({"r": unknown}, limits) == []
    assert alarms({"r": found(bias=math.nan, bias_error=math.nan)}, limits) == []


def test_a_limit_can_be_taken_away_and_an_alarm_can_fail() -> None:
    limits = read_limits({"bias": None, "alarm": "fail"})
    assert (limits.bias, limits.alarm, limits.purity) == (None, FAIL, Limits().purity)
    assert alarms({"r": found(bias=0.5)}, limits) == []
    assert read_limits(None) == Limits()


def write(folder: Path, block: str) -> Path:
    text = (INCLUDE / "configs" / "facility.yaml").read_text()
    path = folder / "facility.yaml"
    path.write_text(text[: text.index("\nrecovery:")] + "\n" + block)
    return path


def test_the_configuration_has_them(tmp_path: Path) -> None:
    block = "recovery:\n  depth: {r: 22.5, VR: 23}\n  bias: 0.02\n  alarm: fail\n"
    limits = read_facility(write(tmp_path, block)).recovery
    assert (limits.depth, limits.bias, limits.alarm) == ({"r": 22.5, "VR": 23}, 0.02, FAIL)
    assert read_facility(write(tmp_path, "")).recovery == Limits()
    assert read_facility(INCLUDE / "configs" / "facility.yaml").recovery.alarm == WARN


@pytest.mark.parametrize(
    ("block", "key"),
    [
        ("recovery:\n  bias: -1\n", "recovery.bias"),
        ("recovery:\n  depths: {r: 22}\n", "recovery.depths"),
        ("recovery:\n  depth: {r: deep}\n", "recovery.depth.r"),
        ("recovery:\n  alarm: shout\n", "recovery.alarm"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_key(tmp_path: Path, block: str, key: str) -> None:
    with pytest.raises(BadInputError, match=rf"line \d+, key {key}"):
        read_facility(write(tmp_path, block))
