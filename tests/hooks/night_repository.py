"""A repository with nights: raws that need calibrations, and calibrations with metrics, without pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from astropy.table import Table
from astropy.time import Time, TimeDelta
from lsst.daf.butler import Butler, CollectionType, DatasetRef, DatasetType, Timespan

from tololo.facility.nights import night_bounds

from .curated import build_empty

NIGHT = 20190401
R, G = "r DECam SDSS c0002 6415.0 1480.0", "g DECam SDSS c0001 4720.0 1520.0"
DETECTORS = (25, 26, 27)
KINDS = {
    "bias": ("instrument", "detector"),
    "flat": ("instrument", "physical_filter", "detector"),
    "raw": ("instrument", "exposure", "detector"),
}

BIAS = {
    "n_used": 10,
    "read_noise": 7.0,
    "variance_ratio": 1.0,
    "row_rms": 0.2,
    "column_rms": 1.0,
    "defects": 0.0,
}
FLAT = {
    "n_used": 10,
    "counts": 2e4,
    "gain_ratio": 1.0,
    "variance_ratio": 1.0,
    "gradient": 0.1,
    "defects": 0.0,
}


def build(folder: Path, **plan: Any) -> Path:
    """Make the repository, with science raws of NIGHT in r and g, and flats in r."""
    build_empty(folder, **plan)
    with Butler.from_config(str(folder), writeable=True) as butler:
        for name, dimensions in KINDS.items():
            is_calibration = name != "raw"
            kind = DatasetType(
                name,
                dimensions,
                "StructuredDataDict" if is_calibration else "ImageV2",
                universe=butler.dimensions,
                isCalibration=is_calibration,
            )
            butler.registry.registerDatasetType(kind)
            if is_calibration:
                metrics = DatasetType(
                    f"{name}_metrics", dimensions, "ArrowAstropy", universe=butler.dimensions
                )
                butler.registry.registerDatasetType(metrics)
        add_raws(butler, "drp", {101: R, 102: G})
        add_raws(butler, "flat", {103: R})
    return folder


def add_raws(
    butler: Butler,
    user: str,
    exposures: dict[int, str],
    detectors: Iterable[int] = DETECTORS,
    night: int = NIGHT,
) -> None:
    """Tag raws of exposures, by number and filter."""
    begin = Time(night_bounds(night)[0], scale="utc").tai + TimeDelta(12 * 3600, format="sec")
    whole = Timespan(*(Time(time, scale="utc").tai for time in night_bounds(night)))
    insert = butler.registry.insertDimensionData
    insert("day_obs", {"instrument": "DECam", "id": night, "timespan": whole}, skip_existing=True)
    for exposure, glass in exposures.items():
        insert("group", {"instrument": "DECam", "name": str(exposure)}, skip_existing=True)
        record = {
            "instrument": "DECam",
            "id": exposure,
            "day_obs": night,
            "group": str(exposure),
            "obs_id": str(exposure),
            "physical_filter": glass,
            "timespan": Timespan(begin, begin + TimeDelta(30, format="sec")),
        }
        insert("exposure", record, skip_existing=True)
    butler.collections.register("DECam/raw/all")
    tag = f"{night}/{user}/raw"
    butler.collections.register(tag, CollectionType.TAGGED)
    data_ids = [
        {"instrument": "DECam", "exposure": exposure, "detector": detector}
        for exposure in exposures
        for detector in detectors
    ]
    refs = butler.registry.insertDatasets("raw", data_ids, "DECam/raw/all")
    butler.registry.associate(tag, refs)


def make(
    butler: Butler,
    kind: str,
    night: int = NIGHT,
    *,
    hour: int = 0,
    detectors: Iterable[int] = DETECTORS,
    glass: str = R,
    run: str = "",
    **changes: Any,
) -> str:
    """Put calibrations and their metrics into a RUN as a reduction does; changes are to the metrics of B."""
    run = run or f"{night}/{kind}/nightly_decam/{kind}/20260101T{hour:02}0000Z"
    metrics = {"bias": BIAS, "flat": FLAT}[kind]
    butler.collections.register(run)
    rows = [{"amplifier": "A", "problem": ""} | metrics, {"amplifier": "B", "problem": ""} | metrics]
    rows[1] |= changes
    with butler.transaction():
        for detector in detectors:
            data_id: dict[str, Any] = {"instrument": "DECam", "detector": detector}
            data_id |= {"physical_filter": glass} if kind == "flat" else {}
            butler.put({"night": night}, kind, data_id, run=run)
            butler.put(Table(rows=rows), f"{kind}_metrics", data_id, run=run)
    return run


def used(butler: Butler, kind: str, night: int = NIGHT, glass: str = R) -> dict[int, str]:
    """The RUN of what an exposure of a night's middle gets from the night's collection, by detector."""
    middle = Time(night_bounds(night)[0], scale="utc").tai + TimeDelta(13 * 3600, format="sec")
    found = {}
    for detector in DETECTORS:
        extra = {"physical_filter": glass} if kind == "flat" else {}
        ref: DatasetRef | None = butler.find_dataset(
            kind,
            instrument="DECam",
            detector=detector,
            collections=f"{night}/calib/{kind}",
            timespan=Timespan(middle, middle + TimeDelta(1, format="sec")),
            **extra,
        )
        if ref is not None:
            found[detector] = ref.run
    return found
