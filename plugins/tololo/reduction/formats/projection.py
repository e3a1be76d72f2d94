"""Pixels to sky and back on arrays, for LSST's sky projections; no points are allowed too."""

from __future__ import annotations

from typing import Any

import numpy as np
from lsst.images import XY, SkyProjection
from numpy.typing import ArrayLike, NDArray

type Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def sky_to_pixel(projection: SkyProjection[Any], ra: ArrayLike, dec: ArrayLike) -> Pair:
    """Turn ICRS degrees into pixels (x, y)."""
    lon, lat = np.radians(np.atleast_1d(ra)).astype(float), np.radians(np.atleast_1d(dec)).astype(float)
    if not lon.size:
        return lon, lat
    point = projection.sky_to_pixel_transform.apply_forward(XY(x=lon, y=lat))
    return np.asarray(point.x), np.asarray(point.y)


def pixel_to_sky(projection: SkyProjection[Any], x: ArrayLike, y: ArrayLike) -> Pair:
    """Turn pixels into ICRS degrees (ra, dec)."""
    px, py = np.atleast_1d(x).astype(float), np.atleast_1d(y).astype(float)
    if not px.size:
        return px, py
    point = projection.pixel_to_sky_transform.apply_forward(XY(x=px, y=py))
    return np.degrees(np.asarray(point.x)) % 360, np.degrees(np.asarray(point.y))
