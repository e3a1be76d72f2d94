"""How good a template is, patch by patch.

``template_metrics`` has one row:

======================  =====================================================================================
``tract``, ``patch``    with ``band``, which one
``ra``, ``dec``         centre of the inner box, degrees
``size``                its side, degrees
``visits``              visits that went in
``inputs``              median number of inputs of a covered pixel
``coverage``            covered part of the inner box
``seeing``              arcsec, FWHM of the PSF as the scorecard has it, median of the cells
``depth``               AB magnitude of 5 times the scatter of PSF fluxes on the blank sky
``noise``               nJy, scatter of the blank sky from pixel to pixel
``noise_ratio``         the same over what the variance plane says
``background``          scatter of the blank sky's level, in boxes of `BOX` pixels, over ``noise``
``clipped``             part of the covered pixels where an input was left out
======================  =====================================================================================

A value that cannot be measured is NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.images.cells import CellCoadd
from numpy.typing import NDArray

from tololo.reduction.coadd_input import cell_psfs
from tololo.reduction.formats.images import Planes, planes_of
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.tract import Patch
from tololo.reduction.kernels.psf import SIGMA_TO_FWHM, adaptive_moments

BOX = 100
"""Pixels; unevenness of the background is looked for on this scale."""

EVERY = 2
"""Of rows and columns every second one is enough for the scatter of several million pixels."""

LEAST_BLANK = 500
"""Blank pixels that a scatter needs."""

REACH, SPACING = 10, 10
"""Pixels: how far a PSF flux gathers light, and how far apart fluxes of the blank sky are measured."""

BLANK_SHARE = 0.9
"""Part of a flux's weight that has to lie on blank pixels."""

LEAST_FLUXES = 100
"""Fluxes that a depth needs."""

MOST_CELLS = 25
"""Cells whose PSF is measured."""

NJY_ZERO_POINT = 31.4
"""AB magnitude of 1 nJy."""


def measure(coadd: CellCoadd, patch: Patch) -> Table:
    """Measure the template of one patch and band.

    Parameters
    ----------
    coadd : `lsst.images.cells.CellCoadd`
    patch : `~tololo.reduction.formats.tract.Patch`

    Returns
    -------
    metrics : `astropy.table.Table`
        One row, as above.
    """
    planes = planes_of(coadd)
    scale = patch.tract.pixel_scale
    seeing, psf = _psf(cell_psfs(coadd, coadd.grid, planes))
    noise, ratio, background, error = _sky(planes, psf)
    x0, y0, x1, y1 = patch.inner
    ra, dec = patch.tract.pixel_to_sky(np.array([(x0 + x1 - 1) / 2]), np.array([(y0 + y1 - 1) / 2]))
    covered = np.isfinite(planes.image) & ((planes.bits & BIT["NO_DATA"]) == 0)
    clipped = np.count_nonzero(covered & ((planes.bits & BIT["CLIPPED"]) != 0))
    row: dict[str, Any] = {
        "tract": np.int64(patch.tract.id),
        "patch": np.int64(patch.id),
        "band": str(coadd.band),
        "ra": float(ra[0]),
        "dec": float(dec[0]),
        "size": (x1 - x0) * scale / 3600,
        "visits": np.int64(len(str(coadd.metadata["VISITS"]).split(","))),
        "inputs": float(str(coadd.metadata["DEPTH"])),
        "coverage": _inside(covered, planes, patch) / ((x1 - x0) * (y1 - y0)),
        "seeing": seeing * scale,
        "depth": NJY_ZERO_POINT - 2.5 * math.log10(5 * error) if error > 0 else math.nan,
        "noise": noise,
        "noise_ratio": ratio,
        "background": background,
        "clipped": float(clipped / covered.sum()) if covered.any() else math.nan,
    }
    return Table([row])


def _inside(covered: NDArray[np.bool_], planes: Planes, patch: Patch) -> int:
    """Count the covered pixels of the inner box."""
    x0, y0, x1, y1 = patch.inner
    rows = slice(max(0, y0 - planes.y0), max(0, y1 - planes.y0))
    columns = slice(max(0, x0 - planes.x0), max(0, x1 - planes.x0))
    return int(np.count_nonzero(covered[rows, columns]))


