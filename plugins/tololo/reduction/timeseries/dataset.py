"""Reduction of a dataset: from the frames in its folder to light curves beside them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tololo.facility.dataset_config import DatasetConfig, read_dataset_config
from tololo.facility.dataset_folders import frames
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.timeseries import measurements
from tololo.reduction.timeseries.frames import Frame, image_id_of, read_frame
from tololo.reduction.timeseries.photometry import Apertures, measure
from tololo.reduction.timeseries.placing import place
from tololo.reduction.timeseries.series import Series, build_series
from tololo.reduction.timeseries.stars import Stars, find_stars, read_reference, read_stars

PHOTOMETRY = "photometry.parquet"
"""All stars on all frames, one row each."""

LOG = "aperture_pipeline.log"

_log = logging.getLogger("tololo.timeseries")


@dataclass(frozen=True)
class DatasetReport:
    """What became of a dataset.

    ``measured`` frames are new, ``known`` ones were measured before; ``set_aside`` says why frames do not
    count.
    """

    folder: Path
    target: str
    filter: str
    frames: int
    measured: int
    known: int
    set_aside: dict[str, str]
    stars: int
    zero_point: float
    zero_point_error: float
    light_curve: Path

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.frames} frames ({self.measured} new), {len(self.set_aside)} set aside, "
            f"{self.stars} stars, zero point {self.zero_point:.3f} +- {self.zero_point_error:.3f}"
        )


def reduce_dataset(
    folder: Path,
    *,
    again: bool = False,
    reference_catalog: Path | None = None,
    heartbeat: Callable[[], None] | None = None,
) -> DatasetReport:
    """Measure the new frames of a dataset, and make its light curves from all of them.

    Killed at any point it is run again, and does the rest; the same frames give the same light curves,
    whichever came first.

    Parameters
    ----------
    folder : `pathlib.Path`
        With frames and ``reduction_config.yaml``.
    again : `bool`, optional
        Measure all frames anew.
    reference_catalog : `pathlib.Path`, optional
        That of the facility; the dataset's configuration goes before it.
    heartbeat : callable, optional
        Is called after each frame: renews the lock of the dataset.

    Raises
    ------
    BadInputError
        The configuration or the reference catalogue is wrong.
    NothingToDoError
        There are no frames, or none that can be used.
    """
    config = read_dataset_config(folder)
    paths = frames(folder)
    if not paths:
        raise NothingToDoError("The dataset has no frames", str(folder), "put *.fits or *.fits.fz into it")
    with _logged(folder):
        _log.info(
            "Target %s at %.6f %+.6f, %d files",
            config.target.name,
            config.target.ra,
            config.target.dec,
            len(paths),
        )
        stars = _stars(folder, config, paths, reference_catalog)
        _log.info("%d stars, from %s", len(stars.ra), stars.reference_image)
        measured = 0
        for path in paths:
            measured += _measure(folder, config, stars, path, again)
            if heartbeat:
                heartbeat()
        measurements.forget_others(folder, paths)
        series = build_series([measurements.read(folder, path) for path in paths], stars)
        for image_id, reason in series.set_aside.items():
            _log.warning("%s: %s", image_id, reason)
        _write_photometry(folder, series)
        curve = _write_light_curve(folder, config, series)
        report = DatasetReport(
            folder=folder,
            target=config.target.name,
            filter=str(series.measurements[0].facts["filter"]),
            frames=len(series.measurements),
            measured=measured,
            known=len(paths) - measured,
            set_aside=series.set_aside,
            stars=len(stars.ra),
            zero_point=series.calibration.zero_point,
            zero_point_error=series.calibration.error,
            light_curve=curve,
        )
        _log.info("%s", report)
    return report


class _logged:
    """Let the log of a reduction be a file in the dataset's folder, as its users expect; new each time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG

    def __enter__(self) -> None:
        self.handler = logging.FileHandler(self.path, mode="w")
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.level = _log.level
        _log.setLevel(logging.INFO)
        _log.addHandler(self.handler)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            _log.error("%s", error)
        _log.removeHandler(self.handler)
        _log.setLevel(self.level)
        self.handler.close()


def _stars(folder: Path, config: DatasetConfig, paths: list[Path], facility_catalog: Path | None) -> Stars:
    """Return the stars of a dataset; found on its reference frame the first time."""
    first = _reference_frame(config, paths)
    known = read_stars(folder)
    target = config.target.ra, config.target.dec
    if known and known.reference_image == first.info.image_id and (known.ra[0], known.dec[0]) == target:
        return known
    path = (
        Path(config.photometry.reference_catalog) if config.photometry.reference_catalog else facility_catalog
    )
    reference = read_reference(folder / path, first.info.filter) if path else None
    if reference is None:
        _log.warning("There is no reference catalogue: magnitudes are instrumental")
    stars = find_stars(first, config.target.ra, config.target.dec, reference)
    stars.write(folder)
    return stars


