"""From raw files to certified calibrations, through the pipeline as a run executes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lsst.daf.butler import Butler, Timespan

from engine.in_process import attempt
from tololo.facility import collections
from tololo.facility.configuration import INCLUDE
from tololo.facility.run import RunOutcome, RunRequest
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap
from tololo.hooks.butler import ButlerHook
from tololo.hooks.night_calibrations import NightCalibrations, certify_night
from tololo.reduction.formats.images import planes_of
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw_search import find_raws
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawFault, RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth

NIGHT, NEXT = 20190401, 20190403
DETECTORS = (25, 35)
SPARE = 36
"""It has flats, and nobody makes its bias."""
DEFECT = np.s_[200:212, 90:100]
"""Of detector 25, on the facility's list."""
R = "r DECam SDSS c0002 6415.0 1480.0"


def request(repository: Path, kind: str, detectors: tuple[int, ...]) -> RunRequest:
    """What nightly_decam asks of bps for a kind of calibration."""
    parent = collections.chain(kind, NIGHT)
    return RunRequest(
        repository=str(repository),
        pipeline=f"{INCLUDE}/pipelines/embedded/nightly_decam.yaml#{kind}",
        parent=parent,
        step=kind,
        inputs=collections.chain_inputs(kind, NIGHT),
        where=f"instrument = 'DECam' AND detector IN {detectors}",
    )


class Night:
    """A night's calibrations, made and certified one after the other."""

    def __init__(self, folder: Path) -> None:
        # Calibrations of the late morning: they are of the night, though their day_obs is the next one.
        plan = RawPlan(
            nights=(
                RawNight(NIGHT, zeros=5, flats=5, objects=1, calibrations="late"),
                RawNight(NEXT, zeros=0, flats=0, objects=1),
            ),
            detectors=(*DETECTORS, SPARE),
            shape=(512, 512),
            stars_per_deg2=3000.0,
            galaxies=0,
            transients=0,
            bad_pixels=20,
            bad_columns=1,
            faults=(RawFault("truncated", NIGHT, 2, "zero"),),
        )
        self.truth: RawTruth = simulate_raw_nights(folder / "raws", plan, seed=5)
        self.repository = folder / "repository"
        y, x = DEFECT
        (self.truth.curated / "defects").mkdir()
        (self.truth.curated / "defects" / "25.ecsv").write_text(
            "x0 y0 width height valid reason\n"
            f"{x.start} {y.start} {x.stop - x.start} {y.stop - y.start} .. known\n"
        )
        bootstrap(
            BootstrapPlan(str(self.repository), calibrations=str(self.truth.curated)),
            ["create", "instrument", "calibrations", "chains"],
        )
        search = find_raws(folder / "raws" / "exposures", processes=1)
        hook = ButlerHook(self.repository)
        hook.ingest_raws(search.exposures)
        self.outcomes: dict[str, RunOutcome] = {}
        self.reports: dict[str, NightCalibrations] = {}
        for kind, detectors in (("bias", DETECTORS), ("flat", (*DETECTORS, SPARE))):
            self.outcomes[kind] = attempt(request(self.repository, kind, detectors), folder / kind)
            with hook.session(writeable=True) as butler:
                for night in (NIGHT, NEXT):
                    report = certify_night(butler, night, kind, threshold=0.6)
                    self.reports[kind if night == NIGHT else f"next {kind}"] = report

    def get(self, kind: str, detector: int) -> Any:
        """Read what is certified for the night."""
        span = Timespan.from_day_obs(NIGHT, offset=43200)
        extra = {"physical_filter": R} if kind == "flat" else {}
        with Butler.from_config(str(self.repository)) as butler:
            return butler.get(
                kind,
                instrument="DECam",
                detector=detector,
                collections=collections.calib(NIGHT, kind),
                timespan=span,
                **extra,
            )

    def metrics(self, kind: str) -> list[dict[str, Any]]:
        rows = []
        with Butler.from_config(str(self.repository)) as butler:
            for ref in sorted(butler.query_datasets(f"{kind}_metrics", self.outcomes[kind].run)):
                table = butler.get(ref)
                rows += [dict(zip(table.colnames, row, strict=True)) for row in table]
        return rows

    def amplifier(self, row: dict[str, Any]) -> Any:
        table = self.truth.amplifiers
        return table[(table["detector"] == row["detector"]) & (table["amplifier"] == row["amplifier"])][0]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return Night(tmp_path_factory.mktemp("master"))


