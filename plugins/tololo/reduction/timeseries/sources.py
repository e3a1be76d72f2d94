"""Sources of a frame whose own pipeline has left no catalogue."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.background import estimate_level
from tololo.reduction.kernels.detection import detect_sources
from tololo.reduction.kernels.planes import check_planes
from tololo.reduction.kernels.psfstars import SHAPE_HALF_WIDTH, measure_shapes

THRESHOLD = 8.0
"""Signal to noise of a source that may place a frame."""


def find_sources(image: NDArray[np.float32], error: NDArray[np.float32], bad: NDArray[np.bool_]) -> Table:
    """Find the sources of a frame.

    Parameters
    ----------
    image, error : `numpy.ndarray`, (ny, nx), float32
        Counts, sky in them, and the standard deviation of each pixel.
    bad : `numpy.ndarray`, (ny, nx), bool
        Pixels not to be used.

    Returns
    -------
    sources : `astropy.table.Table`
        ``x``, ``y`` (pixels from 0), ``flux`` (counts), ``fwhm`` (pixels), ``ellipticity`` (1 less the ratio
        of the axes), bright ones first; empty where there is no sky to find them on.
    """
    # The images' types come with it, which a frame that has a catalogue need not wait for.
    from tololo.reduction.measurement import MOFFAT_WIDTH, first_psf, seeing

    try:
        sky = estimate_level(image, bad)
    except BadInputError:  # too few good pixels
        return no_sources()
    data, noise, masked = check_planes(image - sky, error**2, bad)
    found = detect_sources(
        data, noise, masked, first_psf(seeing(data, noise, masked)), THRESHOLD, deblend=False
    )
    shapes = np.full((len(found), 6), np.nan)
    measure_shapes(data, noise, masked, found["x"].copy(), found["y"].copy(), SHAPE_HALF_WIDTH, shapes)
    x, y, width, e1, e2, _ = shapes.T
    known = np.isfinite(x + y + width)
    # Of moments: (a² - b²) / (a² + b²) = e, thus b / a is the root of (1 - e) / (1 + e).
    e = np.minimum(np.hypot(e1, e2), 1.0)
    columns = {
        "x": np.where(known, x, found["x"]),
        "y": np.where(known, y, found["y"]),
        "flux": np.asarray(found["flux"], float),
        "fwhm": MOFFAT_WIDTH * width,
        "ellipticity": 1 - np.sqrt((1 - e) / (1 + e)),
    }
    return Table(columns)[np.argsort(-columns["flux"], kind="stable")]


def no_sources() -> Table:
    """Return a catalogue without sources."""
    return Table({name: np.empty(0) for name in ("x", "y", "flux", "fwhm", "ellipticity")})
