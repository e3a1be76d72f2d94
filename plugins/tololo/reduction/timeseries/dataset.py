"""Reduction of a dataset: from the frames in its folder to light curves beside them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tololo.facility.dataset_config import FILE, DatasetConfig, read_dataset_config
from tololo.facility.dataset_folders import frames
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.timeseries import measurements
from tololo.reduction.timeseries.frames import Frame, filter_of, image_id_of, read_frame
from tololo.reduction.timeseries.outputs import write_light_curve, write_photometry
from tololo.reduction.timeseries.photometry import FLAG_NAMES, OFF_FRAME, Apertures, Photometry, measure
from tololo.reduction.timeseries.placing import Placement, place, shows
from tololo.reduction.timeseries.plots import draw_plots
from tololo.reduction.timeseries.psf_photometry import measure_psf
from tololo.reduction.timeseries.report import DatasetReport
from tololo.reduction.timeseries.series import Series, build_series
from tololo.reduction.timeseries.stars import (
    NoMagnitudesError,
    Stars,
    find_stars,
    read_reference,
    read_stars,
)

if TYPE_CHECKING:
    from astropy.table import Table

LOG = "aperture_pipeline.log"

CROWDED = 0.02
"""Part of the target's light that its neighbours may add to its aperture without a warning."""

_log = logging.getLogger("tololo.timeseries")

__all__ = ["LOG", "DatasetReport", "measure_frame", "reduce_dataset"]


