"""A light curve: brightness of one target against time, as a TOM takes it.

A point below ``detection_snr`` is a non-detection and carries a limit instead of a magnitude, the magnitude
of ``limit_snr`` times its flux error. The defaults 3 and 5 are those of forced photometry at ZTF
(Masci et al. 2023, arXiv:2305.16279).
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from tololo import __version__
from tololo.facility.errors import BadInputError
from tololo.facility.mjd import JD_MINUS_MJD
from tololo.facility.photometry_point import PhotometryPoint, ab_magnitude

type TimeFormat = Literal["mjd", "jd", "hjd"]

TIME_FORMATS: tuple[TimeFormat, ...] = ("mjd", "jd", "hjd")
"""What ``time`` can be: MJD, JD or heliocentric JD, all of mid-exposure and in UTC."""

AB: Final = "AB"
INSTRUMENTAL: Final = "mag"
"""Unit of magnitudes that nothing ties to a reference system."""

PIPELINE = f"tololo {__version__}"
MJD_DECIMALS = 10
"""Decimals of an MJD as written: 1e-10 d are 9 microseconds. A JD has as many as a float can hold, 9."""

COLUMNS = (
    "time",
    "magnitude",
    "error",
    "limit",
    "filter",
    "telescope",
    "instrument",
    "unit",
    "source",
    "source_location",
    "reduction_version",
    "time_format",
    "time_scale",
    "mjd_tai",
    "hjd_utc",
    "flux_njy",
    "flux_err_njy",
    "zero_point",
    "photometric_band",
    "pipeline_version",
)
"""Columns of the CSV. TOM Toolkit reads ``time`` as MJD UTC, takes the first eleven into fields of its own
and the others into the extra data of the point. An integer among these makes it fail, so that visit, detector
and diaObject stand as text in ``source_location``; and it takes any of ``filter``, ``band``, ``bandpass`` and
``f`` for the filter, in no fixed order, so that only one of these may be a column."""


@dataclass(frozen=True)
class LightCurve:
    """Points of one target.

    Parameters
    ----------
    target : `str`
        Name.
    ra, dec : `float`
        ICRS, degrees.
    points : `tuple` [`PhotometryPoint`, ...]
        In any order.
    detection_snr, limit_snr : `float`, optional
        Signal-to-noise ratio from which a point is a detection, and the one that limits of others are for.
    unit : ``"AB"`` or ``"mag"``, optional
        ``mag`` if magnitudes are instrumental and the fluxes not really in nJy.
    pipeline : `str`, optional
        What measured it, with its version.

    Raises
    ------
    BadInputError
        If the position is none, or two points are the same one.
    """

    target: str
    ra: float
    dec: float
    points: tuple[PhotometryPoint, ...]
    detection_snr: float = 3.0
    limit_snr: float = 5.0
    unit: Literal["AB", "mag"] = "AB"
    pipeline: str = PIPELINE

    def __post_init__(self) -> None:
        where = f"light curve of {self.target!r}"
        if not self.target.strip():
            raise BadInputError("A light curve needs the name of its target", where)
        if not (0 <= self.ra < 360 and -90 <= self.dec <= 90):
            raise BadInputError(f"ra {self.ra}, dec {self.dec} is no position", where, "give ICRS degrees")
        if not (self.detection_snr > 0 and self.limit_snr > 0):
            raise BadInputError("detection_snr and limit_snr must be positive", where)
        seen: dict[tuple[str, ...], str] = {}
        for point, row in zip(self.points, self._rows("mjd"), strict=True):
            # By the second key a TOM tells points apart; it drops a repetition without a word.
            for key in (
                (point.provenance,),
                tuple(row[c] for c in ("time", "filter", "magnitude", "limit", "instrument")),
            ):
                if key in seen:
                    raise BadInputError(
                        f"Two points are the same one: {seen[key]} and {point.provenance}",
                        f"{where}, MJD {point.mjd} {point.time_scale}, {point.band}",
                        "give each measurement once",
                    )
                seen[key] = point.provenance

    @classmethod
    def from_records(
        cls,
        target: str,
        ra: float,
        dec: float,
        records: Iterable[Mapping[str, Any]],
        *,
        filter_prefix: str = "",
        detection_snr: float = 3.0,
        limit_snr: float = 5.0,
    ) -> LightCurve:
        """Make a light curve of rows of a ``forced_source`` table.

        Parameters
        ----------
        target : `str`
            Name.
        ra, dec : `float`
            ICRS, degrees.
        records : iterable of mappings
            Columns ``midpointMjdTai`` (MJD TAI), ``psfFlux``, ``psfFluxErr`` (nJy), ``band``, ``visit``,
            ``detector`` and, where there is one, ``diaObjectId``. Others are not looked at.
        filter_prefix : `str`, optional
            Goes before the band in the name of the filter that the TOM shows.
        detection_snr, limit_snr : `float`, optional
            As for the class.

        Raises
        ------
        BadInputError
            If a column is missing or a value is unusable; row and column are named.
        """

        def point(number: int, record: Mapping[str, Any]) -> PhotometryPoint:
            def value[T](column: str, kind: type[T]) -> T:
                where = f"light curve of {target!r}, row {number}, column {column}"
                try:
                    return kind(record[column])  # type: ignore[call-arg]
                except KeyError:
                    raise BadInputError("A column is missing", where) from None
                except (TypeError, ValueError):
                    raise BadInputError(f"{record[column]!r} cannot be read", where) from None

            band = value("band", str)
            return PhotometryPoint(
                mjd=value("midpointMjdTai", float),
                time_scale="TAI",
                flux_njy=value("psfFlux", float),
                flux_err_njy=value("psfFluxErr", float),
                band=band,
                visit=value("visit", int),
                detector=value("detector", int),
                filter_label=filter_prefix + band,
                dia_object_id=value("diaObjectId", int) if record.get("diaObjectId") is not None else None,
            )

        points = tuple(point(number, record) for number, record in enumerate(records, 1))
        return cls(target, ra, dec, points, detection_snr, limit_snr)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def n_detections(self) -> int:
        """Number of points at or above ``detection_snr``."""
        return sum(point.snr >= self.detection_snr for point in self.points)

    def with_hjd(self, hjd_of: Callable[[list[float]], list[float]]) -> LightCurve:
        """Return the same with the heliocentric dates that its points lack.

        Parameters
        ----------
        hjd_of : callable
            Turns MJDs (UTC) at the observatory into heliocentric JDs (UTC) of the target.
        """
        lacking = [point.mjd_utc for point in self.points if point.hjd_utc is None]
        if not lacking:
            return self
        found = iter(hjd_of(lacking))
        points = (p if p.hjd_utc is not None else replace(p, hjd_utc=next(found)) for p in self.points)
        return replace(self, points=tuple(points))

    def rows(self, reduction_version: str = "", time_format: TimeFormat = "mjd") -> list[dict[str, str]]:
        """Return the points as they are written, in order of time, by name of column (`COLUMNS`).

        Raises
        ------
        BadInputError
            If ``time`` shall be heliocentric and a point has no such date.
        """
        rows = sorted(self._rows(time_format), key=lambda row: (row["time"], row["source_location"]))
        return [{**row, "reduction_version": reduction_version} for row in rows]

    def to_csv(self, reduction_version: str = "", time_format: TimeFormat = "mjd") -> str:
        """Return the light curve as CSV, one header line and one line a point.

        Parameters
        ----------
        reduction_version : `str`, optional
            Goes into the column of that name, by which a TOM keeps versions of a point apart.
        time_format : ``"mjd"``, ``"jd"`` or ``"hjd"``, optional
            What ``time`` is.
        """
        return _csv(self.rows(reduction_version, time_format))

    def content_hash(self, time_format: TimeFormat = "mjd") -> str:
        """Return the SHA-256 of what would be written, in hexadecimal.

        It depends neither on the order of the points, nor on the version of the pipeline, nor on digits
        beyond those written: 10 decimals of an MJD, 6 of a magnitude, 7 significant digits of a flux.
        """
        rows = [{**row, "pipeline_version": ""} for row in self.rows(time_format=time_format)]
        return hashlib.sha256(_csv(rows).encode()).hexdigest()

    def _rows(self, time_format: TimeFormat) -> list[dict[str, str]]:
        return [self._row(point, time_format) for point in self.points]

    def _row(self, point: PhotometryPoint, time_format: TimeFormat) -> dict[str, str]:
        detected = point.snr >= self.detection_snr
        limit = ab_magnitude(self.limit_snr * point.flux_err_njy)
        hjd = "" if point.hjd_utc is None else f"{point.hjd_utc:.9f}"
        if time_format == "hjd" and not hjd:
            raise BadInputError(
                "A point has no heliocentric date",
                f"light curve of {self.target!r}, {point.provenance}",
                "publish it with time_format mjd or jd",
            )
        times = {
            "mjd": f"{point.mjd_utc:.{MJD_DECIMALS}f}",
            "jd": f"{point.mjd_utc + JD_MINUS_MJD:.9f}",
            "hjd": hjd,
        }
        return {
            "time": times[time_format],
            "magnitude": f"{point.magnitude:.6f}" if detected else "",
            "error": f"{point.magnitude_error:.6f}" if detected else "",
            "limit": "" if detected else f"{limit:.6f}",
            "filter": point.filter_label or point.band,
            "telescope": point.telescope,
            "instrument": point.instrument,
            "unit": self.unit,
            "source": "tololo",
            "source_location": point.provenance,
            "reduction_version": "",
            "time_format": time_format,
            "time_scale": "UTC",
            "mjd_tai": f"{point.mjd_tai:.{MJD_DECIMALS}f}",
            "hjd_utc": hjd,
            "flux_njy": f"{point.flux_njy:#.7g}" if self.unit == AB else "",
            "flux_err_njy": f"{point.flux_err_njy:#.7g}" if self.unit == AB else "",
            "zero_point": f"{point.zero_point:.4f}",
            "photometric_band": point.band,
            "pipeline_version": self.pipeline,
        }


def _csv(rows: Iterable[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
