from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tololo.facility.configuration import INCLUDE, read_facility
from tololo.facility.errors import BadInputError
from tololo.facility.scorecard import (
    MEASURES,
    Bound,
    Limits,
    best_of_night,
    judge,
    misordered,
    read_limits,
    transparency,
)

GOOD: dict[str, Any] = {
    "band": "r",
    "seeing": 1.0,
    "ellipticity": 0.05,
    "transparency": 0.95,
    "zero_point_scatter": 0.01,
    "depth": 23.5,
    "astrometric_rms": 12.0,
    "stars": 80,
    "calibration_age": 0.0,
    "detectors": 62,
    "detectors_expected": 62,
}
SHIPPED = (INCLUDE / "configs" / "facility.yaml").read_text()


def facility_with(folder: Path, lines: str) -> Path:
    """The shipped configuration with another scorecard; its first line is the last but those of the text."""
    before, _, rest = SHIPPED.partition("\nscorecard:\n")
    after = rest.partition("\n\n")[2]
    path = folder / "facility.yaml"
    path.write_text(f"{before}\n{after}\nscorecard:\n{lines}")
    return path


def test_a_good_visit_is_accepted() -> None:
    assert judge(GOOD) == judge(GOOD, Limits())
    assert (judge(GOOD).verdict, judge(GOOD).reasons) == ("accepted", ())


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ({"seeing": 2.3}, "flagged", "The seeing is 2.3 arcsec, above 2 arcsec."),
        ({"seeing": 3.6}, "rejected", "The seeing is 3.6 arcsec, above 3.5 arcsec."),
        ({"ellipticity": 0.25}, "flagged", "The ellipticity is 0.25, above 0.2."),
        ({"transparency": 0.4}, "flagged", "The transparency is 0.4, below 0.65."),
        ({"transparency": 0.2}, "rejected", "The transparency is 0.2, below 0.3."),
        ({"zero_point_scatter": 0.4}, "rejected", "The scatter of the zero point is 0.4 mag, above 0.3 mag."),
        ({"astrometric_rms": 150.0}, "flagged", "The astrometric rms is 150 mas, above 100 mas."),
        ({"stars": 1}, "flagged", "The number of stars of the zero point is 1, below 2."),
        ({"calibration_age": 9.0}, "flagged", "The age of the calibrations is 9 days, above 7 days."),
        ({"detectors": 50}, "flagged", "50 of 62 detectors were calibrated, less than 90%."),
        ({"detectors": 20}, "rejected", "20 of 62 detectors were calibrated, less than 50%."),
        ({"seeing": math.nan}, "flagged", "The seeing is not known."),
    ],
)
def test_what_is_beyond_a_limit_is_said_with_value_and_limit(
    change: dict[str, Any], verdict: str, reason: str
) -> None:
    judged = judge(GOOD | change)
    assert (judged.verdict, judged.reasons) == (verdict, (reason,))


def test_the_worst_decides_and_all_is_said() -> None:
    judged = judge(GOOD | {"seeing": 2.3, "transparency": 0.1})
    assert judged.verdict == "rejected"
    assert len(judged.reasons) == 2


def test_without_a_detector_nothing_else_counts() -> None:
    unknown = dict.fromkeys(("seeing", "ellipticity", "transparency", "depth", "astrometric_rms"), math.nan)
    judged = judge(GOOD | unknown | {"detectors": 0, "stars": 0, "failures": "no stars, detectors 1-62"})
    assert judged.verdict == "rejected"
    assert judged.reasons == ("0 of 62 detectors were calibrated: no stars, detectors 1-62.",)


def test_what_may_be_unknown_is_not_judged() -> None:
    nothing = {"transparency": math.nan, "calibration_age": math.nan, "depth": math.nan}
    assert judge(GOOD | nothing).verdict == "accepted"
    asked = read_limits({"depth": {"r": {"flag": 23.0}}})
    assert judge(GOOD | nothing, asked).reasons == ("The depth is not known.",)


def test_depth_is_judged_in_its_band() -> None:
    limits = read_limits({"depth": {"r": {"flag": 24.0, "reject": 22.0}}})
    assert judge(GOOD, limits).reasons == ("The depth is 23.5 mag, below 24 mag.",)
    assert judge(GOOD | {"band": "g"}, limits).verdict == "accepted"