def test_every_quantum_is_done_that_has_a_bias(night: Night) -> None:
    counts = {
        label: (found["done"], found["no_data"])
        for outcome in night.outcomes.values()
        for label, found in outcome.labels.items()
    }
    assert counts == {
        "combineBias": (2, 0),
        "measureFlat": (2, 1),
        "normalizeFlat": (1, 0),
        "combineFlat": (2, 1),
    }


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_bias_is_the_truth_within_its_noise(night: Night, detector: int) -> None:
    planes = planes_of(night.get("bias", detector))
    truth = night.truth.frames(detector)
    good = (planes.bits == 0) & ~truth.defects
    assert good.mean() > 0.9
    pull = ((planes.image - truth.bias) / np.sqrt(planes.variance))[good]
    assert 0.95 < pull.std() < 1.05


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_flat_is_the_truth_within_its_noise(night: Night, detector: int) -> None:
    planes = planes_of(night.get("flat", detector))
    truth = night.truth.frames(detector)
    good = (planes.bits == 0) & ~truth.defects
    assert good.mean() > 0.9
    ratio = float(np.mean(planes.image[good] / truth.flats["r"][good]))
    # The mean is 1 over the two detectors that have a flat, and not over the three of the simulation.
    mean = np.mean([night.truth.frames(number).flats["r"].mean() for number in DETECTORS])
    assert ratio * mean == pytest.approx(1, abs=3e-3)
    pull = (planes.image / ratio - truth.flats["r"])[good] / np.sqrt(planes.variance[good])
    assert 0.95 < pull.std() < 1.05
    defects = truth.defects & (truth.flats["r"] > 0)
    listed = np.zeros(defects.shape, bool)
    listed[DEFECT] = detector == 25
    found = ((planes.bits | planes_of(night.get("bias", detector)).bits) & BIT["BAD"]) != 0
    assert found[defects].mean() > 0.9
    assert (found & ~truth.defects & ~listed).mean() < 1e-3
    for kind in ("bias", "flat"):
        assert ((planes_of(night.get(kind, detector)).bits & BIT["BAD"]) != 0)[listed].all()


def test_metrics_are_the_truth(night: Night) -> None:
    for row in night.metrics("flat"):
        assert row["gain"] == pytest.approx(night.amplifier(row)["gain"], rel=0.02)
        assert 0.95 < row["variance_ratio"] < 1.05
        assert row["n_used"] == 5
    for row in night.metrics("bias"):
        true = night.amplifier(row)
        noise = np.hypot(true["read_noise"], true["gain"] / 12**0.5) * true["header_gain"] / true["gain"]
        assert row["read_noise"] == pytest.approx(noise, rel=0.03)


def test_images_say_where_they_come_from(night: Night) -> None:
    bias, flat = night.get("bias", 25), night.get("flat", 25)
    biases = night.truth.calibrations[night.truth.calibrations["obstype"] == "zero"]
    used = [int(row["visit"]) for row in biases if row["fault"] == "none"]
    assert set(map(int, str(bias.metadata["INPUTS"]).split(","))) >= set(used)
    assert flat.metadata["BIASRUN"] == night.outcomes["bias"].run
    assert flat.metadata["NDETECT"] == 2
    assert str(bias.image.unit) == "adu"


def test_the_night_uses_its_own_and_the_next_one_borrows(night: Night) -> None:
    for kind in ("bias", "flat"):
        assert (night.reports[kind].certified, night.reports[kind].borrowed) == (2, [])
        assert [f"detector {SPARE}" in missing for missing in night.reports[kind].missing] == [True]
        (use,) = night.reports[f"next {kind}"].borrowed
        assert (use["night"], use["age"], use["detectors"]) == (NIGHT, -2, list(DETECTORS))
