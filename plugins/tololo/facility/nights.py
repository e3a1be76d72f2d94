"""What a night is: LSST's ``day_obs``, the date of TAI minus 12 hours, an integer YYYYMMDD.

Night 20180211 begins on 2018-02-11 at 12:00 TAI and ends 24 hours later, so a file that carries
180212 in UTC belongs to it. Nothing else in the house makes a date from a timestamp.

Calibrations have a night that they serve, and that is the archive's ``caldat``, whose day changes at 13:00 in
Chile. The two differ from noon TAI (8 or 9 in the morning there) to 13:00, when no exposure is on the sky: a
bias taken after the night serves the night that has just ended, one of the afternoon the night that comes.
Its ``day_obs`` in the Butler stays LSST's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from tololo.facility.errors import BadInputError

NIGHT_OFFSET = timedelta(hours=12)
MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)

_CHILE = ZoneInfo("America/Santiago")
_CALDAT_HOUR = 13

# TAI - UTC in seconds from that UTC date on (IERS Bulletin C). No leap second was announced after 2017.
_LEAP_SECONDS = (
    (date(1999, 1, 1), 32),
    (date(2006, 1, 1), 33),
    (date(2009, 1, 1), 34),
    (date(2012, 7, 1), 35),
    (date(2015, 7, 1), 36),
    (date(2017, 1, 1), 37),
)
_NIGHT = re.compile(r"\d{8}", re.ASCII)
_RANGE = re.compile(r"(\d{8})(?::|-|\.\.)(\d{8})", re.ASCII)
_GLOB = re.compile(r"[\d*?\[\]-]+", re.ASCII)
_REMEDY = "give a night as YYYYMMDD, for example 20180211"


def tai_minus_utc(utc: datetime) -> int:
    """Return TAI - UTC at a moment.

    Parameters
    ----------
    utc : `datetime.datetime`
        A time with its time zone.

    Returns
    -------
    seconds : `int`
        Leap seconds; 32 before 1999, which is older than any CCD mosaic here.

    Raises
    ------
    ValueError
        If the time has no time zone.
    """
    day = _aware(utc).date()
    return next((seconds for since, seconds in reversed(_LEAP_SECONDS) if day >= since), 32)


def night_of(utc: datetime) -> int:
    """Return the night (``day_obs``) of a moment.

    Parameters
    ----------
    utc : `datetime.datetime`
        A time with its time zone; any zone will do.

    Returns
    -------
    night : `int`
        YYYYMMDD, the date of TAI minus 12 hours.

    Raises
    ------
    ValueError
        If the time has no time zone.
    """
    tai = _aware(utc) + timedelta(seconds=tai_minus_utc(utc))
    return _number((tai - NIGHT_OFFSET).date())


def night_of_mjd_tai(mjd: float) -> int:
    """Return the night (``day_obs``) of a Modified Julian Date in TAI."""
    return _number((MJD_EPOCH + timedelta(days=mjd) - NIGHT_OFFSET).date())


def night_of_mjd_utc(mjd: float) -> int:
    """Return the night (``day_obs``) of a Modified Julian Date in UTC, as ``MJD-OBS`` in DECam headers."""
    return night_of(MJD_EPOCH + timedelta(days=mjd))


def night_served(utc: datetime, *, calibration: bool) -> int:
    """Return the night that an exposure serves: its ``day_obs``, or a calibration's ``caldat``.

    Parameters
    ----------
    utc : `datetime.datetime`
        When it began, with its time zone.
    calibration : `bool`
        Whether it is a bias, a dark or a dome flat.

    Returns
    -------
    night : `int`
        YYYYMMDD.

    Raises
    ------
    ValueError
        If the time has no time zone.
    """
    if not calibration:
        return night_of(utc)
    local = _aware(utc).astimezone(_CHILE)
    return _number(local.date() if local.hour >= _CALDAT_HOUR else local.date() - timedelta(days=1))


def night_bounds(night: int | str) -> tuple[datetime, datetime]:
    """Return when a night begins (inclusive) and ends (exclusive), in UTC."""
    first = _date(parse_night(night))
    return _noon_tai(first), _noon_tai(first + timedelta(days=1))


def just_ended(now: datetime) -> int:
    """Return the night that ended last before ``now``."""
    return shift(night_of(now), -1)


def shift(night: int | str, days: int) -> int:
    """Return the night some days later (or earlier, where ``days`` is negative)."""
    return _number(_date(parse_night(night)) + timedelta(days=days))


def parse_night(value: int | str) -> int:
    """Read a night.

    Parameters
    ----------
    value : `int` or `str`
        YYYYMMDD.

    Returns
    -------
    night : `int`

    Raises
    ------
    BadInputError
        If it is not a date of the calendar in that form.
    """
    text = str(value).strip()
    if not _NIGHT.fullmatch(text):
        raise BadInputError(f"{value!r} is not a night", "night", _REMEDY)
    try:
        return _number(_date(int(text)))
    except ValueError as error:
        raise BadInputError(f"{value!r} is no date of the calendar", "night", _REMEDY) from error


def resolve_night(partition_key: str | None, param: int | str | None, now: datetime) -> int:
    """Tell which night a run is about: partition key, else the ``night`` param, else the night just ended.

    Parameters
    ----------
    partition_key : `str` or `None`
        Key that the night timetable or a backfill gave to the run.
    param : `int`, `str` or `None`
        What the operator typed; empty for the night that just ended.
    now : `datetime.datetime`
        The present, with its time zone.

    Returns
    -------
    night : `int`

    Raises
    ------
    BadInputError
        If one is not a night, or key and param name different nights.
    """
    typed = parse_night(param) if param is not None and str(param).strip() else None
    if partition_key:
        key = parse_night(partition_key)
        if typed is not None and typed != key:
            raise BadInputError(
                f"The run is for night {key}, but its param names night {typed}",
                "param `night`",
                "leave the param empty, or trigger a run without a partition key",
            )
        return key
    return typed if typed is not None else just_ended(now)


def night_range(first: int | str, last: int | str) -> list[int]:
    """List the nights from ``first`` to ``last``, both included.

    Raises
    ------
    BadInputError
        If ``last`` comes before ``first``.
    """
    begin, end = _date(parse_night(first)), _date(parse_night(last))
    if end < begin:
        raise BadInputError(f"The range {first} to {last} ends before it begins", "nights", "swap the two")
    return [_number(begin + timedelta(days=n)) for n in range((end - begin).days + 1)]


def select_nights(spec: str | Sequence[int | str], known: Iterable[int | str]) -> list[int]:
    """Choose nights by list, range or glob.

    Parameters
    ----------
    spec : `str` or sequence
        Nights, separated by commas or blanks where it is a string. Each item is a night (``20180211``), a
        range (``20180201:20180228``, also ``-`` or ``..``) or a glob (``201802*``).
    known : iterable
        The nights that exist. Ranges and globs choose among these; a night named on its own is kept as it is.

    Returns
    -------
    nights : `list` [`int`]
        Without repetition, in time order.

    Raises
    ------
    BadInputError
        If an item is none of these, or nothing was asked for.
    """
    items = re.split(r"[,\s]+", spec.strip()) if isinstance(spec, str) else [str(item) for item in spec]
    existing = {parse_night(night) for night in known}
    chosen: set[int] = set()
    for item in filter(None, items):
        if span := _RANGE.fullmatch(item):
            first, last = parse_night(span[1]), parse_night(span[2])
            night_range(first, last)
            chosen |= {night for night in existing if first <= night <= last}
        elif not item.isdigit() and _GLOB.fullmatch(item):
            chosen |= {night for night in existing if fnmatchcase(str(night), item)}
        else:
            chosen.add(parse_night(item))
    if not any(items):
        raise BadInputError(
            "No nights were named", "nights", "name nights, a range (A:B) or a glob (201802*)"
        )
    return sorted(chosen)


def _aware(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError(f"{time!r} has no time zone")
    return time.astimezone(UTC)


def _date(night: int) -> date:
    return date(night // 10000, night // 100 % 100, night % 100)


def _number(day: date) -> int:
    return day.year * 10000 + day.month * 100 + day.day


def _noon_tai(day: date) -> datetime:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return noon - timedelta(seconds=tai_minus_utc(noon))
