"""What a TOM holds: targets, data products and points, and how these compare with a light curve."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from tololo.facility.lightcurve import LightCurve, TimeFormat
from tololo.facility.mjd import JD_MINUS_MJD, mjd_utc_of

MJD_TOLERANCE = 1e-8
"""Days; a TOM keeps microseconds, 1e-11 d."""


@dataclass(frozen=True, slots=True)
class Target:
    """A target of the TOM; ra and dec are ICRS degrees."""

    id: int
    name: str
    ra: float | None
    dec: float | None
    aliases: tuple[str, ...] = ()

    def separation(self, ra: float, dec: float) -> float | None:
        """Return how far it is from a position (ICRS degrees), arcsec; `None` if it has none of its own."""
        if self.ra is None or self.dec is None:
            return None
        ra1, dec1, ra2, dec2 = map(math.radians, (self.ra, self.dec, ra, dec))
        haversine = (
            math.sin((dec2 - dec1) / 2) ** 2
            + math.cos(dec1) * math.cos(dec2) * math.sin((ra2 - ra1) / 2) ** 2
        )
        return math.degrees(2 * math.asin(min(1.0, math.sqrt(haversine)))) * 3600


@dataclass(frozen=True, slots=True)
class TomPoint:
    """A point as the TOM gives it back: MJD UTC, magnitude and its error (none for a limit), origin.

    ``mjd_utc`` is what the TOM takes it to be: given heliocentric dates it has these, less 2400000.5.
    """

    mjd_utc: float
    magnitude: float | None
    magnitude_error: float | None
    filter: str
    telescope: str
    instrument: str
    source_location: str


@dataclass(frozen=True, slots=True)
class UploadResult:
    """What an upload did.

    Parameters
    ----------
    status : ``"created"`` or ``"unchanged"``
        Whether something was sent.
    product_id : `int`
        Primary key of the data product that holds the light curve.
    reduction_version : `str`
        Version of its points.
    n_points : `int`
        Points counted in the TOM at the end.
    deleted : `tuple` [`int`, ...]
        Primary keys of the older products that were deleted.
    """

    status: Literal["created", "unchanged"]
    product_id: int
    reduction_version: str
    n_points: int
    deleted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """A light curve in the TOM.

    Parameters
    ----------
    pk : `int`
        Primary key; of two products the later has the larger one.
    version : `str`
        What its content and its label give.
    generation : `int`
        Counts the uploads of one version, from 1.
    """

    pk: int
    version: str
    generation: int

    @property
    def reduction_version(self) -> str:
        """What its points carry in the TOM."""
        return self.version if self.generation == 1 else f"{self.version}.{self.generation}"


def version_of(light_curve: LightCurve, label: str, time_format: TimeFormat = "mjd") -> str:
    """Return the version of a light curve under a label, ``tololo-`` and 12 hexadecimal digits."""
    digest = hashlib.sha256(f"{label}\n{light_curve.content_hash(time_format)}".encode()).hexdigest()
    return f"tololo-{digest[:12]}"


def point_of(datum: Mapping[str, Any]) -> TomPoint:
    """Read a point of the list ``reduceddatums``.

    Raises
    ------
    KeyError
        If it is not described as by TOM Toolkit 3.1.
    """
    value = datum["value"]
    return TomPoint(
        mjd_utc=mjd_utc_of(datetime.fromisoformat(datum["timestamp"])),
        magnitude=value["brightness"],
        magnitude_error=value["brightness_error"],
        filter=value["bandpass"],
        telescope=value["telescope"],
        instrument=value["instrument"],
        source_location=datum["source_location"],
    )


def differences(light_curve: LightCurve, points: Iterable[TomPoint], time_format: TimeFormat = "mjd") -> str:
    """Compare a light curve with what a TOM keeps of it, point by point.

    Returns
    -------
    differences : `str`
        The first three in words; empty where all points are there, once, and equal.
    """
    kept = list(points)
    if len(kept) != len(light_curve):
        return f"{len(kept)} points instead of {len(light_curve)}"
    by_origin = {point.source_location: point for point in kept}
    wrong = []
    for row in light_curve.rows(time_format=time_format):
        sent = _sent(row, time_format)
        there = by_origin.get(sent.source_location)
        if there is None or not _equal(sent, there):
            wrong.append(f"sent {sent}, kept {there}")
    more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return "; ".join(wrong[:3]) + more


def _sent(row: Mapping[str, str], time_format: TimeFormat) -> TomPoint:
    return TomPoint(
        mjd_utc=float(row["time"]) - (0 if time_format == "mjd" else JD_MINUS_MJD),
        magnitude=float(row["magnitude"]) if row["magnitude"] else None,
        magnitude_error=float(row["error"]) if row["error"] else None,
        filter=row["filter"],
        telescope=row["telescope"],
        instrument=row["instrument"],
        source_location=row["source_location"],
    )


def _equal(sent: TomPoint, kept: TomPoint) -> bool:
    def near(a: float | None, b: float | None) -> bool:
        if a is None or b is None:
            return a is b
        return math.isclose(a, b, abs_tol=1e-9)

    return (
        abs(sent.mjd_utc - kept.mjd_utc) < MJD_TOLERANCE
        and near(sent.magnitude, kept.magnitude)
        and near(sent.magnitude_error, kept.magnitude_error)
        and (sent.filter, sent.telescope, sent.instrument) == (kept.filter, kept.telescope, kept.instrument)
    )
