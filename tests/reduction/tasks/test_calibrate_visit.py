"""A raw of a simulated night through the Butler: calibrations found by validity, and what comes out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from lsst.daf.butler import Butler, CollectionType, DatasetType, Timespan
from lsst.pipe.base import Pipeline
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor
from scipy.spatial import cKDTree

from engine.in_process import attempt
from tololo.facility.configuration import INCLUDE
from tololo.facility.run import RunRequest
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.projection import pixel_to_sky
from tololo.reduction.formats.raw_search import find_raws
from tololo.reduction.formats.refcat import ingest_refcat
from tololo.reduction.ingest_raw import ingest_raws
from tololo.reduction.instrument import DarkEnergyCamera
from tololo.reduction.master import master_image
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth
from tololo.simulation.truth import nanojansky

NIGHT, DETECTOR, SHAPE = 20190305, 28, (768, 768)
PIPELINE = f"{INCLUDE}/pipelines/embedded/nightly_decam.yaml#visit"
CALIBS = f"{NIGHT}/calib"
INPUTS = ["refcats", f"{NIGHT}/drp/raw", CALIBS]
KINDS = {"bias": ("instrument", "detector"), "flat": ("instrument", "physical_filter", "detector")}


@dataclass
class Night:
    repository: Path
    truth: RawTruth
    visit: int


def repository_of(truth: RawTruth, folder: Path) -> Path:
    """Raws and reference stars, and the night's true bias and flat in RUNs, not yet certified."""
    Butler.makeRepo(str(folder))
    with Butler.from_config(str(folder), writeable=True) as butler:
        DarkEnergyCamera().register(butler.registry)
        ingest_raws(butler, find_raws(truth.images).exposures)
        ingest_refcat(butler, truth.reference)
        frames = truth.frames(DETECTOR)
        for name, image in (("bias", frames.bias), ("flat", frames.flats["r"])):
            kind = DatasetType(
                name, KINDS[name], "MaskedImageV2", universe=butler.dimensions, isCalibration=True
            )
            butler.registry.registerDatasetType(kind)
            bits = np.where(frames.defects, BIT["BAD"], 0).astype(np.int32)
            planes = Planes(image.astype(np.float32), np.full(SHAPE, 1e-6, np.float32), bits)
            data_id = {"instrument": "DECam", "detector": DETECTOR}
            if name == "flat":
                data_id["physical_filter"] = "r DECam SDSS c0002 6415.0 1480.0"
            butler.collections.register(f"{CALIBS}/{name}/run")
            butler.put(master_image(planes, u.adu, {}), kind, data_id, run=f"{CALIBS}/{name}/run")
        butler.collections.register(CALIBS, CollectionType.CALIBRATION)
    return folder


def certify(repository: Path, name: str, begin: str, end: str) -> None:
    with Butler.from_config(str(repository), writeable=True) as butler:
        span = Timespan(Time(begin, scale="tai"), Time(end, scale="tai"))
        refs = butler.query_datasets(name, f"{CALIBS}/{name}/run")
        butler.registry.certify(CALIBS, refs, span)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> RawTruth:
    plan = RawPlan(
        nights=(RawNight(NIGHT, zeros=0, flats=0, objects=1, seeing=1.0),),
        detectors=(DETECTOR,),
        shape=SHAPE,
        stars_per_deg2=30000.0,
        galaxies=15,
        transients=0,
        trails=0.0,
    )
    return simulate_raw_nights(tmp_path_factory.mktemp("raws") / "nights", plan, seed=5)


