"""Where catalogued stars lie on a frame: its WCS, refined with the sources that its own pipeline found."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS, FITSFixedWarning, NoConvergence, WcsError
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.formats.tract import unit_vectors
from tololo.reduction.kernels.astrometry import PixelMap, align, fit_distortion
from tololo.reduction.timeseries.frames import Frame

Floats = NDArray[np.float64]

SEARCH = 30.0
"""Pixels by which the WCS of a frame may be off."""

SOURCE_ERROR, STAR_ERROR = 0.15, 0.1
"""Pixels; errors of places where nothing says them."""

MIN_STARS = 6
LARGEST_RMS = 0.7
"""Limits of a frame that is trusted: matched stars, and rms of their places in pixels."""


@dataclass(frozen=True)
class Placement:
    """Places of stars on a frame.

    Attributes
    ----------
    x, y : `numpy.ndarray`, (n,)
        Pixels from 0; also of stars beside the frame, NaN of those far away.
    n_matched : `int`
        Stars that refined the WCS.
    rms : `float`
        Of their places, per axis, pixels.
    shift : `float`
        By how much the frame's WCS was off in its middle, pixels.
    source : `numpy.ndarray`, (n,), int64
        Row in the frame's own catalogue, -1 of a star that is not in it.
    wcs : `astropy.wcs.WCS`
        As the frame has it.
    map : `PixelMap`
        From pixels by that WCS to pixels of the image.
    """

    x: Floats
    y: Floats
    n_matched: int
    rms: float
    shift: float
    source: NDArray[np.int64]
    wcs: WCS
    map: PixelMap

    def sky(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return ra and dec (ICRS degrees) of pixels of the image."""
        ra, dec = self.wcs.all_pix2world(*self.map.inverse(x, y), 0)
        return np.asarray(ra, float), np.asarray(dec, float)


def shows(frame: Frame, ra: float, dec: float) -> bool:
    """Tell whether a place lies on a frame by its own WCS, or so near that it may."""
    ny, nx = frame.image.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            x, y = _nominal(WCS(frame.header), (ny, nx), np.array([ra]), np.array([dec]))[0]
        except (WcsError, NoConvergence, ValueError, AttributeError):
            return False
    return bool(-SEARCH < x < nx + SEARCH and -SEARCH < y < ny + SEARCH)


def place(frame: Frame, ra: Floats, dec: Floats, brightness: Floats | None = None) -> Placement:
    """Find where stars lie on a frame; nothing is written into the frame.

    Parameters
    ----------
    frame : `Frame`
    ra, dec : `numpy.ndarray`, (n,)
        Stars, ICRS degrees.
    brightness : `numpy.ndarray`, (n,), optional
        Flux of each star in any unit, NaN where unknown: the bright ones are recognised first.

    Raises
    ------
    BadInputError
        The frame has no celestial WCS, or its sources cannot be recognised among the stars.
    """
    where, remedy = str(frame.path), "the other frames go on without it"
    shape = (frame.image.shape[0], frame.image.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            wcs = WCS(frame.header)
            if not wcs.has_celestial:
                raise ValueError("no celestial axes")
            nominal = _nominal(wcs, shape, ra, dec)
        except (WcsError, NoConvergence, ValueError, AttributeError) as error:
            raise BadInputError(
                f"The frame is set aside: it has no usable WCS: {error}", where, remedy
            ) from error
    ny, nx = shape
    with np.errstate(invalid="ignore"):
        near = (np.abs(nominal - [nx / 2, ny / 2]) < [nx / 2 + SEARCH, ny / 2 + SEARCH]).all(axis=1)
    known = np.flatnonzero(near)
    if brightness is not None:
        known = known[np.argsort(-np.nan_to_num(brightness[known], nan=-math.inf), kind="stable")]
    sources = frame.catalogue
    own = np.column_stack([np.asarray(sources[name], float) for name in ("x", "y")])
    order = np.argsort(-np.nan_to_num(np.asarray(sources["flux"], float), nan=-math.inf), kind="stable")
    try:
        (x, y), (nominal_x, nominal_y) = own[order].T, nominal[known].T
        start = align(x, y, nominal_x, nominal_y, shape, SEARCH)
        fit = fit_distortion(
            x,
            y,
            np.full(len(own), SOURCE_ERROR),
            nominal_x,
            nominal_y,
            np.full(len(known), STAR_ERROR),
            start,
            shape,
        )
    except NothingToDoError as error:
        raise BadInputError(f"The frame is set aside: {error.what}", where, remedy) from error
    matched = int(fit.used.sum())
    if matched < MIN_STARS or fit.rms > LARGEST_RMS:
        raise BadInputError(
            f"The frame is set aside: {matched} stars are recognised, to {fit.rms:.2f} pixels "
            f"(needed: {MIN_STARS} to {LARGEST_RMS:g})",
            where,
            remedy,
        )
    # A polynomial knows nothing of what is far beside the frame.
    px, py = nominal.T.copy()
    px[near], py[near] = fit.map(nominal[near, 0], nominal[near, 1])
    source = np.full(len(ra), -1, np.int64)
    source[known[fit.reference]] = order[fit.own]
    middle = np.array([[(nx - 1) / 2], [(ny - 1) / 2]])
    moved = np.array(fit.map(middle[0], middle[1])).reshape(2) - middle.reshape(2)
    return Placement(px, py, matched, fit.rms, float(np.hypot(*moved)), source, wcs, fit.map)


def _nominal(wcs: WCS, shape: tuple[int, int], ra: Floats, dec: Floats) -> Floats:
    """Return pixels by the frame's own WCS, (n, 2); NaN of stars that are far away.

    A plane has room for half of the sky only.
    """
    ny, nx = shape
    corner = wcs.all_pix2world([[(nx - 1) / 2, (ny - 1) / 2], [-SEARCH, -SEARCH]], 0)
    middle, edge = unit_vectors(*corner.T)
    reach = 1.1 * np.linalg.norm(edge - middle)
    near = np.linalg.norm(unit_vectors(ra, dec) - middle, axis=1) < reach
    pixels = np.full((len(ra), 2), np.nan)
    if near.any():
        pixels[near] = np.column_stack(wcs.all_world2pix(ra[near], dec[near], 0, quiet=True))
    return pixels
