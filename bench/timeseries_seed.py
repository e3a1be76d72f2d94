"""The peer of the time series: the steps that LCO publishes, by plain calls of its libraries.

Stars one after the other: matched to the frame's sources, summed in a circle, less the median of a ring. The
WCS is refined by a fit to the matched pairs; the time is the heliocentric one.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from astropy.wcs import WCS
from astropy.wcs.utils import fit_wcs_from_points
from numpy.typing import NDArray
from photutils.aperture import CircularAnnulus, CircularAperture

Floats = NDArray[np.float64]

PAIR = 10.0
"""Pixels within which a source and a star are one."""


def reduce_frame(path: Path, ra: Floats, dec: Floats, radius: float, out: Path) -> Floats:
    """Measure all stars of a frame; return their fluxes, counts a second."""
    with fits.open(path, memmap=False) as hdus:
        header, image, error = hdus["SCI"].header, hdus["SCI"].data, hdus["ERR"].data
        sources = Table(hdus["CAT"].data)
    warnings.simplefilter("ignore")
    wcs = WCS(header)
    x, y = wcs.all_world2pix(ra, dec, 0)
    own_x, own_y = np.asarray(sources["x"]) - 1, np.asarray(sources["y"]) - 1
    pairs = []
    for n in range(len(ra)):
        distance = np.hypot(own_x - x[n], own_y - y[n])
        nearest = int(np.argmin(distance))
        if distance[nearest] < PAIR:
            pairs.append((n, nearest))
    star, source = np.array(pairs).T
    places = SkyCoord(ra[star] * u.deg, dec[star] * u.deg)
    better = fit_wcs_from_points((own_x[source], own_y[source]), places, projection=wcs, sip_degree=1)
    x, y = better.all_world2pix(ra, dec, 0)
    flux, flux_err = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    ny, nx = image.shape
    for n in range(len(ra)):
        if not (0 <= x[n] < nx and 0 <= y[n] < ny):
            continue
        circle = CircularAperture((x[n], y[n]), radius)
        ring = CircularAnnulus((x[n], y[n]), radius + 3, radius + 5).to_mask(method="center")
        total, total_err = circle.do_photometry(image, error)
        values = ring.get_values(image)
        flux[n] = total[0] - np.median(values) * circle.area
        flux_err[n] = total_err[0]
    site = EarthLocation.from_geodetic(header["LONGITUD"], header["LATITUDE"], header["HEIGHT"])
    middle = Time(header["DATE-OBS"], scale="utc", location=site) + header["EXPTIME"] / 2 * u.s
    hjd = (middle + middle.light_travel_time(SkyCoord(ra[0] * u.deg, dec[0] * u.deg), "heliocentric")).jd
    seconds = float(header["EXPTIME"])
    table = Table({"flux": flux / seconds, "flux_err": flux_err / seconds})
    table.meta["hjd"] = float(hjd)
    table.write(out, format="parquet", overwrite=True)
    return np.asarray(flux / seconds)
