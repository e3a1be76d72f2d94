"""Validity ranges of calibrations, as people write them and as the Butler keeps them.

A range is ``begin..end``. Each side is a night (``20190401``) or a moment in TAI (``2019-04-01T12:00:00``),
or is left out. A night at the end is meant as a whole; a moment at the end is not in the range. So
``20190401..20190415`` is exactly those 15 observing nights.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from tololo.facility.errors import BadInputError
from tololo.facility.nights import night_bounds, night_of_mjd_tai, parse_night, shift, tai_minus_utc

if TYPE_CHECKING:
    from astropy.time import Time
    from lsst.daf.butler import Timespan

_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d+)?)?", re.ASCII)
_REMEDY = (
    "write nights as 20190401..20190415 (both are in it) or 20190401.., or moments in TAI as "
    "2019-04-01T12:00:00..2019-04-16T12:00:00 (the second is not in it)"
)


def parse_validity(text: str) -> Timespan:
    """Read a validity range.

    Parameters
    ----------
    text : `str`
        ``20190401..20190415``, ``20190401`` (that night alone), ``20190401..``, ``..20190415``, moments in
        TAI in the place of nights, or ``..`` for ever.

    Returns
    -------
    timespan : `lsst.daf.butler.Timespan`
        Half-open, in TAI.

    Raises
    ------
    BadInputError
        If it cannot be read, is empty, or ends before it begins.
    """
    from lsst.daf.butler import Timespan

    first, dots, last = (part.strip() for part in str(text).partition(".."))
    if not dots:
        last = str(parse_night(first)) if _is_night(first) else ""
    if not dots and not last:
        raise BadInputError(f"{text!r} is not a validity range", "validity", _REMEDY)
    try:
        timespan = Timespan(_moment(first, 0), _moment(last, 1), padInstantaneous=False)
    except ValueError as error:
        raise BadInputError(
            f"The validity range {text!r} cannot be kept: {error}", "validity", _REMEDY
        ) from error
    if timespan.isEmpty():
        raise BadInputError(f"The validity range {text!r} ends before it begins", "validity", "swap the two")
    return timespan


def describe_validity(timespan: Timespan) -> str:
    """Write a validity range as `parse_validity` reads it: in nights where its ends are those of nights."""
    begin, end = timespan.begin, timespan.end
    first = "" if begin is None else _night_at(begin) or _iso(begin)
    last = "" if end is None else _night_before(end) or _iso(end)
    return first if first == last and first else f"{first}..{last}"


def _is_night(text: str) -> bool:
    return re.fullmatch(r"\d{8}", text, re.ASCII) is not None


def _moment(text: str, side: int) -> Time | None:
    """Return the moment that one side of a range means: side 0 its begin, side 1 its end."""
    from astropy.time import Time

    if not text:
        return None
    if _MOMENT.fullmatch(text):
        try:
            return Time(text, format="isot", scale="tai")
        except ValueError as error:
            raise BadInputError(f"{text!r} is no moment of the calendar", "validity", _REMEDY) from error
    if not _is_night(text):
        raise BadInputError(f"{text!r} is neither a night nor a moment in TAI", "validity", _REMEDY)
    utc = night_bounds(text)[side]
    return Time((utc + timedelta(seconds=tai_minus_utc(utc))).replace(tzinfo=None), scale="tai")


def _night_at(moment: Time) -> str:
    """Return the night that begins at a moment, to the nanosecond, or nothing."""
    from lsst.daf.butler import Timespan

    night = str(night_of_mjd_tai(moment.tai.mjd + 1e-6))  # past the border, whatever the rounding
    same = Timespan(_moment(night, 0), None).nsec == Timespan(moment, None).nsec
    return night if same else ""


def _night_before(moment: Time) -> str:
    """Return the night that ends at a moment, or nothing."""
    night = _night_at(moment)
    return str(shift(night, -1)) if night else ""


def _iso(moment: Time) -> str:
    from astropy.time import Time

    return str(Time(moment.tai, precision=9).isot).rstrip("0").removesuffix(".")
