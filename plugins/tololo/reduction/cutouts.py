"""Cutouts around a source: small FITS images with variance, mask, PSF and a local projection."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, VarianceUncertainty
from astropy.wcs import WCS
from lsst.images import DifferenceImage, MaskedImage, SkyProjection, VisitImage
from numpy.typing import NDArray

from tololo.reduction.formats.images import Planes, planes_of
from tololo.reduction.formats.projection import pixel_to_sky
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.kernels.psf import PixelPsf

STAMP_PIXELS = 31
"""Side of a cutout."""


@dataclass(frozen=True)
class CutoutSource:
    """An image from which cutouts are taken; the PSF is `None` where it is not known (a template)."""

    planes: Planes
    projection: SkyProjection[Any]
    psf: PixelPsf | None

    @classmethod
    def of(cls, image: MaskedImage) -> CutoutSource:
        """Take the planes, projection and PSF of an image that is read back."""
        psf = from_piff(image.psf) if isinstance(image, VisitImage | DifferenceImage) else None
        assert image.sky_projection is not None
        return cls(planes_of(image), image.sky_projection, psf)


def cutout(source: CutoutSource, x: float, y: float, size: int = STAMP_PIXELS) -> CCDData:
    """Cut a square out of an image.

    Parameters
    ----------
    source : `CutoutSource`
    x, y : `float`
        Pixel at its centre, after rounding.
    size : `int`, optional
        Side, odd.

    Returns
    -------
    cutout : `astropy.nddata.CCDData`
        nJy; NaN and masked beyond the edge of the image. ``uncertainty`` is the variance, ``mask`` the
        pixels that are not to be measured, ``wcs`` a tangent plane at the source, ``psf`` the PSF there.
        ``CUTMINX`` and ``CUTMINY`` are the pixels of the image before the first ones of the cutout.
    """
    planes = source.planes
    first_x, first_y = first_pixels(x, y, size)
    left, bottom = first_x - planes.x0, first_y - planes.y0
    image, variance = (square(plane, left, bottom, size) for plane in (planes.image, planes.variance))
    bits = square(planes.bits, left, bottom, size, 0)
    return CCDData(
        image,
        uncertainty=VarianceUncertainty(variance),
        mask=Planes(image, variance, bits).bad,
        wcs=local_wcs(source.projection, x, y, first_x, first_y),
        unit=u.nJy,
        meta={"CUTMINX": first_x - 1, "CUTMINY": first_y - 1},
        psf=None if source.psf is None else source.psf.kernel(x, y).astype(np.float32),
    )


def first_pixels(x: float, y: float, size: int = STAMP_PIXELS) -> tuple[int, int]:
    """Return x and y of the first pixels of a square around a pixel."""
    return math.floor(x + 0.5) - size // 2, math.floor(y + 0.5) - size // 2


def square[T: np.generic](
    plane: NDArray[T], left: int, bottom: int, size: int, beyond: float = math.nan
) -> NDArray[T]:
    """Cut a square out of a plane, from column ``left`` and row ``bottom`` on; ``beyond`` fills up."""
    out: NDArray[T] = np.full((size, size), beyond, dtype=plane.dtype)
    ny, nx = plane.shape
    x0, x1 = max(0, left), min(nx, left + size)
    y0, y1 = max(0, bottom), min(ny, bottom + size)
    if x0 < x1 and y0 < y1:
        out[y0 - bottom : y1 - bottom, x0 - left : x1 - left] = plane[y0:y1, x0:x1]
    return out


def local_wcs(projection: SkyProjection[Any], x: float, y: float, first_x: int = 0, first_y: int = 0) -> WCS:
    """Return the tangent plane that a projection is around a pixel.

    Parameters
    ----------
    projection : `lsst.images.SkyProjection`
    x, y : `float`
        Pixel at which it touches.
    first_x, first_y : `int`, optional
        First pixel of the image that it is for.
    """
    step = 1.0
    ra, dec = pixel_to_sky(
        projection, x + step * np.array([0, 1, -1, 0, 0]), y + step * np.array([0, 0, 0, 1, -1])
    )
    xi, eta = _tangent(ra, dec, ra[0], dec[0])
    plane = WCS(naxis=2)
    plane.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    plane.wcs.cunit = ["deg", "deg"]
    plane.wcs.radesys = "ICRS"
    plane.wcs.crval = [ra[0], dec[0]]
    plane.wcs.crpix = [x - first_x + 1, y - first_y + 1]
    plane.wcs.cd = np.array([[xi[1] - xi[2], xi[3] - xi[4]], [eta[1] - eta[2], eta[3] - eta[4]]]) / (2 * step)
    return plane


def fits_bytes(data: CCDData) -> bytes:
    """Return a cutout as a FITS file, as LSST's alerts hold it: `astropy.nddata.CCDData.read` opens it."""
    with io.BytesIO() as file:
        data.write(file, format="fits", hdu_psf="PSFIMAGE")
        return file.getvalue()


def _tangent(
    ra: NDArray[np.float64], dec: NDArray[np.float64], ra0: float, dec0: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project the sky onto the plane that touches it at (ra0, dec0); degrees (Calabretta & Greisen 2002)."""
    turn, lat, lat0 = np.radians(ra - ra0), np.radians(dec), math.radians(dec0)
    cosine = math.sin(lat0) * np.sin(lat) + math.cos(lat0) * np.cos(lat) * np.cos(turn)
    xi = np.cos(lat) * np.sin(turn) / cosine
    eta = (math.cos(lat0) * np.sin(lat) - math.sin(lat0) * np.cos(lat) * np.cos(turn)) / cosine
    return np.degrees(xi), np.degrees(eta)
