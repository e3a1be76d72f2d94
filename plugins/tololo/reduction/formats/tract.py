"""Tracts and patches: squares of sky on one tangent plane each, with the geometry of ``lsst.skymap``.

A tract is square, centred on a point, and reaches a radius plus an overlap; it is made larger until it
holds a whole number of patches. The inner boxes of the patches tile it; their outer boxes add a border on all
sides except at the edge of the tract. Pixels are zero-based with centres at integers; boxes are half-open,
``(x0, y0, x1, y1)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, radians, tan

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from lsst.sphgeom import DISJOINT, ConvexPolygon, Region, UnitVector3d
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Box = tuple[int, int, int, int]
ARCSEC_PER_RADIAN = 180 * 3600 / np.pi


@dataclass(frozen=True)
class Patch:
    """A rectangle of a tract.

    Attributes
    ----------
    tract : `Tract`
        Tract it belongs to.
    id : `int`
        Sequential index, ``nx * y + x``: the Butler's patch.
    x, y : `int`
        Column and row in the tract.
    inner, outer : `tuple` [`int`, `int`, `int`, `int`]
        Boxes ``(x0, y0, x1, y1)``, half-open, in pixels of the tract.
    """

    tract: Tract
    id: int
    x: int
    y: int
    inner: Box
    outer: Box

    @property
    def region(self) -> ConvexPolygon:
        """Outer box on the sky."""
        return self.tract.polygon(self.outer)

    @property
    def inner_region(self) -> ConvexPolygon:
        """Inner box on the sky."""
        return self.tract.polygon(self.inner)

    def wcs_header(self) -> fits.Header:
        """Return the TAN header of an image of the outer box."""
        header = self.tract.wcs_header()
        header["CRPIX1"] -= self.outer[0]
        header["CRPIX2"] -= self.outer[1]
        return header


@dataclass(frozen=True)
class Tract:
    """A square of sky on one tangent plane.

    Parameters
    ----------
    id : `int`
        Number in the sky map.
    ra, dec : `float`
        Centre, ICRS degrees.
    radius : `float`
        Half the side of the sky that the tract is responsible for, degrees.
    overlap : `float`
        What it reaches beyond, degrees.
    pixel_scale : `float`
        Arcseconds per pixel at the centre.
    patch_size : `tuple` [`int`, `int`]
        Inner size of a patch in x and y, pixels.
    border : `int`
        Border of a patch, pixels.
    """

    id: int
    ra: float
    dec: float
    radius: float
    overlap: float
    pixel_scale: float
    patch_size: tuple[int, int]
    border: int

    @cached_property
    def _half(self) -> int:
        """Pixels from the central one to the edge, before rounding up to whole patches."""
        reach = tan(radians(self.radius + self.overlap)) * ARCSEC_PER_RADIAN / self.pixel_scale
        return ceil(reach - 0.5)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Number of patches in x and y."""
        side = 2 * self._half + 1
        return -(-side // self.patch_size[0]), -(-side // self.patch_size[1])

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.grid[0] * self.patch_size[0], self.grid[1] * self.patch_size[1]

    @cached_property
    def centre(self) -> tuple[float, float]:
        """Pixel position (x, y) of the centre."""
        side = 2 * self._half + 1
        x, y = (float(self._half + (size - side) // 2) for size in self.size)
        return x, y

    @property
    def bbox(self) -> Box:
        """The whole tract."""
        return 0, 0, *self.size

    @property
    def region(self) -> ConvexPolygon:
        """The whole tract on the sky."""
        return self.polygon(self.bbox)

    def patch(self, index: int) -> Patch:
        """Return a patch by its sequential index.

        Raises
        ------
        IndexError
            If the tract has no such patch.
        """
        nx, ny = self.grid
        if not 0 <= index < nx * ny:
            raise IndexError(f"tract {self.id} has patches 0 to {nx * ny - 1}, not {index}")
        y, x = divmod(index, nx)
        (width, height), (right, top) = self.patch_size, self.size
        x0, y0 = x * width, y * height
        inner = (x0, y0, x0 + width, y0 + height)
        outer = (
            max(inner[0] - self.border, 0),
            max(inner[1] - self.border, 0),
            min(inner[2] + self.border, right),
            min(inner[3] + self.border, top),
        )
        return Patch(self, index, x, y, inner, outer)

    @cached_property
    def patches(self) -> list[Patch]:
        """All patches, by sequential index."""
        return [self.patch(index) for index in range(self.grid[0] * self.grid[1])]

    def find_patches(self, region: Region) -> list[Patch]:
        """List the patches whose outer box overlaps a region of the sky."""
        if not overlaps(self.region, region):
            return []
        return [patch for patch in self.patches if overlaps(patch.region, region)]

    def wcs_header(self) -> fits.Header:
        """Return the TAN header of the tract: ICRS, degrees, x to the west, y to the north."""
        scale = self.pixel_scale / 3600
        cards = {
            "WCSAXES": 2,
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CUNIT1": "deg",
            "CUNIT2": "deg",
            "CRVAL1": self.ra,
            "CRVAL2": self.dec,
            "CRPIX1": self.centre[0] + 1,
            "CRPIX2": self.centre[1] + 1,
            "CD1_1": -scale,
            "CD1_2": 0.0,
            "CD2_1": 0.0,
            "CD2_2": scale,
            "RADESYS": "ICRS",
        }
        return fits.Header(cards.items())

    def wcs(self) -> WCS:
        """Return the WCS of the tract as astropy's."""
        return WCS(self.wcs_header())

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> tuple[Float, Float]:
        """Turn pixels into ICRS degrees.

        Parameters
        ----------
        x, y : array_like
            Pixel positions, any shape.

        Returns
        -------
        ra, dec : `numpy.ndarray`
            Degrees, the same shape; ra in [0, 360).
        """
        vectors = self._vectors(x, y)
        ra = np.degrees(np.arctan2(vectors[..., 1], vectors[..., 0])) % 360
        return ra, np.degrees(np.arctan2(vectors[..., 2], np.hypot(vectors[..., 0], vectors[..., 1])))

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> tuple[Float, Float]:
        """Turn ICRS degrees into pixels; NaN for what lies 90 degrees or more from the centre.

        Parameters
        ----------
        ra, dec : array_like
            Degrees, any shape.

        Returns
        -------
        x, y : `numpy.ndarray`
            Pixel positions, the same shape.
        """
        east, north, up = self._axes
        vectors = unit_vectors(ra, dec)
        depth = vectors @ up
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(depth > 0, ARCSEC_PER_RADIAN / self.pixel_scale / depth, np.nan)
        return self.centre[0] - scale * (vectors @ east), self.centre[1] + scale * (vectors @ north)

    def polygon(self, box: Box) -> ConvexPolygon:
        """Return a box on the sky, its edges at the outer edges of its pixels."""
        x0, y0, x1, y1 = (edge - 0.5 for edge in box)
        corners = self._vectors(np.array([x0, x1, x1, x0]), np.array([y0, y0, y1, y1]))
        return ConvexPolygon([UnitVector3d(*corner) for corner in corners.tolist()])

    @cached_property
    def _axes(self) -> tuple[Float, Float, Float]:
        """Unit vectors to the east, to the north and to the centre."""
        ra, dec = np.radians(self.ra), np.radians(self.dec)
        east = np.array([-np.sin(ra), np.cos(ra), 0.0])
        up = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
        return east, np.cross(up, east), up

    def _vectors(self, x: ArrayLike, y: ArrayLike) -> Float:
        east, north, up = self._axes
        scale = self.pixel_scale / ARCSEC_PER_RADIAN
        xi = (self.centre[0] - np.asarray(x, float)) * scale
        eta = (np.asarray(y, float) - self.centre[1]) * scale
        vectors = up + xi[..., None] * east + eta[..., None] * north
        return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> Float:
    """Turn ICRS degrees into unit vectors, shape ``(..., 3)``."""
    lon, lat = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def hull(ra: ArrayLike, dec: ArrayLike) -> ConvexPolygon:
    """Return the convex hull of points on the sky, ICRS degrees."""
    return ConvexPolygon([UnitVector3d(*vector) for vector in unit_vectors(ra, dec).reshape(-1, 3).tolist()])


def outline(shape: tuple[int, int], padding: float = 0.0) -> tuple[Float, Float]:
    """Return the x and y of the corners, the middles of the sides and the centre of an image.

    Parameters
    ----------
    shape : `tuple` [`int`, `int`]
        Height and width, pixels.
    padding : `float`, optional
        Pixels to add on each side.
    """
    height, width = shape
    x = np.array([-padding - 0.5, (width - 1) / 2, width - 0.5 + padding])
    y = np.array([-padding - 0.5, (height - 1) / 2, height - 0.5 + padding])
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x.ravel(), grid_y.ravel()


def overlaps(first: Region, second: Region) -> bool:
    """Tell whether two regions of the sky may have a point in common."""
    return not first.relate(second) & DISJOINT
