"""What has been measured on each frame of a dataset: one Parquet file a frame, so that none is done twice."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tololo.reduction.timeseries.frames import Frame, image_id_of
from tololo.reduction.timeseries.photometry import Photometry
from tololo.reduction.timeseries.placing import Placement

FOLDER = "frames"
"""In the folder of the dataset."""

VERSION = 2
"""Of the measurement: a change of it has all frames measured again."""

_KEY = b"tololo"


@dataclass(frozen=True)
class Measurement:
    """A frame that has been measured, or why it was not.

    Attributes
    ----------
    image_id : `str`
    reason : `str`
        Why the frame was set aside; empty if it was measured.
    facts : `dict`
        Of the frame: times, filter, telescope, airmass, seeing, matched stars ...
    stars : structured `numpy.ndarray`
        As `photometry.measure` returns them, in the order of the dataset's stars; empty if set aside.
    kept : `bool`
        Whether it counts next time too; not if the file could not be read for a reason that may pass.
    """

    image_id: str
    reason: str
    facts: dict[str, Any]
    stars: NDArray[np.void]
    kept: bool = True


def fingerprint_of(path: Path, settings: dict[str, Any]) -> str:
    """Return what a measurement depends on: the file, the stars, the aperture, and how it is measured."""
    status = path.stat()
    content = [VERSION, path.name, status.st_size, status.st_mtime_ns, settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def facts_of(frame: Frame, placement: Placement, photometry: Photometry, aperture: float) -> dict[str, Any]:
    """Return what a light curve says of each frame; ``aperture`` is its radius in arcsec, 0 of a PSF."""
    info = asdict(frame.info)
    return {
        **info.pop("times"),
        **info,
        "n_matched": placement.n_matched,
        "wcs_rms": placement.rms,
        "wcs_shift": placement.shift,
        "aperture": aperture,
        "aperture_correction": photometry.correction,
        "aperture_correction_error": photometry.correction_error,
    }


def is_current(folder: Path, path: Path, fingerprint: str) -> bool:
    """Tell whether a frame has been measured as it would be now."""
    file = file_of(folder, path)
    try:
        return _metadata(pq.read_schema(file)).get("fingerprint") == fingerprint
    except (OSError, ValueError):
        return False


def write(
    folder: Path,
    path: Path,
    fingerprint: str,
    reason: str,
    facts: dict[str, Any],
    stars: NDArray[np.void] | None,
) -> None:
    """Write the measurement of a frame: whole or not at all."""
    table = pa.table({} if stars is None else {name: stars[name] for name in stars.dtype.names or ()})
    content = {"fingerprint": fingerprint, "image_id": image_id_of(path), "reason": reason, "facts": facts}
    table = table.replace_schema_metadata({_KEY: json.dumps(content).encode()})
    file = file_of(folder, path)
    file.parent.mkdir(exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    pq.write_table(table, part)
    os.replace(part, file)


def read(folder: Path, path: Path) -> Measurement:
    """Read the measurement of a frame."""
    table = pq.read_table(file_of(folder, path))
    content = _metadata(table.schema)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    stars = np.zeros(table.num_rows, [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        stars[name] = values
    return Measurement(
        content["image_id"], content["reason"], content["facts"], stars, bool(content["fingerprint"])
    )


def forget_others(folder: Path, paths: list[Path]) -> None:
    """Delete what was measured on frames that are no longer there: no flux without its frame."""
    wanted = {file_of(folder, path) for path in paths}
    for file in (folder / FOLDER).glob("*.parquet"):
        if file not in wanted:
            file.unlink(missing_ok=True)


def file_of(folder: Path, path: Path) -> Path:
    """Return the file that holds the measurement of a frame."""
    return folder / FOLDER / f"{image_id_of(path)}.parquet"


def _metadata(schema: pa.Schema) -> dict[str, Any]:
    return (
        dict(json.loads((schema.metadata or {})[_KEY])) if schema.metadata and _KEY in schema.metadata else {}
    )