def _psf(psfs: NDArray[np.float64]) -> tuple[float, NDArray[np.float64] | None]:
    """Return the median FWHM of the cells' PSFs, pixels, and their mean, of unit sum."""
    known = psfs[np.isfinite(psfs).all(axis=(2, 3))]
    if not len(known):
        return math.nan, None
    chosen = known[:: -(-len(known) // MOST_CELLS)]
    mean = chosen.mean(axis=0)
    return float(np.median([_width(psf) for psf in chosen])), mean / mean.sum()


def _width(psf: NDArray[np.float64]) -> float:
    """Return the FWHM, pixels, of the Gaussian with the adaptive moments of a PSF, as that of a visit is."""
    out = np.full(5, math.nan)
    adaptive_moments(np.ascontiguousarray(psf), np.ones(psf.shape, dtype=np.bool_), out)
    return float(SIGMA_TO_FWHM * (out[2] * out[3] - out[4] ** 2) ** 0.25)


def _sky(planes: Planes, psf: NDArray[np.float64] | None) -> tuple[float, float, float, float]:
    """Return scatter of the blank sky, that over expectation, unevenness over scatter, error of a flux."""
    image = planes.image
    blank = ~planes.bad & ((planes.bits & BIT["DETECTED"]) == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        score = image / np.sqrt(planes.variance)
    some = np.s_[::EVERY, ::EVERY]
    known = score[some][blank[some]]
    if len(known) < LEAST_BLANK:
        return math.nan, math.nan, math.nan, math.nan
    middle, width = _clipped(known)
    with np.errstate(invalid="ignore"):
        blank &= abs(score - middle) < 3 * width
    noise = width * math.sqrt(float(np.median(planes.variance[some][blank[some]])))
    levels = _levels(image[some], blank[some])
    uneven = _scatter(levels) if len(levels) > 1 else math.nan
    error = math.nan if psf is None else _flux_error(image, blank, psf)
    return noise, width, uneven / noise if noise > 0 else math.nan, error


def _flux_error(image: NDArray[np.float32], blank: NDArray[np.bool_], psf: NDArray[np.float64]) -> float:
    """Return the scatter of PSF fluxes on the blank sky, nJy.

    Neighbouring pixels of a coadd share noise, the more so the more it was convolved; so the variance plane
    alone would promise too much.
    """
    middle = psf.shape[0] // 2
    kernel = psf[middle - REACH : middle + REACH + 1, middle - REACH : middle + REACH + 1]
    size = 2 * REACH + 1
    if min(image.shape) < size:
        return math.nan
    pixels = np.where(blank, image, 0).astype(np.float32)
    fluxes = np.einsum("abij,ij->ab", _stamps(pixels, size), kernel.astype(np.float32))
    weight = np.einsum("abij,ij->ab", _stamps(blank.astype(np.float32), size), (kernel**2).astype(np.float32))
    good = weight > BLANK_SHARE * float((kernel**2).sum())
    if np.count_nonzero(good) < LEAST_FLUXES:
        return math.nan
    return _scatter(fluxes[good] / weight[good])


def _stamps(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return square stamps, (n_y, n_x, size, size), `SPACING` pixels from each other; a view."""
    return np.lib.stride_tricks.sliding_window_view(image, (size, size))[::SPACING, ::SPACING]


def _scatter(values: NDArray[Any]) -> float:
    """Return the standard deviation of Gaussian values, from their median absolute deviation."""
    return 1.4826 * float(np.median(abs(values - np.median(values))))


def _clipped(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return median and robust standard deviation (from the absolute deviation) of what is near the middle.

    Faint sources that nobody has masked make a tail on one side; three rounds at 3 sigma cut it off.
    """
    middle, width = float(np.median(values)), math.inf
    for _ in range(3):
        middle = float(np.median(values))
        width = _scatter(values)
        values = values[abs(values - middle) <= 3 * width]
    return middle, width


def _levels(image: NDArray[np.float32], blank: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the median of the blank sky in each box that has enough of it."""
    size = BOX // EVERY
    levels = []
    for y in range(0, image.shape[0] - size + 1, size):
        for x in range(0, image.shape[1] - size + 1, size):
            box = np.s_[y : y + size, x : x + size]
            values = image[box][blank[box]]
            if len(values) >= LEAST_BLANK:
                levels.append(float(np.median(values)))
    return np.array(levels)