@pytest.fixture(scope="module")
def night(truth: RawTruth, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """The night after its reduction."""
    repository = repository_of(truth, tmp_path_factory.mktemp("visit") / "repository")
    for name in KINDS:
        certify(repository, name, "2019-03-05", "2019-03-07")
    with SimplePipelineExecutor.prep_butler(str(repository), INPUTS, f"{NIGHT}/drp") as butler:
        executor = SimplePipelineExecutor.from_pipeline(Pipeline.from_uri(PIPELINE), butler=butler)
        executor.run(register_dataset_types=True)
    return Night(repository, truth, int(truth.exposures["visit"][0]))


@pytest.fixture(scope="module")
def product(night: Night) -> Iterator[Callable[[str], Any]]:
    """What gets a dataset of the visit."""
    with Butler.from_config(str(night.repository), collections=f"{NIGHT}/drp") as butler:
        data_id = {"instrument": "DECam", "visit": night.visit, "detector": DETECTOR}
        yield lambda name: butler.get(butler.find_dataset(name, data_id))


def test_the_summary_against_the_truth(night: Night, product: Callable[[str], Any]) -> None:
    (row,) = product("detector_summary")
    exposure = night.truth.exposures[0]
    assert row["zero_point"] == pytest.approx(exposure["zero_point"], abs=0.01)
    assert row["astrometric_rms_bright"] * row["pixel_scale"] < 0.02
    psf = night.truth.psf(night.visit, DETECTOR)
    alpha, _, _ = psf.at(np.array([SHAPE[1] / 2]), np.array([SHAPE[0] / 2]), SHAPE)
    fwhm = float(alpha[0]) * 2 * math.sqrt(2 ** (1 / 3) - 1)
    assert row["fwhm_half_maximum"] / row["pixel_scale"] == pytest.approx(fwhm, rel=0.02)
    assert (row["visit"], row["detector"], row["band"], row["day_obs"]) == (night.visit, DETECTOR, "r", NIGHT)
    assert row["bias_run"] == f"{CALIBS}/bias/run"
    assert row["flat_run"] == f"{CALIBS}/flat/run"
    for amplifier in night.truth.amplifiers:
        name = str(amplifier["amplifier"]).lower()
        assert row[f"read_noise_{name}"] == pytest.approx(amplifier["header_read_noise"], rel=0.2)
    begin = Time(exposure["mjd_utc"], format="mjd", scale="utc").tai.mjd
    assert row["mjd_tai"] == pytest.approx(begin + exposure["exptime"] / 2 / 86400, abs=1e-6)


def test_the_stars_against_the_truth(night: Night, product: Callable[[str], Any]) -> None:
    stars = product("single_visit_star")
    true = night.truth.sources(night.visit, DETECTOR)
    bright = stars[(stars["snr"] > 100) & ~stars["flags"]]
    tree = cKDTree(np.column_stack([true["x"], true["y"]]))
    distance, row = tree.query(np.column_stack([bright["x"], bright["y"]]))
    same = distance < 0.5
    assert np.count_nonzero(same) > 20
    scale = float(nanojansky(night.truth.exposures["zero_point"][0]))
    ratio = np.asarray(bright["psfFlux"])[same] / (np.asarray(true["electrons"])[row[same]] * scale)
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)
    assert 1.4826 * np.median(np.abs(ratio - np.median(ratio))) < 0.01
    ra, dec = night.truth.wcs(night.visit, DETECTOR).all_pix2world(true["x"][row], true["y"][row], 0)
    east = 3.6e6 * (bright["ra"] - ra) * np.cos(np.radians(dec))
    assert math.sqrt(np.mean(np.asarray(east)[same] ** 2)) < 20
    assert len(set(stars["sourceId"])) == len(stars)
    assert {"x", "y", "ra", "dec", "psfFlux", "apFlux", "kronFlux", "refId", "blended"} <= set(stars.colnames)


def test_the_image_and_its_wcs_as_others_read_them(night: Night, product: Callable[[str], Any]) -> None:
    image = product("visit_image")
    x, y = np.array([10.0, 700.0, 400.0]), np.array([20.0, 100.0, 760.0])
    ra, dec = pixel_to_sky(image.sky_projection, x, y)
    true_ra, true_dec = night.truth.wcs(night.visit, DETECTOR).all_pix2world(x, y, 0)
    assert np.hypot((ra - true_ra) * np.cos(np.radians(dec)), dec - true_dec).max() * 3.6e6 < 60
    (path,) = night.repository.glob(f"{NIGHT}/drp/*/visit_image/**/*.fits")
    with fits.open(path) as hdus:
        header = hdus["IMAGE"].header
        assert header["CTYPE1"] == "RA---TAN-SIP"
        as_astropy = WCS(header).all_pix2world(x, y, 0)
    np.testing.assert_allclose(as_astropy, (ra, dec), atol=1e-9)
    defects = night.truth.frames(DETECTOR).defects
    assert image.mask.get("BAD")[defects].all()
    events = night.truth.events(night.visit, DETECTOR)
    if len(events.saturated):
        assert image.mask.get("SATURATED")[tuple(events.saturated.T)].all()


def test_a_calibration_that_does_not_hold_for_the_night_is_said_to_be_missing(
    truth: RawTruth, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repository = repository_of(truth, tmp_path / "repository")
    certify(repository, "bias", "2019-03-05", "2019-03-07")
    certify(repository, "flat", "2019-04-05", "2019-04-07")
    request = RunRequest(
        repository=str(repository), pipeline=PIPELINE, parent=f"{NIGHT}/drp", step="visit", inputs=INPUTS
    )
    caplog.set_level(logging.INFO, "lsst")  # as in a job
    outcome = attempt(request, tmp_path / "run")
    assert outcome.labels["calibrateVisit"]["no_data"] == 1
    visit = int(truth.exposures["visit"][0])
    assert outcome.notes[0] == f"calibrateVisit: No flat is valid for visit {visit}, detector {DETECTOR}"