def _reference_frame(config: DatasetConfig, paths: list[Path]) -> Frame:
    """Return the frame that is configured, else the first in time that can be trusted.

    It must not depend on which frames were there when the dataset was reduced first.
    """
    wanted = config.photometry.reference_image
    if wanted:
        path = next(
            (p for p in paths if p.name == Path(wanted).name or image_id_of(p) == image_id_of(Path(wanted))),
            None,
        )
        if path is None:
            raise BadInputError(
                f"There is no frame {wanted}",
                f"{paths[0].parent}, photometry.reference_image",
                "name a frame of the dataset, or drop the key",
            )
        return read_frame(path)
    reasons = []
    for path in paths:  # their names begin with telescope and camera, then the date and a running number
        try:
            return read_frame(path)
        except BadInputError as error:
            reasons.append(f"{path.name}: {error.what}")
    raise NothingToDoError(
        f"None of the {len(paths)} frames can be used; the first: {reasons[0]}",
        str(paths[0].parent),
        "look at them",
    )


def _measure(folder: Path, config: DatasetConfig, stars: Stars, path: Path, again: bool) -> bool:
    """Measure a frame unless that has been done; tell whether it was."""
    settings = {"stars": stars.fingerprint, "photometry": asdict(config.photometry)}
    fingerprint = measurements.fingerprint_of(path, settings)
    if not again and measurements.is_current(folder, path, fingerprint):
        return False
    try:
        frame = read_frame(path)
        placement = place(frame, stars.ra, stars.dec, stars.flux)
    except BadInputError as error:
        reason = error.what.removeprefix("The frame is set aside: ").removeprefix("The frame ")
        measurements.write(folder, path, fingerprint, reason, {}, None)
        return True
    scale = frame.info.pixel_scale
    apertures = Apertures.of(config.photometry.aperture_arcsec, scale, frame.info.fwhm / scale)
    photometry = measure(frame, placement.x, placement.y, apertures)
    facts = measurements.facts_of(frame, placement, photometry)
    measurements.write(folder, path, fingerprint, "", facts, photometry.stars)
    _log.info(
        "%s: %d stars recognised, to %.2f pixels", frame.info.image_id, placement.n_matched, placement.rms
    )
    return True


def _write_photometry(folder: Path, series: Series) -> None:
    """Write one row for each star on each frame; the rows of one frame at a time."""
    part = folder / f".{PHOTOMETRY}.part"
    n_stars = series.flux.shape[1]
    names = (
        "start",
        "mjd_utc",
        "mjd_tdb",
        "hjd_utc",
        "bjd_tdb",
        "filter",
        "telescope",
        "instrument",
        "airmass",
    )
    writer: pq.ParquetWriter | None = None
    try:
        for n, item in enumerate(series.measurements):
            columns: dict[str, Any] = {"image_id": pa.array([item.image_id] * n_stars)}
            columns |= {name: pa.array([item.facts[name]] * n_stars) for name in names}
            columns["star"] = np.arange(n_stars, dtype=np.int32)
            columns |= {name: item.stars[name] for name in ("x", "y")}
            for name in ("flux", "flux_err", "magnitude", "error", "flags"):
                columns[name] = getattr(series, name)[n]
            columns["zero_point"] = np.full(n_stars, series.scale[n])
            columns["zero_point_err"] = np.full(n_stars, series.scale_err[n])
            table = pa.table(columns)
            if writer is None:
                writer = pq.ParquetWriter(part, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    os.replace(part, folder / PHOTOMETRY)


def _write_light_curve(folder: Path, config: DatasetConfig, series: Series) -> Path:
    """Write the target's light curve as ``.csv`` (for the TOM) and ``.dat``; return the former."""
    curve = series.light_curve(0)
    name = config.target.name.replace(" ", "_").replace("/", "_")
    stem = f"{name}_{curve['filter'][0]}_lc"
    seen = np.isfinite(curve["magnitude"]) & (curve["flux"] > 3 * curve["flux_err"])
    rows = ["time,filter,magnitude,error,limit,telescope,instrument,image"]
    label = config.tom.data_label
    for row, is_seen in zip(curve, seen, strict=True):
        band = f"{label}_{row['filter']}" if label else row["filter"]
        value = f"{row['magnitude']:.5f},{row['error']:.5f}," if is_seen else f",,{row['limit']:.4f}"
        rows.append(
            f"{row['mjd_utc']:.8f},{band},{value},{row['telescope']},{row['instrument']},{row['image_id']}"
        )
    _write_text(folder / f"{stem}.csv", rows)
    rows = ["# HJD_UTC flux err_flux mag err_mag file"]
    rows += [
        f"{row['hjd_utc']:.8f} {row['flux']:.4f} {row['flux_err']:.4f} "
        f"{row['magnitude']:.5f} {row['error']:.5f} {row['image_id']}"
        for row in curve
    ]
    _write_text(folder / f"{stem}.dat", rows)
    return folder / f"{stem}.csv"


def _write_text(path: Path, rows: list[str]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text("\n".join(rows) + "\n")
    os.replace(part, path)
