"""Modified Julian Dates in UTC and TAI, without astropy: for what must be quick to import."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tololo.facility.nights import MJD_EPOCH, tai_minus_utc

JD_MINUS_MJD = 2400000.5
"""Days."""


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
