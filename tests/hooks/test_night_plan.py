from __future__ import annotations

from pathlib import Path

import pytest

from tololo.hooks.night_plan import NightPlan, plan_night
from tololo.reduction.formats.raw_search import find_raws
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawFault, RawNight, RawPlan

NIGHT, DETECTORS = 20190402, (28, 35)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three biases, two flats in g only, two science exposures in each of g and r, one without a CCD."""
    nights = (RawNight(NIGHT, zeros=3, flats=2, objects=2, bands=("g", "r")),)
    faults = (RawFault("missing_detector", NIGHT, 1, detector=35),)
    plan = RawPlan(nights=nights, detectors=DETECTORS, shape=(256, 512), transients=0, faults=faults)
    truth = simulate_raw_nights(tmp_path_factory.mktemp("raw") / "nights", plan, seed=2)
    for row in truth.calibrations:
        if row["obstype"] == "dome flat" and row["band"] == "r":
            (truth.images / row["image"]).unlink()
    return Path(truth.folder)


def planned(folder: Path, *proc_types: str, **limits: tuple[int | str, ...]) -> NightPlan:
    return plan_night(find_raws(folder).exposures, proc_types or ("bias", "flat", "drp"), **limits)


def test_what_raws_call_for_and_what_they_lack(folder: Path) -> None:
    plan = planned(folder)
    assert plan.exposures == {"dome flat g": 2, "science g": 2, "science r": 2, "zero": 3}
    assert plan.quanta == {
        "combineBias": 2,
        "measureFlat": 2,
        "combineFlat": 2,
        "normalizeFlat": 1,
        "calibrateVisit": 7,
        "summarizeVisit": 4,
    }
    assert plan.missing == ["flats in r of detectors 28, 35", "detectors in 1 of 4 science exposures"]
    assert "missing: flats in r of detectors 28, 35" in plan.lines()


def test_only_what_is_asked_for_counts(folder: Path) -> None:
    assert planned(folder, "bias").quanta == {"combineBias": 2}
    plan = planned(folder, detectors=(28,), filters=("g",))
    assert (plan.quanta["calibrateVisit"], plan.quanta["combineFlat"], plan.missing) == (2, 1, [])
