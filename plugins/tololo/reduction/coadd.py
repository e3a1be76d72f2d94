"""Coadds: the warps of several visits combined into a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.table import Table
from lsst.images.cells import CellGrid
from numpy.typing import NDArray

from tololo.reduction.artefacts import find_artefacts, seeing_tolerance
from tololo.reduction.coadd_input import CoaddInput, Cube
from tololo.reduction.formats.images import Planes, patch_cells
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.tract import Patch
from tololo.reduction.kernels.stack import Method, stack
from tololo.reduction.patch_warp import PSF_SIZE

EXACT_SHARE = 0.8
"""Part of the visits of a cell that a pixel must have for the cell's PSF to be its own."""


@dataclass
class Template:
    """A coadd of visits on a patch.

    Attributes
    ----------
    planes : `Planes`
        Pixels; CLIPPED is set where an input was left out, INEXACT_PSF where the PSF is another for it.
    psfs : `numpy.ndarray`, (n_cells_y, n_cells_x, size, size)
        The PSF of each cell; NaN where there is none.
    depth : `numpy.ndarray`, (ny, nx), int16
        Number of inputs of each pixel.
    inputs : `astropy.table.Table`
        One row a visit, in the order of the visits: ``visit``, ``day_obs``, ``weight`` (nJy⁻²), ``seeing``
        (FWHM, arcsec), ``noise`` (nJy a pixel), ``used`` and ``clipped`` (pixels that went in, and good ones
        that were left out).
    """

    planes: Planes
    psfs: NDArray[np.float64]
    depth: NDArray[np.int16]
    inputs: Table

    @property
    def visits(self) -> list[int]:
        """The visits that went in."""
        return [int(visit) for visit in self.inputs["visit"]]

    @property
    def weights(self) -> list[float]:
        """The weight of each visit."""
        return [float(weight) for weight in self.inputs["weight"]]

    def coverage(self, patch: Patch) -> float:
        """Part of a patch's outer box where the coadd has data."""
        x0, y0, x1, y1 = patch.outer
        return float(np.count_nonzero(self.depth) / ((x1 - x0) * (y1 - y0)))


def combine(
    inputs: Sequence[CoaddInput], patch: Patch, method: Method, *, compare_warps: bool = True
) -> Template:
    """Combine the warps of several visits.

    Parameters
    ----------
    inputs : sequence of `CoaddInput`
        At least one, each with a good pixel.
    patch : `Patch`
        The patch.
    method : `str`
        ``mean``, ``median``, ``meanclip`` or ``min``; see `tololo.reduction.kernels.stack.stack`.
    compare_warps : `bool`
        Whether what is in one warp and not in the others is left out beforehand, whatever the method; see
        `tololo.reduction.artefacts.find_artefacts`.

    Returns
    -------
    template : `Template`
        Weights are the inverse of each warp's median variance; the PSF of a cell is the weighted mean of its
        inputs' (for ``median`` and ``min`` that is an approximation).

    Raises
    ------
    BadInputError
        On an unknown method, no inputs, or one whose planes differ in shape.
    """
    inputs = sorted(inputs, key=lambda item: item.visit)
    cube = Cube.of(inputs)
    psfs = [item.psf for item in inputs]
    weights = np.array([item.weight for item in inputs])
    good = [int(np.count_nonzero(np.isfinite(image))) for image in cube.images]
    moving = np.zeros(cube.images.shape[1:], bool)
    if compare_warps and len(inputs) > 1:
        artefacts = find_artefacts(cube, psfs, method)
        cube.images[artefacts] = np.nan
        moving = artefacts.any(axis=0)
    tolerance = None
    if method == "meanclip" and len(inputs) > 1:
        tolerance = seeing_tolerance(cube, psfs)
    result = stack(
        cube.images,
        cube.variances,
        cube.masks,
        weights,
        method,
        tolerance=tolerance,
        clipped_bit=BIT["CLIPPED"],
    )
    planes = Planes(result.image, result.variance, result.mask.astype(np.int32), cube.x0, cube.y0)
    empty = ~np.isfinite(result.image)
    planes.bits[moving] |= BIT["CLIPPED"]
    planes.bits[empty] |= BIT["NO_DATA"]
    cells, depth = _mean_psfs(inputs, weights, planes, patch_cells(patch))
    planes.bits[~empty & (result.n_used < EXACT_SHARE * depth)] |= BIT["INEXACT_PSF"]
    used = [
        int(np.count_nonzero(np.isfinite(image))) - clipped
        for image, clipped in zip(cube.images, result.clipped, strict=True)
    ]
    table = _inputs_table(inputs, weights, used, good, patch.tract.pixel_scale)
    return Template(planes, cells, result.n_used, table)


def _inputs_table(
    inputs: Sequence[CoaddInput],
    weights: NDArray[np.float64],
    used: Sequence[int],
    good: Sequence[int],
    pixel_scale: float,
) -> Table:
    """Say of each visit what it has given to a coadd."""
    table = Table()
    table["visit"] = np.array([item.visit for item in inputs], np.int64)
    table["day_obs"] = np.array([item.day_obs for item in inputs], np.int64)
    table["weight"] = weights * u.nJy**-2
    table["seeing"] = np.array([item.fwhm * pixel_scale for item in inputs]) * u.arcsec
    table["noise"] = np.array([item.noise for item in inputs]) * u.nJy
    table["used"] = np.array(used, np.int64)
    table["clipped"] = np.array(good, np.int64) - table["used"]
    return table


def _mean_psfs(
    inputs: Sequence[CoaddInput], weights: NDArray[np.float64], planes: Planes, grid: CellGrid
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the mean PSF of each cell, and for each pixel how many inputs made that of its cell."""
    ny, nx = planes.image.shape
    sy, sx = grid.cell_shape.y, grid.cell_shape.x
    total = np.zeros((ny // sy, nx // sx, PSF_SIZE, PSF_SIZE))
    norm, number = np.zeros(total.shape[:2]), np.zeros(total.shape[:2], np.int64)
    for item, weight in zip(inputs, weights, strict=True):
        i, j = (item.planes.y0 - planes.y0) // sy, (item.planes.x0 - planes.x0) // sx
        view = np.s_[i : i + item.psfs.shape[0], j : j + item.psfs.shape[1]]
        known = np.isfinite(item.psfs).all(axis=(2, 3))
        total[view][known] += weight * item.psfs[known]
        norm[view][known] += weight
        number[view][known] += 1
    with np.errstate(invalid="ignore", divide="ignore"):
        psfs = np.asarray(np.where(norm[..., None, None] > 0, total / norm[..., None, None], np.nan))
    return psfs, number.repeat(sy, axis=0).repeat(sx, axis=1)
