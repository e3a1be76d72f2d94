"""A light curve: brightness of one target against time, as a TOM takes it.

Fluxes are in nJy, magnitudes are AB: m = 31.4 - 2.5 log10(f / nJy) (Oke & Gunn 1983, zero point 3631 Jy).
A point below ``detection_snr`` is a non-detection and carries a limit instead of a magnitude, the AB
magnitude of ``limit_snr`` times its flux error. The defaults 3 and 5 are those of forced photometry at ZTF
(Masci et al. 2023, arXiv:2305.16279).
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from tololo.facility.errors import BadInputError
from tololo.facility.nights import MJD_EPOCH, tai_minus_utc

ZERO_POINT = 31.4
"""AB magnitude of 1 nJy."""

TELESCOPE = "CTIO 4.0-m"
INSTRUMENT = "DECam"
MJD_DECIMALS = 10
"""Decimals of an MJD as written: 1e-10 d are 9 microseconds."""

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
    "time_scale",
    "mjd_tai",
    "flux_njy",
    "flux_err_njy",
    "zero_point",
    "photometric_band",
)
"""Columns of the CSV. TOM Toolkit reads ``time`` as MJD UTC, takes the first eleven into fields of its own
and the others into the extra data of the point. An integer among these makes it fail, so that visit, detector
and diaObject stand as text in ``source_location``; and it takes any of ``filter``, ``band``, ``bandpass`` and
``f`` for the filter, in no fixed order, so that only one of these may be a column."""

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9 _.+-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PhotometryPoint:
    """One flux of a light curve.

    Parameters
    ----------
    mjd : `float`
        Modified Julian Date of mid-exposure, in ``time_scale``.
    time_scale : ``"TAI"`` or ``"UTC"``
    flux_njy, flux_err_njy : `float`
        Flux, or flux difference, and its standard error, nJy.
    band : `str`
        ``u g r i z y VR`` and the narrow bands.
    visit, detector : `int`
        Where the flux was measured.
    filter_label : `str`, optional
        Name of the filter that the TOM shows; the band where empty.
    dia_object_id : `int`, optional
    telescope, instrument : `str`, optional

    Raises
    ------
    BadInputError
        If a number is not finite, the error is not positive, or a name cannot be used.
    """

    mjd: float
    time_scale: Literal["TAI", "UTC"]
    flux_njy: float
    flux_err_njy: float
    band: str
    visit: int
    detector: int
    filter_label: str = ""
    dia_object_id: int | None = None
    telescope: str = TELESCOPE
    instrument: str = INSTRUMENT

    def __post_init__(self) -> None:
        where = f"visit {self.visit}, detector {self.detector}"
        if self.time_scale not in ("TAI", "UTC"):
            raise BadInputError(f"Unknown time scale {self.time_scale!r}", where, "give TAI or UTC")
        if not (math.isfinite(self.mjd) and 40_000 < self.mjd < 100_000):
            raise BadInputError(
                f"{self.mjd!r} is no MJD of a CCD exposure", where, "give MJD, neither JD nor HJD"
            )
        if not (math.isfinite(self.flux_njy) and math.isfinite(self.flux_err_njy) and self.flux_err_njy > 0):
            raise BadInputError(
                f"Flux {self.flux_njy} +- {self.flux_err_njy} nJy is not a measurement",
                where,
                "leave out points that could not be measured",
            )
        for name, text in (("band", self.band), ("filter_label", self.filter_label or self.band)):
            if not _LABEL.fullmatch(text):
                remedy = "use up to 32 letters, digits, blanks and _ . + -, a letter first"
                raise BadInputError(f"{name} {text!r} cannot be used", where, remedy)

    @property
    def mjd_tai(self) -> float:
        """Mid-exposure, MJD TAI."""
        return self.mjd if self.time_scale == "TAI" else utc_to_tai(self.mjd)

    @property
    def mjd_utc(self) -> float:
        """Mid-exposure, MJD UTC."""
        return self.mjd if self.time_scale == "UTC" else tai_to_utc(self.mjd)

    @property
    def snr(self) -> float:
        """Flux over its error; negative where the target is fainter than in the template."""
        return self.flux_njy / self.flux_err_njy

    @property
    def magnitude(self) -> float:
        """AB magnitude; defined for positive fluxes only."""
        return ab_magnitude(self.flux_njy)

    @property
    def magnitude_error(self) -> float:
        """Standard error of the magnitude, to first order: 2.5 / ln 10 over the signal-to-noise ratio."""
        return 2.5 / math.log(10) / self.snr

    @property
    def provenance(self) -> str:
        """Where the flux was measured, as text: ``visit=..&detector=..[&diaObjectId=..]``."""
        text = f"visit={self.visit}&detector={self.detector}"
        return text if self.dia_object_id is None else f"{text}&diaObjectId={self.dia_object_id}"


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

    def __post_init__(self) -> None:
        where = f"light curve of {self.target!r}"
        if not self.target.strip():
            raise BadInputError("A light curve needs the name of its target", where)
        if not (0 <= self.ra < 360 and -90 <= self.dec <= 90):
            raise BadInputError(f"ra {self.ra}, dec {self.dec} is no position", where, "give ICRS degrees")
        if not (self.detection_snr > 0 and self.limit_snr > 0):
            raise BadInputError("detection_snr and limit_snr must be positive", where)
        seen: dict[tuple[str, ...], str] = {}
        for point, row in zip(self.points, self._rows(), strict=True):
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

    def rows(self, reduction_version: str = "") -> list[dict[str, str]]:
        """Return the points as they are written, in order of time, by name of column (`COLUMNS`)."""
        rows = sorted(self._rows(), key=lambda row: (row["time"], row["source_location"]))
        return [{**row, "reduction_version": reduction_version} for row in rows]

    def to_csv(self, reduction_version: str = "") -> str:
        """Return the light curve as CSV, one header line and one line a point.

        Parameters
        ----------
        reduction_version : `str`, optional
            Goes into the column of that name, by which a TOM keeps versions of a point apart.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows(reduction_version))
        return text.getvalue()

    def content_hash(self) -> str:
        """Return the SHA-256 of what would be written, in hexadecimal.

        It depends neither on the order of the points nor on digits beyond those written: 10 decimals of an
        MJD, 6 of a magnitude, 7 significant digits of a flux.
        """
        return hashlib.sha256(self.to_csv().encode()).hexdigest()

    def _rows(self) -> list[dict[str, str]]:
        return [self._row(point) for point in self.points]

    def _row(self, point: PhotometryPoint) -> dict[str, str]:
        detected = point.snr >= self.detection_snr
        limit = ab_magnitude(self.limit_snr * point.flux_err_njy)
        return {
            "time": f"{point.mjd_utc:.{MJD_DECIMALS}f}",
            "magnitude": f"{point.magnitude:.6f}" if detected else "",
            "error": f"{point.magnitude_error:.6f}" if detected else "",
            "limit": "" if detected else f"{limit:.6f}",
            "filter": point.filter_label or point.band,
            "telescope": point.telescope,
            "instrument": point.instrument,
            "unit": "AB",
            "source": "tololo",
            "source_location": point.provenance,
            "reduction_version": "",
            "time_scale": "UTC",
            "mjd_tai": f"{point.mjd_tai:.{MJD_DECIMALS}f}",
            "flux_njy": f"{point.flux_njy:#.7g}",
            "flux_err_njy": f"{point.flux_err_njy:#.7g}",
            "zero_point": str(ZERO_POINT),
            "photometric_band": point.band,
        }