def reduce_dataset(
    folder: Path,
    *,
    again: bool = False,
    plots: bool = True,
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
    plots : `bool`, optional
        Draw the figures.
    reference_catalog : `pathlib.Path`, optional
        That of the facility; the dataset's configuration goes before it.
    heartbeat : callable, optional
        Is called after each frame and each figure: renews the lock of the dataset.

    Raises
    ------
    BadInputError
        The configuration or the reference catalogue is wrong, or the target lies on no frame.
    NothingToDoError
        There are no frames, or none that can be used.
    """
    config = read_dataset_config(folder)
    found = frames(folder)
    if not found:
        raise NothingToDoError("The dataset has no frames", str(folder), "put *.fits or *.fits.fz into it")
    with _logged(folder):
        target = config.target
        _log.info("Target %s at %.6f %+.6f, %d files", target.name, target.ra, target.dec, len(found))
        paths = _one_file_each(found)
        stars = _stars(folder, config, list(paths.values()), reference_catalog)
        _log.info("%d stars, from %s", len(stars.ra), stars.reference_image)
        measured = 0
        for path in paths.values():
            measured += _measure(folder, config, stars, path, again)
            if heartbeat:
                heartbeat()
        measurements.forget_others(folder, list(paths.values()))
        found_on = [measurements.read(folder, path) for path in paths.values()]
        series = build_series(found_on, stars)
        for image_id, reason in series.set_aside.items():
            _log.warning("%s: %s", image_id, reason)
        if (series.flags[:, 0] & OFF_FRAME).all():
            raise BadInputError(
                f"The target lies on none of the {len(series.measurements)} frames, not with all its light",
                f"{folder / FILE}, keys target.RA and target.Dec: {target.ra:.6f} {target.dec:+.6f} degrees",
                "mend them, or put frames of the target there",
            )
        drawn: tuple[Path, ...] = ()
        if plots:
            first = series.measurements[0].facts
            title = f"{target.name} · {first['instrument']} · {first['filter']}"
            drawn = draw_plots(folder, series, title, paths, heartbeat)
        unread = sum(not item.kept for item in found_on)
        report = _write(folder, config, stars, series, measured, unread, drawn)
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
            _log.error("%s", error or type(error).__name__)
        _log.removeHandler(self.handler)
        _log.setLevel(self.level)
        self.handler.close()


def _one_file_each(paths: list[Path]) -> dict[str, Path]:
    """Return the files by image id; of one that is there both packed and unpacked, the unpacked one."""
    found: dict[str, Path] = {}
    for path in sorted(paths, key=lambda p: (p.name.endswith(".fz"), p.name)):
        if (other := found.setdefault(image_id_of(path), path)) is not path:
            _log.warning("%s is left out: it is %s once more", path.name, other.name)
    return dict(sorted(found.items()))


def _stars(folder: Path, config: DatasetConfig, paths: list[Path], facility_catalog: Path | None) -> Stars:
    """Return the stars of a dataset; found on its reference frame the first time.

    That is the frame that is configured, else the first by name that can be trusted and has the target on
    it: it must not depend on which frames were there when the dataset was reduced first.
    """
    name = config.photometry.reference_catalog
    catalog = folder / name if name else facility_catalog
    if catalog is None:
        _log.warning("There is no reference catalogue: magnitudes are instrumental")
    elif not catalog.is_file():
        raise BadInputError(
            "There is no such reference catalogue",
            str(catalog),
            "mend photometry.reference_catalog, or drop it",
        )
    if config.photometry.reference_image:
        path = _configured(folder, config.photometry.reference_image, paths)
        return _stars_of(folder, config, read_frame(path), catalog)
    reasons = []
    beside: list[Path] = []
    # A frame of another field would have no star in common with the others: only where there is no better.
    for path in chain(_candidates(folder, paths), beside):
        try:
            frame = read_frame(path)
            if path not in beside and not shows(frame, config.target.ra, config.target.dec):
                beside.append(path)
                continue
            return _stars_of(folder, config, frame, catalog)
        except BadInputError as error:
            if error.where != str(path):  # it is the catalogue's fault
                raise
            reasons.append(f"{path.name}: {_reason(error)}")
    raise NothingToDoError(
        f"None of the {len(paths)} frames can be used; the first: {reasons[0]}", str(folder), "look at them"
    )


def _configured(folder: Path, wanted: str, paths: list[Path]) -> Path:
    for path in paths:
        if image_id_of(path) == image_id_of(Path(wanted)):
            return path
    raise BadInputError(
        f"There is no frame {wanted}",
        f"{folder}, photometry.reference_image",
        "name a frame of the dataset, or drop the key",
    )


def _candidates(folder: Path, paths: list[Path]) -> list[Path]:
    """Return the frames of the filter that the folder is called after; all where none is of it."""
    named = [path for path in paths if filter_of(path).lower() == folder.name.lower()]
    return named or paths


def _stars_of(folder: Path, config: DatasetConfig, frame: Frame, catalog: Path | None) -> Stars:
    """Return the stars that a frame and a catalogue give, found now if they have not been found before."""
    status = frame.path.stat()
    content = hashlib.sha256(catalog.read_bytes()).hexdigest() if catalog else ""
    place = config.target.ra, config.target.dec
    own = bool(config.photometry.reference_catalog)
    parts = [measurements.VERSION, *place, frame.path.name, status.st_size, status.st_mtime_ns, content, own]
    origin = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
    known = read_stars(folder)
    if known and known.origin == origin:
        return known
    reference = _reference(catalog, frame.info.filter, own=own) if catalog else None
    stars = find_stars(frame, *place, reference, origin)
    stars.write(folder)
    return stars


def _reference(catalog: Path, filter_name: str, *, own: bool) -> Table | None:
    """Read a reference catalogue; `None` if that of the facility lacks the filter, which others have."""
    try:
        return read_reference(catalog, filter_name)
    except NoMagnitudesError as error:
        if own:
            raise
        _log.warning("Magnitudes are instrumental. %s", error)
        return None


def _measure(folder: Path, config: DatasetConfig, stars: Stars, path: Path, again: bool) -> bool:
    """Measure a frame unless that has been done; tell whether it was."""
    settings = {"stars": stars.fingerprint, "photometry": asdict(config.photometry)}
    fingerprint = measurements.fingerprint_of(path, settings)
    if not again and measurements.is_current(folder, path, fingerprint):
        return False
    measure_frame(folder, config, stars, path, fingerprint)
    return True


def measure_frame(
    folder: Path, config: DatasetConfig, stars: Stars, path: Path, fingerprint: str = ""
) -> None:
    """Measure a frame, and write that into the dataset; or why it was set aside."""
    try:
        frame = read_frame(path, (config.target.ra, config.target.dec))
        if frame.info.filter != stars.filter:
            raise BadInputError(f"its filter is {frame.info.filter}, that of the dataset {stars.filter}")
        placement = place(frame, stars.ra, stars.dec, stars.flux)
        photometry, aperture = _photometry(frame, placement, config)
    except BadInputError as error:
        # What the system does not let us read now (a right, a disk) it may next time: not to be kept.
        passing = isinstance(error.__cause__, OSError) and error.__cause__.errno is not None
        measurements.write(folder, path, "" if passing else fingerprint, _reason(error), {}, None)
        return
    facts = measurements.facts_of(frame, placement, photometry, aperture)
    measurements.write(folder, path, fingerprint, "", facts, photometry.stars)
    _log.info(
        "%s: %d stars recognised, to %.2f pixels", frame.info.image_id, placement.n_matched, placement.rms
    )


def _photometry(frame: Frame, placement: Placement, config: DatasetConfig) -> tuple[Photometry, float]:
    """Measure the stars of a frame as it is configured; and return the aperture, arcsec (0 of a PSF)."""
    if config.photometry.method == "psf":
        return measure_psf(frame, placement.x, placement.y), 0.0
    scale, radius = frame.info.pixel_scale, config.photometry.aperture_arcsec
    apertures = Apertures.of(radius, scale, frame.info.fwhm / scale)
    return measure(frame, placement.x, placement.y, apertures), radius


def _reason(error: BadInputError) -> str:
    return error.what.removeprefix("The frame is set aside: ").removeprefix("The frame ")


def _write(
    folder: Path,
    config: DatasetConfig,
    stars: Stars,
    series: Series,
    measured: int,
    unread: int,
    plots: tuple[Path, ...],
) -> DatasetReport:
    """Write the tables of a dataset, and last its summary."""
    crowd = float(series.contamination[0])
    if crowd > CROWDED:
        _log.warning(
            "Neighbours add %.0f %% to the target's aperture: a smaller one, or method psf", 100 * crowd
        )
    photometry = write_photometry(folder, series, stars)
    curve = series.light_curve(0)
    light_curve, _ = write_light_curve(folder, config.target.name, config.tom.data_label, curve)
    first = series.measurements[0].facts
    usable = curve["flags"] == 0
    if not usable.any():
        counts = {name: np.count_nonzero(curve["flags"] & bit) for bit, name in FLAG_NAMES.items()}
        said = ", ".join(f"{name} on {count} frames" for name, count in counts.items() if count)
        _log.warning("The light curve has no point. The target: %s", said)
    calibration, air = series.calibration, series.extinction
    report = DatasetReport(
        folder=folder,
        target=config.target.name,
        filter=first["filter"],
        instrument=first["instrument"],
        telescope=first["telescope"],
        method=config.photometry.method,
        frames=len(series.measurements),
        measured=measured,
        known=len(series.measurements) + len(series.set_aside) - measured,
        set_aside=series.set_aside,
        unread=unread,
        stars=len(stars.ra),
        calibrated=calibration.calibrated,
        zero_point=calibration.zero_point,
        zero_point_error=calibration.error,
        color_term=calibration.color_term.slope if calibration.color_term.fitted else math.nan,
        extinction=-air.slope if air.fitted else math.nan,
        detections=int((curve["detected"] & usable).sum()),
        limits=int((usable & np.isfinite(curve["limit"])).sum()),
        target_contamination=crowd,
        light_curve=light_curve,
        photometry=photometry,
        plots=plots,
    )
    report.write(curve)
    return report
