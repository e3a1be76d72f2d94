"""Datasets that a repository is known to hold, without files: what the questions of sensors are about."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lsst.daf.butler import Butler, CollectionType, DatasetRef, DatasetType, Timespan

from conftest import DETECTOR, NIGHT
from tololo.facility.collections import RAW_RUN, calib
from tololo.facility.nights import night_bounds

R, G = "r DECam SDSS c0002 6415.0 1480.0", "g DECam SDSS c0001 4720.0 1520.0"
G_EXPOSURE = 840901
KINDS = {
    "raw": ("instrument", "exposure", "detector"),
    "bias": ("instrument", "detector"),
    "flat": ("instrument", "detector", "physical_filter"),
    "template_coadd": ("skymap", "tract", "patch", "band"),
    "visit_image": ("instrument", "visit", "detector"),
}
CALIBRATIONS = ("bias", "flat")


def add(repository: Path, kind: str, run: str, data_ids: Iterable[dict[str, Any]]) -> list[DatasetRef]:
    """Register datasets in a RUN."""
    with Butler.from_config(str(repository), writeable=True) as butler:
        if not list(butler.registry.queryDatasetTypes(kind)):
            dataset_type = DatasetType(
                kind,
                KINDS[kind],
                "StructuredDataDict",
                universe=butler.dimensions,
                isCalibration=kind in CALIBRATIONS,
            )
            butler.registry.registerDatasetType(dataset_type)
        butler.collections.register(run)
        return butler.registry.insertDatasets(kind, list(data_ids), run)


def add_raws(repository: Path, detectors: Iterable[int], exposures: Iterable[int]) -> None:
    """Register raws of some detectors."""
    data_ids = [
        {"instrument": "DECam", "exposure": exposure, "detector": detector}
        for exposure in exposures
        for detector in detectors
    ]
    add(repository, "raw", RAW_RUN, data_ids)


def add_visit_images(repository: Path, visits: Iterable[int], detector: int = DETECTOR) -> str:
    """Register visit images of NIGHT, and put their RUN in front of the night's chain."""
    chain, run = f"{NIGHT}/instcal", f"{NIGHT}/instcal/nightly_decam/instcal/20190310T120000Z"
    add(
        repository,
        "visit_image",
        run,
        [{"instrument": "DECam", "visit": visit, "detector": detector} for visit in visits],
    )
    with Butler.from_config(str(repository), writeable=True) as butler:
        butler.collections.prepend_chain(chain, run)
    return chain


def add_g_exposure(repository: Path) -> None:
    """Write the record of one more exposure of NIGHT, in g."""
    with Butler.from_config(str(repository), writeable=True) as butler:
        known = butler.query_dimension_records(
            "exposure", where=f"instrument = 'DECam' AND day_obs = {NIGHT}"
        )
        other = {"id": G_EXPOSURE, "physical_filter": G, "obs_id": "in g", "seq_num": G_EXPOSURE}
        butler.registry.insertDimensionData("exposure", known[0].toDict() | other)


def certify(
    repository: Path,
    kind: str,
    detectors: Iterable[int],
    *,
    glass: str | None = None,
    first: int = NIGHT,
    last: int = NIGHT,
    collection: str = "",
) -> str:
    """Certify calibrations of some detectors from the begin of a night to the end of another."""
    from astropy.time import Time

    extra = {"physical_filter": glass} if glass else {}
    name = collection or calib(NIGHT, kind)
    run = f"{name}/made/{first}_{last}_{(glass or 'x')[0]}_{'_'.join(map(str, detectors))}"
    refs = add(repository, kind, run, [{"instrument": "DECam", "detector": d, **extra} for d in detectors])
    begin, end = night_bounds(first)[0], night_bounds(last)[1]
    with Butler.from_config(str(repository), writeable=True) as butler:
        butler.collections.register(name, CollectionType.CALIBRATION)
        butler.registry.certify(name, refs, Timespan(Time(begin, scale="utc"), Time(end, scale="utc")))
    return name