def ab_magnitude(flux_njy: float) -> float:
    """Return the AB magnitude of a flux in nJy.

    Raises
    ------
    ValueError
        If the flux is not positive.
    """
    return ZERO_POINT - 2.5 * math.log10(flux_njy)


def tai_to_utc(mjd_tai: float) -> float:
    """Turn MJD TAI into MJD UTC; on a day with a leap second the day is that much longer, as in ERFA."""
    tai = MJD_EPOCH + timedelta(days=mjd_tai)
    utc = tai - timedelta(seconds=tai_minus_utc(tai))
    return mjd_utc_of(tai - timedelta(seconds=tai_minus_utc(utc)))


def utc_to_tai(mjd_utc: float) -> float:
    """Turn MJD UTC into MJD TAI."""
    day, fraction = divmod(mjd_utc, 1)
    midnight = MJD_EPOCH + timedelta(days=day)
    seconds = tai_minus_utc(midnight) + fraction * _day_length(midnight)
    return day + seconds / 86400


def mjd_utc_of(moment: datetime) -> float:
    """Return the MJD UTC of a moment (with its time zone)."""
    utc = moment.astimezone(UTC)
    midnight = utc.replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - MJD_EPOCH).days + (utc - midnight).total_seconds() / _day_length(midnight)


def _day_length(midnight: datetime) -> int:
    return 86400 + tai_minus_utc(midnight + timedelta(days=1)) - tai_minus_utc(midnight)
