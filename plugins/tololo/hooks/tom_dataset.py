"""The light curve of a dataset of frames, as it goes into a TOM."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tololo.facility.dataset_config import FILE, DatasetConfig, read_dataset_config
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.lightcurve import AB, INSTRUMENTAL, LightCurve
from tololo.facility.photometry_point import ZERO_POINT, PhotometryPoint, njy

PHOTOMETRY = "photometry.parquet"
SUMMARY = "reduction_summary.json"
TARGET_STAR = 0
SIGMA = 3.0
"""From where on a point is a detection, and what limits of others are for: as in the files beside it."""

_COLUMNS = (
    *("image_id", "mjd_utc", "hjd_utc", "filter", "telescope", "instrument"),
    *("flux", "flux_err", "magnitude", "error", "zero_point", "flags"),
)
_RUN_AGAIN = "reduce the dataset again"


@dataclass(frozen=True)
class DatasetCurve:
    """What is published of a dataset.

    Parameters
    ----------
    config : `~tololo.facility.dataset_config.DatasetConfig`
    label : `str`
        Of its product in the TOM: data label, instrument and filter, which tell datasets of one target apart.
    light_curve : `~tololo.facility.lightcurve.LightCurve`
    left_out : `int`
        Points that are not published: saturated, on bad pixels, beside the frame or without a flux.
    """

    config: DatasetConfig
    label: str
    light_curve: LightCurve
    left_out: int


def read_dataset_curve(folder: Path) -> DatasetCurve:
    """Read the target's light curve from a dataset that was reduced.

    Parameters
    ----------
    folder : `pathlib.Path`
        ``<target>/<instrument>/<filter>`` with ``reduction_config.yaml`` and ``photometry.parquet``.

    Raises
    ------
    NothingToDoError
        It was not reduced yet, or no point can be published.
    BadInputError
        Its configuration or its photometry is wrong.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    config, path = read_dataset_config(folder), folder / PHOTOMETRY
    if not path.is_file():
        raise NothingToDoError("The dataset has no photometry", str(folder), _RUN_AGAIN)
    try:
        there = pq.read_schema(path).names
        if missing := [name for name in (*_COLUMNS, "star") if name not in there]:
            raise BadInputError(f"The photometry has no column {', '.join(missing)}", str(path), _RUN_AGAIN)
        rows = pq.read_table(path, columns=list(_COLUMNS), filters=[("star", "==", TARGET_STAR)]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise BadInputError(f"The photometry cannot be read: {error}", str(path), _RUN_AGAIN) from error
    shown = f"{config.tom.data_label}_" if config.tom.data_label else ""
    unit: Literal["AB", "mag"] = AB if _is_calibrated(folder) else INSTRUMENTAL
    try:
        points = tuple(_point(row, shown) for row in rows if _is_good(row))
    except BadInputError as error:
        if "filter_label" in error.what:
            raise BadInputError(
                error.what, f"{folder / FILE}, key tom.data_label; {error.where}", error.remedy
            ) from None
        raise
    if not points:
        raise NothingToDoError(
            "No frame tells the brightness of the target", str(folder), f"look at {SUMMARY} and its plots"
        )
    parts = config.tom.data_label, folder.parent.name, folder.name
    target = config.target
    curve = LightCurve(target.name, target.ra, target.dec, points, SIGMA, SIGMA, unit)
    return DatasetCurve(config, "_".join(filter(None, parts)), curve, len(rows) - len(points))


def _is_good(row: Mapping[str, Any]) -> bool:
    numbers = (row["flux"], row["flux_err"], row["zero_point"])
    finite = all(number is not None and math.isfinite(number) for number in numbers)
    return finite and row["flux_err"] > 0 and row["flags"] == 0


def _point(row: Mapping[str, Any], shown: str) -> PhotometryPoint:
    """Return a point: of a detection its magnitude and full error, else flux and error of the aperture."""
    detected = row["flux"] > SIGMA * row["flux_err"] and math.isfinite(row["magnitude"])
    if detected:
        flux = njy(row["magnitude"])
        error = flux * row["error"] * math.log(10) / 2.5
    else:
        scale = 10 ** ((ZERO_POINT - row["zero_point"]) / 2.5)
        flux, error = row["flux"] * scale, row["flux_err"] * scale
    return PhotometryPoint(
        mjd=row["mjd_utc"],
        time_scale="UTC",
        flux_njy=flux,
        flux_err_njy=error,
        band=row["filter"],
        filter_label=shown + row["filter"],
        telescope=row["telescope"] or "unknown",  # frames need not say it
        instrument=row["instrument"],
        image=row["image_id"],
        zero_point=row["zero_point"],
        hjd_utc=row["hjd_utc"],
    )


def _is_calibrated(folder: Path) -> bool:
    """Tell whether magnitudes are on a reference system; the summary of the reduction says so."""
    path = folder / SUMMARY
    try:
        return bool(json.loads(path.read_text())["calibrated"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(
            f"The summary of the reduction cannot be read: {error!r}", str(path), _RUN_AGAIN
        ) from error
