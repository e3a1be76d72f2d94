from __future__ import annotations

from pathlib import Path

import pytest

from conftest import NIGHT, SPARE
from tololo.facility.errors import BadInputError
from tololo.services.demo_plan import DemoPlan, plan_data
from tololo.simulation.faults import spoil
from tololo.simulation.instcal import simulate_nights
from tololo.simulation.plan import Fault, Plan, PlannedExposure
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.truth import Truth

TWO_BANDS = DemoPlan(
    folder=Path("f"),
    refcat=Path("g"),
    subset="s",
    band_nights={
        "r": ("20190301", "20190305", "20190309"),
        "z": ("20190305", "20190310"),
        "g": ("20190301",),
    },
    science={"r": ("20190309",), "z": ("20190310",)},
    description="",
)


def test_the_newest_night_of_each_band_is_science_and_the_earlier_ones_the_template() -> None:
    assert TWO_BANDS.nights == ["20190301", "20190305", "20190309", "20190310"]
    assert TWO_BANDS.science_nights == ["20190309", "20190310"]
    assert TWO_BANDS.template_nights == ["20190301", "20190305"]
    assert TWO_BANDS.template_where == (
        "(band = 'r' AND visit.day_obs IN (20190301, 20190305)) OR "
        "(band = 'z' AND visit.day_obs IN (20190305))"
    )
    assert TWO_BANDS.science_where == (
        "(band = 'r' AND visit.day_obs IN (20190309)) OR (band = 'z' AND visit.day_obs IN (20190310))"
    )


def test_a_folder_is_planned_by_its_headers(small_nights: Truth) -> None:
    plan = plan_data(small_nights.images, "")
    assert plan.band_nights == {"r": (str(NIGHT), str(SPARE))}
    assert plan.science == {"r": (str(SPARE),)}
    assert plan.refcat == small_nights.reference.parent.resolve()
    assert (plan.subset, plan.truth) == ("exposures", None)


def test_a_band_of_one_night_is_said_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exposures = (PlannedExposure(NIGHT), PlannedExposure(SPARE), PlannedExposure(SPARE, band="z"))
    small = {"detectors": (28,), "shape": (256, 256), "transients": 0, "galaxies": 0}
    truth = simulate_nights(tmp_path / "my data-1", plan=Plan(exposures=exposures, **small))
    plan = plan_data(truth.folder, "")
    assert plan.band_nights == {"r": (str(NIGHT), str(SPARE)), "z": (str(SPARE),)}
    assert plan.science == {"r": (str(SPARE),)}
    assert plan.subset == "my_data_1"
    assert "band z has one night only" in capsys.readouterr().out
    only = tmp_path / "only"
    only.mkdir()
    for path in truth.images.glob("c4d_190310*"):
        (only / path.name).symlink_to(path)
    with pytest.raises(BadInputError, match="no template to subtract") as caught:
        plan_data(only, "")
    assert caught.value.where == str(only)
    for path in truth.images.glob("c4d_190313*"):
        (only / path.name).symlink_to(path)
    with pytest.raises(BadInputError, match="no reference stars"):
        plan_data(only, "")
    with pytest.raises(BadInputError, match="no reference stars"):
        plan_data(truth.folder, str(tmp_path / "nowhere"))


def test_spoilt_files_are_refused(tmp_path: Path) -> None:
    exposures = (PlannedExposure(NIGHT), PlannedExposure(SPARE))
    small = {"detectors": (28,), "shape": (256, 256), "transients": 0, "galaxies": 0}
    truth = simulate_nights(tmp_path / "nights", plan=Plan(exposures=exposures, **small))
    spoil(truth.images, Fault("missing_mask", 1))
    with pytest.raises(BadInputError, match=r"c4d_190313_045923"):
        plan_data(truth.folder, "")


def test_a_folder_of_raws_is_planned_with_all_that_lies_beside(tmp_path: Path) -> None:
    nights = (
        RawNight(20190402, zeros=1, flats=1, objects=1),
        RawNight(20190404, zeros=1, flats=0, objects=1),
    )
    plan = RawPlan(nights=nights, detectors=(28,), shape=(256, 512), transients=0)
    truth = simulate_raw_nights(tmp_path / "raws", plan, seed=2)
    found = plan_data(truth.folder, "")
    assert (found.source, found.proc_type) == ("raw", "drp")
    assert found.science == {"r": ("20190404",)}
    # The night without flats comes second: it borrows those of the first.
    assert found.rounds == [["20190402"], ["20190404"]]
    assert found.refcats == f"gaia_dr2={truth.folder / 'gaia'}, ps1={truth.folder / 'ps1'}"
    assert found.calibrations == str(truth.curated)
    assert len(found.targets.splitlines()) == 5
