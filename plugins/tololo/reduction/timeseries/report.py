"""What became of a dataset, as an object and as ``reduction_summary.json``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from tololo.reduction.timeseries.outputs import write_lines

SUMMARY = "reduction_summary.json"
"""In the folder of the dataset; the last file that is written."""


@dataclass(frozen=True)
class DatasetReport:
    """What became of a dataset.

    Attributes
    ----------
    folder : `pathlib.Path`
    target, filter, instrument, telescope : `str`
        The last two of its first frame.
    method : `str`
        How it was measured: ``aperture`` or ``psf``.
    frames : `int`
        Frames that count.
    measured, known : `int`
        Files that were measured now, and before.
    set_aside : `dict` [`str`, `str`]
        Frames that do not count, and why.
    unread : `int`
        Files that the system did not let us read; they are tried again.
    stars : `int`
        In the list, the target included.
    zero_point, zero_point_error : `float`
        Magnitude of one count a second; the error is NaN, and ``calibrated`` false, without reference stars.
    color_term, extinction : `float`
        Mag a mag of colour, mag an airmass; NaN where they could not be fitted.
    detections, limits : `int`
        Points of the target's light curve.
    target_contamination : `float`
        By which part of its light known neighbours add to the target's aperture.
    light_curve, photometry : `pathlib.Path`
        The ``.csv``, and the table of all stars.
    plots : `tuple` [`pathlib.Path`, ...]
    """

    folder: Path
    target: str
    filter: str
    instrument: str
    telescope: str
    method: str
    frames: int
    measured: int
    known: int
    set_aside: dict[str, str]
    unread: int
    stars: int
    calibrated: bool
    zero_point: float
    zero_point_error: float
    color_term: float
    extinction: float
    detections: int
    limits: int
    target_contamination: float
    light_curve: Path
    photometry: Path
    plots: tuple[Path, ...]

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.frames} frames ({self.measured} new), {len(self.set_aside)} set aside, "
            f"{self.stars} stars, zero point {self.zero_point:.3f} +- {self.zero_point_error:.3f}, "
            f"{self.detections} points and {self.limits} limits of {self.target}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it: paths as text, what is not finite as null."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def write(self, curve: Table) -> Path:
        """Write it, with the points of the target's light curve, into the folder of the dataset."""
        good = curve[(curve["flags"] == 0) & np.isfinite(curve["flux"])]
        points = [
            [
                float(row["mjd_utc"]),
                *(
                    (float(row["magnitude"]), float(row["error"]), None)
                    if row["detected"]
                    else (None, None, _plain(float(row["limit"])))
                ),
            ]
            for row in good
        ]
        content = {
            "version": 1,
            "reduced": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.as_dict(),
            "frames_set_aside": len(self.set_aside),
            "light_curve_points": points,
        }
        return write_lines(self.folder / SUMMARY, [json.dumps(content, indent=1, allow_nan=False)])


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
