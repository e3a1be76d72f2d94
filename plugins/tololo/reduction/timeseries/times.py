"""The times of a frame: of its shutter, and as seen from the Sun and from the barycentre."""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers


@dataclass(frozen=True)
class FrameTimes:
    """Times of a frame, days.

    Attributes
    ----------
    start : `str`
        Begin of the exposure, UTC, ISO.
    mjd_utc, mjd_tdb : `float`
        Middle of the exposure at the observatory.
    hjd_utc, bjd_tdb : `float`
        The same, had the light gone to the Sun (UTC) or the barycentre of the solar system (TDB; Eastman,
        Siverd & Gaudi 2010, PASP 122, 935).
    """

    start: str
    mjd_utc: float
    mjd_tdb: float
    hjd_utc: float
    bjd_tdb: float


def frame_times(
    date_obs: str, exposure_time: float, ra: float, dec: float, site: tuple[float, float, float]
) -> FrameTimes:
    """Return the times of a frame.

    Parameters
    ----------
    date_obs : `str`
        Begin of the exposure, UTC, with or without a fraction of a second.
    exposure_time : `float`
        Seconds.
    ra, dec : `float`
        Target, ICRS degrees.
    site : `tuple` [`float`, `float`, `float`]
        Longitude and latitude of the observatory, degrees, and its height, m.

    Raises
    ------
    ValueError
        ``date_obs`` is no time.

    Notes
    -----
    With ERFA's own ephemeris and Earth orientation tables that are installed: no network is asked, and the
    light travel time is good to some microseconds of the Earth's rotation and below 0.1 ms of its orbit.
    """
    place = EarthLocation.from_geodetic(site[0] * u.deg, site[1] * u.deg, site[2] * u.m)
    start = Time(date_obs, format="isot", scale="utc", location=place)
    middle = start + exposure_time / 2 * u.s
    target = SkyCoord(ra * u.deg, dec * u.deg)
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("iers_degraded_accuracy", "ignore"):
        to_sun = middle.light_travel_time(target, "heliocentric", ephemeris="builtin")
        to_barycentre = middle.light_travel_time(target, "barycentric", ephemeris="builtin")
        return FrameTimes(
            start=str(start.isot),
            mjd_utc=float(middle.mjd),
            mjd_tdb=float(middle.tdb.mjd),
            hjd_utc=float((middle + to_sun).jd),
            bjd_tdb=float((middle.tdb + to_barycentre).jd),
        )
