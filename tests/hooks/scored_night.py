"""A small night of raws, calibrated in this process: one exposure is clouded, one lacks a CCD."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.time import Time
from lsst.daf.butler import Butler, CollectionType, DatasetType, Timespan
from lsst.pipe.base import Pipeline
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor

from tololo.facility import collections
from tololo.facility.configuration import INCLUDE
from tololo.hooks.butler import ButlerHook
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw_search import find_raws
from tololo.reduction.formats.refcat import ingest_refcat
from tololo.reduction.instrument import DarkEnergyCamera
from tololo.reduction.master import master_image
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawFault, RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth

NIGHT, BEFORE = 20190305, 20190303
"""The night, and that of the flats that it borrows."""

DETECTORS, SHAPE = (28, 35), (512, 512)
CLOUDED, INCOMPLETE = 1, 2
"""Which of its three exposures."""

PIPELINE = f"{INCLUDE}/pipelines/embedded/nightly_decam.yaml#visit"
FILTER = "r DECam SDSS c0002 6415.0 1480.0"
MADE = {
    "bias": (("instrument", "detector"), f"{NIGHT}/bias/nightly_decam/bias/20260101T000000Z"),
    "flat": (
        ("instrument", "physical_filter", "detector"),
        f"{BEFORE}/flat/nightly_decam/flat/20260101T000000Z",
    ),
}


def simulate(folder: Path) -> RawTruth:
    plan = RawPlan(
        nights=(RawNight(NIGHT, zeros=0, flats=0, objects=3, seeing=1.0),),
        detectors=DETECTORS,
        shape=SHAPE,
        stars_per_deg2=60000.0,
        galaxies=5,
        transients=0,
        trails=0.0,
        faults=(
            RawFault("clouded", NIGHT, CLOUDED),
            RawFault("missing_detector", NIGHT, INCOMPLETE, detector=35),
        ),
    )
    return simulate_raw_nights(folder, plan, seed=5)


def build(truth: RawTruth, folder: Path) -> Path:
    """Ingest the night, certify its true bias and flat, and calibrate what there is."""
    Butler.makeRepo(str(folder))
    with Butler.from_config(str(folder), writeable=True) as butler:
        DarkEnergyCamera().register(butler.registry)
        ingest_refcat(butler, truth.reference)
        for kind in MADE:
            _certify(butler, truth, kind)
    ButlerHook(folder).ingest_raws(find_raws(truth.images).exposures)
    inputs = ["refcats", f"{NIGHT}/drp/raw", *(collections.calib(NIGHT, kind) for kind in MADE)]
    run = f"{NIGHT}/drp/nightly_decam/visit/20260102T000000Z"
    with SimplePipelineExecutor.prep_butler(str(folder), inputs, "made", run) as butler:
        executor = SimplePipelineExecutor.from_pipeline(Pipeline.from_uri(PIPELINE), butler=butler)
        executor.run(register_dataset_types=True)
    ButlerHook(folder).write_chain(f"{NIGHT}/drp", [run])
    return folder


def _certify(butler: Butler, truth: RawTruth, name: str) -> None:
    dimensions, run = MADE[name]
    kind = DatasetType(name, dimensions, "MaskedImageV2", universe=butler.dimensions, isCalibration=True)
    butler.registry.registerDatasetType(kind)
    butler.collections.register(run)
    refs = []
    for detector in DETECTORS:
        frames = truth.frames(detector)
        image = frames.bias if name == "bias" else frames.flats["r"]
        bits = np.where(frames.defects, BIT["BAD"], 0).astype(np.int32)
        planes = Planes(image.astype(np.float32), np.full(SHAPE, 1e-6, np.float32), bits)
        data_id = {"instrument": "DECam", "detector": detector}
        data_id |= {"physical_filter": FILTER} if name == "flat" else {}
        refs.append(butler.put(master_image(planes, u.adu, {}), kind, data_id, run=run))
    butler.collections.register(collections.calib(NIGHT, name), CollectionType.CALIBRATION)
    span = Timespan(Time("2019-03-05T12:00:00", scale="tai"), Time("2019-03-06T16:00:00", scale="tai"))
    butler.registry.certify(collections.calib(NIGHT, name), refs, span)
