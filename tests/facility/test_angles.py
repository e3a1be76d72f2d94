from __future__ import annotations

import pytest

from tololo.facility.angles import degrees


@pytest.mark.parametrize(
    ("text", "hours", "value"),
    [
        ("17:30:25.5", True, 262.60625),
        ("17h30m25.5s", True, 262.60625),
        ("17 30 25.5", True, 262.60625),
        ("262.60625", True, 262.60625),
        ("00:00:00", True, 0.0),
        ("-25:30:30.5", False, -25.508472),
        ("-00:00:30", False, -0.0083333),
        ("+12d30m00s", False, 12.5),
        ("-25.5", False, -25.5),
    ],
)
def test_an_angle(text: str, hours: bool, value: float) -> None:
    assert degrees(text, hours=hours) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "hours", "says"),
    [
        ("24:00:00", True, "0 and 24 hours"),
        ("-1:00:00", True, "0 and 24 hours"),
        ("360.0", True, "0 and 24 hours"),
        ("-90:00:01", False, "-90 and 90"),
        ("12:60:00", True, "59 minutes"),
        ("12:00:60.0", True, "59 minutes"),
        ("", True, "no angle"),
        ("noon", False, "-25:30:30.5"),
        ("nan", False, "-90 and 90"),
    ],
)
def test_what_is_no_angle(text: str, hours: bool, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        degrees(text, hours=hours)
