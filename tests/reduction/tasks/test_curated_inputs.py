"""Visits through a real graph: crosstalk between CCDs, known defects, and a CCD that lacks its flat."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from lsst.daf.butler import Butler, CollectionType, DatasetType
from numpy.typing import NDArray

from engine.in_process import attempt
from tololo.facility import collections
from tololo.facility.configuration import INCLUDE
from tololo.facility.run import RunOutcome, RunRequest
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap
from tololo.hooks.butler import ButlerHook
from tololo.hooks.curated_calibrations import CURATED
from tololo.hooks.validity import parse_validity
from tololo.reduction.formats.images import Planes, planes_of
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw import RawDetector, read_raw
from tololo.reduction.formats.raw_search import find_raws
from tololo.reduction.master import master_image
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth

NIGHT, SHAPE = 20190305, (640, 640)
WITHOUT_FLAT, WITHOUT_BIAS, DEAD = 29, 31, 27
DETECTORS = (DEAD, 28, WITHOUT_FLAT, 30, WITHOUT_BIAS)
MASTERS = "masters"
R = "r DECam SDSS c0002 6415.0 1480.0"
BOX = np.s_[100:150, 20:60]
HEADER = "x0 y0 width height valid reason\n"


@dataclass
class Night:
    repository: Path
    truth: RawTruth
    visit: int
    outcome: RunOutcome

    def get(self, name: str, detector: int) -> Any:
        with Butler.from_config(str(self.repository), collections=self.outcome.run) as butler:
            return butler.get(name, instrument="DECam", visit=self.visit, detector=detector)

    def raw(self, detector: int) -> RawDetector:
        (row,) = self.truth.exposures
        return read_raw(self.truth.images / row["image"], detector)


def put_masters(butler: Butler, truth: RawTruth) -> None:
    """The true bias and flat of the CCDs that have one, valid for ever."""
    for kind, dimensions in (
        ("bias", ("instrument", "detector")),
        ("flat", ("instrument", "detector", "physical_filter")),
    ):
        dataset_type = DatasetType(
            kind, dimensions, "MaskedImageV2", universe=butler.dimensions, isCalibration=True
        )
        butler.registry.registerDatasetType(dataset_type)
        butler.collections.register(f"{MASTERS}/{kind}")
        refs = []
        for detector in set(DETECTORS) - {WITHOUT_FLAT if kind == "flat" else WITHOUT_BIAS}:
            frames = truth.frames(detector)
            image = frames.bias if kind == "bias" else frames.flats["r"]
            bits = np.where(frames.defects, BIT["BAD"], 0).astype(np.int32)
            planes = Planes(image.astype(np.float32), np.full(SHAPE, 1e-6, np.float32), bits)
            data_id = {"instrument": "DECam", "detector": detector}
            data_id |= {"physical_filter": R} if kind == "flat" else {}
            run = f"{MASTERS}/{kind}"
            refs.append(butler.put(master_image(planes, u.adu, {}), dataset_type, data_id, run=run))
        butler.collections.register(MASTERS, CollectionType.CALIBRATION)
        butler.registry.certify(MASTERS, refs, parse_validity(".."))


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    folder = tmp_path_factory.mktemp("curated")
    plan = RawPlan(
        nights=(RawNight(NIGHT, zeros=0, flats=0, objects=1, seeing=1.0),),
        detectors=DETECTORS,
        shape=SHAPE,
        stars_per_deg2=30000.0,
        galaxies=0,
        transients=0,
        trails=0.0,
        neighbour_crosstalk=1e-3,
    )
    truth = simulate_raw_nights(folder / "raws", plan, seed=6)
    (truth.curated / "defects").mkdir()
    y, x = BOX
    (truth.curated / "defects" / "28.ecsv").write_text(
        HEADER + f"{x.start} {y.start} {x.stop - x.start} {y.stop - y.start} .. glue\n"
    )
    (truth.curated / "defects" / f"{DEAD}.ecsv").write_text(HEADER + '0 0 2048 4096 .. "shot in 2012"\n')
    repository = folder / "repository"
    plan_of = BootstrapPlan(
        str(repository), calibrations=str(truth.curated), refcats={"gaia_dr2": str(truth.reference)}
    )
    bootstrap(plan_of)
    hook = ButlerHook(repository)
    hook.ingest_raws(find_raws(truth.images).exposures)
    with hook.session(writeable=True) as butler:
        put_masters(butler, truth)
    request = RunRequest(
        repository=str(repository),
        pipeline=f"{INCLUDE}/pipelines/embedded/nightly_decam.yaml#visit",
        parent=f"{NIGHT}/drp",
        step="visit",
        inputs=[MASTERS, CURATED, collections.REFCATS, f"{NIGHT}/drp/raw"],
    )
    logger = logging.getLogger("lsst")
    before = logger.level
    logger.setLevel(logging.INFO)  # as in a job
    outcome = attempt(request, folder / "run")
    logger.setLevel(before)
    return Night(repository, truth, int(truth.exposures["visit"][0]), outcome)


def test_what_a_detector_lacks_stops_none_but_it_and_is_named(night: Night) -> None:
    counts = night.outcome.labels["calibrateVisit"]
    assert (counts["expected"], counts["done"], counts["no_data"]) == (5, 2, 3)
    notes = "; ".join(night.outcome.notes)
    assert f"No flat is valid for visit {night.visit}, detector {WITHOUT_FLAT}" in notes
    assert f"No bias is valid for visit {night.visit}, detector {WITHOUT_BIAS}" in notes
    assert f"visit {night.visit}, detector {DEAD} are defects: shot in 2012" in notes
    assert night.outcome.labels["summarizeVisit"]["done"] == 1


def test_known_defects_are_bad(night: Night) -> None:
    for detector, there in ((28, True), (30, False)):
        bad = (planes_of(night.get("visit_image", detector)).bits & BIT["BAD"]) != 0
        assert bad[BOX].mean() > 0.99 if there else bad[BOX].mean() < 0.1
        (row,) = night.get("detector_summary", detector)
        assert bool(row["defects_run"]) == there
        assert row["crosstalk_run"].startswith(f"{CURATED}/")


def ghosts_on(night: Night, victim: int) -> NDArray[np.float64]:
    """What science pixels are expected to get of other CCDs, ADU, from the raws and the truth."""
    own = night.raw(victim)
    parts = {a.name: a for a in own.amplifiers}
    total = np.zeros(own.shape)
    for row in night.truth.crosstalk:
        source = int(str(row["source"])[:-1])
        if str(row["victim"])[:-1] != str(victim) or source == victim:
            continue
        raw = night.raw(source)
        (amplifier,) = [a for a in raw.amplifiers if a.name == str(row["source"])[-1]]
        target = parts[str(row["victim"])[-1]].target
        level = np.median(raw.pixels[amplifier.overscan], axis=1)[:, None]
        signal = raw.pixels[amplifier.data] - level
        total[target] += row["share"] * (signal if amplifier.target == target else signal[:, ::-1])
    return total


@pytest.mark.parametrize("detector", [28, 30])
def test_no_ghosts_of_other_ccds_are_left(night: Night, detector: int) -> None:
    planes = planes_of(night.get("visit_image", detector))
    ghosts = ghosts_on(night, detector)
    places = (np.abs(ghosts) > 15) & ~planes.bad & ((planes.bits & BIT["DETECTED"]) == 0)
    assert places.sum() > 30
    raw = night.raw(detector)
    per_adu = sum(a.gain for a in raw.amplifiers) / 2 / night.truth.frames(detector).flats["r"]
    (row,) = night.get("detector_summary", detector)
    electron = 10 ** (-0.4 * (row["zero_point"] - 31.4)) * row["aperture_correction"]
    expected = (ghosts * per_adu * electron)[places]
    # How much of the expected ghosts is still in the image: its brightness at their places, ghost by ghost.
    left = (planes.image[places] - np.median(planes.image[~planes.bad])) / expected
    assert abs(np.median(left)) < 0.25
    assert np.median(np.abs(expected) / np.sqrt(planes.variance[places])) > 1.5


def said(night: Night, folder: Path, parent: str, where: str) -> str:
    """Run some detectors, and return what the log of detector 28 says; empty if it did not run."""
    request = RunRequest(
        repository=str(night.repository),
        pipeline=f"{INCLUDE}/pipelines/embedded/nightly_decam.yaml#visit",
        parent=parent,
        step="visit",
        inputs=[MASTERS, CURATED, collections.REFCATS, f"{NIGHT}/drp/raw"],
        where=f"instrument = 'DECam' AND {where}",
    )
    outcome = attempt(request, folder)
    data_id = {"instrument": "DECam", "visit": night.visit, "detector": 28}
    with Butler.from_config(str(night.repository)) as butler:
        log = butler.find_dataset("calibrateVisit_log", data_id, collections=outcome.run)
        return "" if log is None else " ".join(record.message for record in butler.get(log))


def test_a_run_without_the_neighbours_says_what_it_cannot_take_out(night: Night, tmp_path: Path) -> None:
    log = said(night, tmp_path / "run", "alone/drp", "detector = 28")
    assert "what it got of detectors 27, 29 stays in it" in log


def test_neighbours_of_an_earlier_attempt_are_seen(night: Night, tmp_path: Path) -> None:
    assert said(night, tmp_path / "run", "again/drp", "detector = 27") == ""
    log = said(night, tmp_path / "run", "again/drp", "detector IN (27, 28, 29)")
    assert log
    assert "stays in it" not in log