def test_a_limit_can_be_lifted() -> None:
    limits = read_limits({"seeing": None, "detectors": {"reject": 0.1}})
    assert judge(GOOD | {"seeing": 9.0, "detectors": 31}, limits).verdict == "accepted"
    assert limits.bounds["seeing"] == Bound()
    assert limits.bounds["ellipticity"] == MEASURES["ellipticity"].bound


def test_transparency_of_a_known_sky() -> None:
    limits = Limits()
    clear = limits.clear_zero_point("r", "drp")
    assert clear == 26.82
    assert transparency(26.82, "r", 1.0, clear, limits) == pytest.approx(1.0)
    assert transparency(26.82 - 1, "r", 1.0, clear, limits) == pytest.approx(0.398, abs=0.001)
    # Air that is always there is no cloud.
    assert transparency(26.82 - 0.1, "r", 2.0, clear, limits) == pytest.approx(1.0)
    assert transparency(26.82, "r", math.nan, clear, limits) == pytest.approx(1.0)
    # An ADU is several electrons, so its magnitude is brighter by these.
    of_adu = limits.clear_zero_point("r", "instcal")
    assert of_adu == pytest.approx(26.82 - 2.5 * math.log10(4.0))
    assert limits.clear_zero_point("r", "instcal_injected") == of_adu
    assert limits.clear_zero_point("N964", "drp") is None
    assert math.isnan(transparency(25.0, "N964", 1.0, None, limits))


def test_the_best_of_a_night_needs_enough_visits() -> None:
    assert best_of_night([25.0, 24.1, 25.1]) == 25.1
    assert best_of_night([25.0, math.nan, 25.1]) is None
    assert best_of_night([]) is None


def test_the_configuration_changes_what_it_names(tmp_path: Path) -> None:
    path = facility_with(
        tmp_path, "  seeing: {flag: 1.5}\n  clear: {r: 26.7, N964: 24.0}\n  depth: {g: {reject: 22}}\n"
    )
    limits = read_facility(path).scorecard
    assert limits.bounds["seeing"] == Bound(1.5, None)
    assert (limits.clear["r"], limits.clear["N964"], limits.clear["g"]) == (26.7, 24.0, 26.61)
    assert limits.depth == {"g": Bound(None, 22)}
    assert limits.bounds["stars"] == MEASURES["stars"].bound


@pytest.mark.parametrize(
    ("lines", "key", "line", "says"),
    [
        ("  seing: {flag: 2}\n", "scorecard.seing", 1, "'seing' was unexpected"),
        ("  seeing: {flag: 2, rejct: 3}\n", "scorecard.seeing.rejct", 1, "'rejct' was unexpected"),
        ("  stars:\n    flag: many\n", "scorecard.stars.flag", 2, "'many' is not of type"),
        ("  seeing: 2.0\n", "scorecard.seeing", 1, "2.0 is not of type"),
        ("  gain: 4\n  seeing: {flag: 3, reject: 2}\n", "scorecard.seeing", 2, "flag (3) has to be less"),
        ("  transparency: {flag: 0.2, reject: 0.5}\n", "scorecard.transparency", 1, "has to be more"),
        ("  depth:\n    r: {flag: 22, reject: 23}\n", "scorecard.depth.r", 2, "has to be more"),
        ("  clear: {r: bright}\n", "scorecard.clear.r", 1, "'bright' is not of type"),
        ("  gain: 0\n", "scorecard.gain", 1, "less than or equal"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, lines: str, key: str, line: int, says: str
) -> None:
    path = facility_with(tmp_path, lines)
    first = path.read_text().splitlines().index("scorecard:") + 1
    with pytest.raises(BadInputError) as caught:
        read_facility(path)
    assert says in caught.value.what
    assert caught.value.where == f"{path}, line {first + line}, key {key}"


def test_what_is_shipped_is_in_order() -> None:
    bounds = {name: {"flag": m.bound.flag, "reject": m.bound.reject} for name, m in MEASURES.items()}
    assert misordered({name: bound for name, bound in bounds.items() if name != "depth"}) is None
