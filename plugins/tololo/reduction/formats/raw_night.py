"""Which night a file may be of that cannot be taken: so that it is named there, and in no other night."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from astropy.io import fits

from tololo.facility.errors import BadInputError
from tololo.facility.nights import MJD_EPOCH, night_served
from tololo.reduction.formats.raw_layout import iterate_hdus

_NAME = re.compile(r"c4d_(\d{6}_\d{6})_", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?", re.ASCII)


def possible_nights(path: Path) -> frozenset[int]:
    """Tell which nights a file may serve, by whatever time its header or its name gives.

    Parameters
    ----------
    path : `pathlib.Path`
        A file that need not be readable, nor FITS, nor there.

    Returns
    -------
    nights : `frozenset` [`int`]
        YYYYMMDD. Two where it is not known to be of the sky or a calibration, and that makes a difference;
        empty where nothing tells.

    Notes
    -----
    DATE-OBS goes before MJD-OBS (both UTC), and that before the time in the archive's name of a file
    (``c4d_YYMMDD_HHMMSS_...``).
    """
    utc = next(_times(path), None)
    if utc is None:
        return frozenset()
    return frozenset(night_served(utc, calibration=calibration) for calibration in (True, False))


def _times(path: Path) -> Iterator[datetime]:
    try:
        cards = next(iterate_hdus(path)).values()
    except (BadInputError, OSError, ValueError, fits.VerifyError):
        cards = {}
    date, mjd = str(cards.get("DATE-OBS", "")), cards.get("MJD-OBS")
    if _DATE.fullmatch(date):
        yield from _read(date, "%Y-%m-%dT%H:%M:%S.%f" if "." in date else "%Y-%m-%dT%H:%M:%S")
    if isinstance(mjd, int | float) and 40000 < mjd < 100000:
        yield MJD_EPOCH + timedelta(days=mjd)
    if match := _NAME.match(path.name):
        yield from _read(match[1], "%y%m%d_%H%M%S")


def _read(text: str, form: str) -> Iterator[datetime]:
    try:
        yield datetime.strptime(text[:26], form).replace(tzinfo=UTC)
    except ValueError:  # no date of the calendar
        return
