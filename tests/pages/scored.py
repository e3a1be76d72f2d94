"""Scorecards of nights in a repository, made by the real rules from numbers that a test or a look wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from astropy.table import Table
from astropy.time import Time
from lsst.daf.butler import Butler, CollectionType, DatasetType, Timespan

from hooks.curated import build_empty
from tololo.facility.nights import MJD_EPOCH, night_bounds, shift
from tololo.hooks.scorecard import DATASETS, DIMENSIONS
from tololo.reduction.scorecard import Visit, score, summarise

NIGHT, CLOUDED = 20190401, 20190402
R = "r DECam SDSS c0002 6415.0 1480.0"
DETECTORS = range(1, 63)
FAILURE = "ValueError: no <b>stars</b> & nothing else"


def build(folder: Path, *nights: int) -> Path:
    """Make a repository with scored nights: of each the second visit is flagged and the third rejected."""
    build_empty(folder)
    with Butler.from_config(str(folder), writeable=True) as butler:
        for night in nights:
            add(butler, night)
    return folder


def add(
    butler: Butler,
    night: int,
    proc_type: str = "drp",
    hour: int = 0,
    bands: str = "grgr",
    draw: Any = None,
    **changes: Any,
) -> str:
    """Put the scorecard of a night in front of its chain; return the RUN that it is in."""
    for name, storage in DATASETS.items():
        kind = DatasetType(name, DIMENSIONS, storage, universe=butler.dimensions)
        butler.registry.registerDatasetType(kind)
    times = (Time(time, scale="utc").tai for time in night_bounds(night))
    record = {"instrument": "DECam", "id": night, "timespan": Timespan(*times)}
    butler.registry.insertDimensionData("day_obs", record, skip_existing=True)
    run, chain = f"{night}/{proc_type}/scorecard/20260101T{hour:02}0000Z", f"{night}/{proc_type}"
    butler.collections.register(run)
    scored = score([visit(night, number, band) for number, band in enumerate(bands)], proc_type)
    summary = rest(night, proc_type, scored.table) | summarise(scored) | changes
    products = {
        "night_scorecard": scored.table,
        "night_summary": summary,
        "night_plot": (draw or plot)(scored.table, summary),
    }
    for name, product in products.items():
        butler.put(product, name, instrument="DECam", day_obs=night, run=run)
    butler.collections.register(chain, CollectionType.CHAINED)
    butler.collections.prepend_chain(chain, run)
    return run


def visit(night: int, number: int, band: str) -> tuple[Visit, Table | None]:
    """A visit and what was measured in its detectors; the second is clouded, the third lost."""
    begin = (night_bounds(night)[0] - MJD_EPOCH).total_seconds() / 86400
    lost = number == 2
    asked = Visit(
        visit=840000 + 100 * (night % 100) + number,
        band=band,
        exposure_time=90.0,
        mjd=begin + 0.5 + number / 500,
        airmass=1.1 + 0.02 * number,
        expected=len(DETECTORS),
        calibration_age=2.0,
        failures=f"{FAILURE} (62 detectors)" if lost else "",
    )
    row = {
        "fwhm": 0.9 + 0.03 * (number % 7),
        "ellipticity": 0.04,
        "sky": 612.4,
        "zero_point": {"g": 31.47, "r": 31.69, "i": 31.63}.get(band, 31.35) - (0.9 if number == 1 else 0.0),
        "zero_point_scatter": 0.013,
        "limiting_magnitude": 24.31 - (0.6 if number == 1 else 0.0),
        "n_zero_point": 214,
        "astrometric_rms": 0.065,
        "pixel_scale": 0.2637,
    }
    there = [detector for detector in DETECTORS if (number, detector) != (1, 31)]
    return asked, None if lost else Table(rows=[row | {"detector": detector} for detector in there])


def rest(night: int, proc_type: str, table: Table) -> dict[str, Any]:
    """What the summary of a night tells that does not follow from its visits."""
    expected, done = int(table["detectors_expected"].sum()), int(table["detectors"].sum())
    lost = table["visit"][table["detectors"] == 0].tolist()
    complete = len(table) - len(lost)
    flat = {
        "kind": "flat",
        "physical_filter": R,
        "night": shift(night, -2),
        "age": -2,
        "reason": "counts of amplifier A is 812, below 1000",
        "detectors": [25, 28, 29, 30],
    }
    bias = {
        "kind": "bias",
        "physical_filter": "",
        "night": night,
        "age": 0,
        "reason": "",
        "detectors": list(DETECTORS),
    }
    failure = {
        "reason": FAILURE,
        "label": "calibrateVisit",
        "count": 63,
        "visits": lost,
        "example": "Only 2 reference stars were found; 8 are needed for the astrometric fit.",
    }
    return {
        "night": night,
        "proc_type": proc_type,
        "detectors": {
            "expected": expected,
            "done": done,
            "completeness": done / expected,
            "by_detector": [
                {"detector": number, "expected": len(table), "done": complete - (number == 31)}
                for number in DETECTORS
            ],
        },
        "calibrations": [bias, flat] if proc_type.startswith("drp") else [],
        "failures": [failure],
        "seconds": {"bias": 41.2, "flat": 133.9, "visit": 4210.0},
    }


def plot(table: Table, summary: dict[str, Any]) -> Any:
    """A quick figure; the real one takes a second."""
    from matplotlib.figure import Figure

    figure = Figure((3, 1), dpi=50)
    figure.subplots().plot(table["mjd"], table["seeing"], "o")
    return figure
