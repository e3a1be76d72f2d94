from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from tololo.facility.configuration import INCLUDE, read_facility
from tololo.facility.difference_limits import LIMITS, REASONS, DifferenceLimits, read_limits
from tololo.facility.errors import BadInputError

SHIPPED = (INCLUDE / "configs" / "facility.yaml").read_text()


def facility_with(folder: Path, limits: str) -> Path:
    """The shipped configuration with limits of difference imaging."""
    path = folder / "facility.yaml"
    path.write_text(SHIPPED.replace("\ndifference:\n", f"\ndifference:\n  limits: {limits}\n"))
    return path


def test_every_limit_has_a_default_a_reason_and_a_meaning() -> None:
    assert [field.name for field in fields(DifferenceLimits)] == list(LIMITS)
    assert all(getattr(DifferenceLimits(), name) == limit.default for name, limit in LIMITS.items())
    assert all(limit.meaning and limit.reason in REASONS for limit in LIMITS.values())


def test_a_facility_changes_what_it_names(tmp_path: Path) -> None:
    assert read_facility(INCLUDE / "configs" / "facility.yaml").difference_limits == DifferenceLimits()
    limits = read_facility(facility_with(tmp_path, "{score: 6, saturated: 8.5}")).difference_limits
    assert limits == DifferenceLimits(score=6.0, saturated=8.5)
    assert limits.overrides() == {
        "differenceDetector:limits.score": "6.0",
        "differenceDetector:limits.saturated": "8.5",
    }
    assert DifferenceLimits().overrides() == {}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("{good_light: 1.5}", "1.5 is greater than the maximum of 1.0"),
        ("{edge: -1}", "-1 is less than the minimum of 0.0"),
        ("{scores: 5}", "'scores' was unexpected"),
        ("{score: high}", "'high' is not of type 'number'"),
    ],
)
def test_a_wrong_limit_is_named_with_its_line(tmp_path: Path, limits: str, message: str) -> None:
    path = facility_with(tmp_path, limits)
    line = path.read_text().splitlines().index(f"  limits: {limits}") + 1
    with pytest.raises(BadInputError, match=message) as caught:
        read_facility(path)
    assert f"line {line}, key difference.limits" in str(caught.value)


@pytest.mark.parametrize("wrong", [{"score": "5"}, {"score": True}, {"nothing": 1.0}, {"good_light": 2.0}])
def test_wrong_limits_beside_a_configuration_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInputError, match="limit"):
        read_limits(wrong)
