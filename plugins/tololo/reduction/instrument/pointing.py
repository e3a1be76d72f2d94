"""Where the CCDs look when all that is known is the pointing of the telescope."""

from __future__ import annotations

from functools import cache

import numpy as np
from lsst.sphgeom import ConvexPolygon, UnitVector3d
from numpy.typing import NDArray

from tololo.reduction.formats.tract import hull, outline
from tololo.reduction.instrument.detectors import HEIGHT, WIDTH, detector_geometry, detectors

PADDING = 300.0
"""Pixels by which the region of a detector is larger than the CCD: pointings are off by some arcseconds."""


def nominal_region(detector: int, ra: float, dec: float, padding: float = PADDING) -> ConvexPolygon:
    """Return the sky that a CCD covers by the camera's nominal geometry.

    Parameters
    ----------
    detector : `int`
        1 to 62.
    ra, dec : `float`
        Pointing, ICRS degrees.
    padding : `float`, optional
        Pixels to add on each side.

    Returns
    -------
    region : `lsst.sphgeom.ConvexPolygon`
        Hull of the corners and the middles of the sides (the distortion bends them).
    """
    x, y = outline((HEIGHT, WIDTH), padding)
    angle = detector_geometry(detector).to_field_angle.apply_forward(x=x, y=y)
    # The camera does not rotate: +y is east, +x is south.
    east, north = angle.y, -angle.x
    distance = np.hypot(east, north)
    along = np.divide(np.sin(distance), distance, out=np.ones_like(distance), where=distance > 0)
    east, north, ahead = east * along, north * along, np.cos(distance)
    sin0, cos0 = np.sin(np.radians(dec)), np.cos(np.radians(dec))
    return hull(
        (ra + np.degrees(np.arctan2(east, ahead * cos0 - north * sin0))) % 360,
        np.degrees(np.arcsin(ahead * sin0 + north * cos0)),
    )


def nominal_regions(ra: float, dec: float) -> dict[int, ConvexPolygon]:
    """Return what `nominal_region` does, of all detectors in 2 ms.

    Parameters
    ----------
    ra, dec : `float`
        Pointing, ICRS degrees.
    """
    sin_ra, cos_ra = np.sin(np.radians(ra)), np.cos(np.radians(ra))
    sin_dec, cos_dec = np.sin(np.radians(dec)), np.cos(np.radians(dec))
    turned = np.array(
        [
            [cos_dec * cos_ra, cos_dec * sin_ra, sin_dec],  # ahead
            [-sin_ra, cos_ra, 0.0],  # east
            [-sin_dec * cos_ra, -sin_dec * sin_ra, cos_dec],  # north
        ]
    )
    return {
        ccd: ConvexPolygon([UnitVector3d(*vertex) for vertex in vertices @ turned])
        for ccd, vertices in _outlines().items()
    }


@cache
def _outlines() -> dict[int, NDArray[np.float64]]:
    """Return the vertices of each detector's region where the telescope points at (0, 0), shape (n, 3)."""
    return {
        ccd: np.array(
            [[vertex.x(), vertex.y(), vertex.z()] for vertex in nominal_region(ccd, 0, 0).getVertices()]
        )
        for ccd in detectors()
    }
