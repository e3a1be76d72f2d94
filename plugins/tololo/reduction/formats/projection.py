"""Pixels to sky and back on arrays, for LSST's sky projections; no points are allowed too."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from lsst.images import XY, Bounds, SkyFrame, SkyProjection, Transform
from numpy.typing import ArrayLike, NDArray

type Pair = tuple[NDArray[np.float64], NDArray[np.float64]]

SIP_ORDER = 4
"""Of the polynomials; TPV with its cubic terms is met to 1e-8 pixel over a DECam CCD."""


def projection_of[F: Any](wcs: WCS, frame: F, bounds: Bounds, shape: tuple[int, int]) -> SkyProjection[F]:
    """Return a FITS WCS as LSST's projection, with TAN-SIP beside it where the distortion is TPV.

    AST writes TPV in a dialect (QV cards) that ds9 and astropy take for plain TAN, a dozen pixels off; SIP is
    what they read from the files' headers.

    Parameters
    ----------
    wcs : `astropy.wcs.WCS`
        The exposure's own.
    frame : `lsst.images.Frame`
        Of its pixels.
    bounds : `lsst.images.Bounds`
        Where it holds.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the image.
    """
    exact = Transform.from_fits_wcs(wcs, frame, SkyFrame.ICRS, in_bounds=bounds)
    if not wcs.to_header(relax=True)["CTYPE1"].endswith("TPV"):  # in memory astropy calls it TAN
        return SkyProjection(exact)
    readable = Transform.from_fits_wcs(sip_wcs(wcs, shape), frame, SkyFrame.ICRS, in_bounds=bounds)
    return SkyProjection(exact, fits_approximation=readable)


def sip_wcs(wcs: WCS, shape: tuple[int, int], nodes: int = 15) -> WCS:
    """Fit TAN-SIP (Shupe et al. 2005, ASPC 347, 491) to a WCS over an image.

    Parameters
    ----------
    wcs : `astropy.wcs.WCS`
        Celestial, ICRS.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the image.
    nodes : `int`
        Points along each axis.
    """
    ny, nx = shape
    cx, cy = (nx - 1) / 2, (ny - 1) / 2
    x, y = (
        grid.ravel() for grid in np.meshgrid(np.linspace(0, nx - 1, nodes), np.linspace(0, ny - 1, nodes))
    )
    middle = wcs.all_pix2world([[cx, cy]], 0)[0]
    plane = WCS(naxis=2)
    plane.wcs.ctype, plane.wcs.cunit = ["RA---TAN", "DEC--TAN"], ["deg", "deg"]
    plane.wcs.crval, plane.wcs.crpix, plane.wcs.cdelt = middle, [1, 1], [1, 1]
    tangent = np.stack(plane.all_world2pix(*wcs.all_pix2world(x, y, 0), 0), axis=1)
    scale = max(nx, ny) / 2
    u, v = (x - cx) / scale, (y - cy) / scale
    powers = [(total - q, q) for total in range(1, SIP_ORDER + 1) for q in range(total + 1)]
    terms = np.stack([u**p * v**q for p, q in powers], axis=1)
    found, *_ = np.linalg.lstsq(terms, tangent, rcond=None)
    found /= np.array([scale ** (p + q) for p, q in powers])[:, None]
    cd = found[:2].T
    distortion = np.linalg.solve(cd, found[2:].T)
    header = fits.Header({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "RADESYS": "ICRS"})
    header.update(
        {"CRVAL1": float(middle[0]), "CRVAL2": float(middle[1]), "CRPIX1": cx + 1, "CRPIX2": cy + 1}
    )
    header.update({f"CD{i + 1}_{j + 1}": float(cd[i, j]) for i in range(2) for j in range(2)})
    for axis, row in zip("AB", distortion, strict=True):
        header[f"{axis}_ORDER"] = SIP_ORDER
        header.update({f"{axis}_{p}_{q}": float(c) for (p, q), c in zip(powers[2:], row, strict=True)})
    return WCS(header)


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
