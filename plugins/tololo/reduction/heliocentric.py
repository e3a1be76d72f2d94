"""Times of exposures as seen from the Sun."""

from __future__ import annotations

from collections.abc import Sequence

import astropy.units as u
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers

CERRO_TOLOLO = (-70.81489, -30.16606, 2215.0)
"""Longitude and latitude, degrees, and height, m, of the Blanco telescope."""


def hjd_utc(
    mjd_utc: Sequence[float], ra: float, dec: float, site: tuple[float, float, float] = CERRO_TOLOLO
) -> list[float]:
    """Return heliocentric Julian Dates, in UTC as the clock at the telescope.

    Parameters
    ----------
    mjd_utc : sequence of `float`
        At the observatory.
    ra, dec : `float`
        Target, ICRS degrees.
    site : `tuple` [`float`, `float`, `float`], optional
        Longitude and latitude of the observatory, degrees, and its height, m.

    Notes
    -----
    With ERFA's own ephemeris and Earth orientation tables that are installed: no network is asked.
    """
    place = EarthLocation.from_geodetic(site[0] * u.deg, site[1] * u.deg, site[2] * u.m)
    times = Time(list(mjd_utc), format="mjd", scale="utc", location=place)
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("iers_degraded_accuracy", "ignore"):
        delay = times.light_travel_time(
            SkyCoord(ra * u.deg, dec * u.deg), "heliocentric", ephemeris="builtin"
        )
        return [float(jd) for jd in (times + delay).jd]
