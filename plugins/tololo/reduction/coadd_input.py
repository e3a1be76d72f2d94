"""Inputs of a coadd: the warps of a patch, one visit each, and all of them on one box of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from lsst.images.cells import CellCoadd, CellGrid, CellIJ
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.images import Planes, planes_of
from tololo.reduction.formats.masks import BIT
from tololo.reduction.kernels.psf import half_maximum_width
from tololo.reduction.kernels.stack import MOST_INPUTS
from tololo.reduction.patch_warp import PSF_SIZE


@dataclass
class CoaddInput:
    """One warp that goes into a coadd, with the visit and the night it comes from.

    Attributes
    ----------
    visit : `int`
        The visit.
    planes : `Planes`
        Its pixels, cut at the borders of cells; nJy and nJy².
    psfs : `numpy.ndarray`, (n_cells_y, n_cells_x, size, size)
        The PSF at the centre of each cell; NaN where there is none.
    day_obs : `int`
        The observing night, ``YYYYMMDD``; 0 where it is not known.
    """

    visit: int
    planes: Planes
    psfs: NDArray[np.float64]
    day_obs: int = 0

    @classmethod
    def from_cell_coadd(cls, visit: int, warped: CellCoadd) -> CoaddInput:
        """Take pixels and PSFs of a warp that is read back."""
        planes = planes_of(warped)
        psfs = cell_psfs(warped, warped.grid, planes)
        return cls(visit, planes, psfs, int(str(warped.metadata.get("DAY_OBS") or 0)))

    @property
    def noise(self) -> float:
        """Median noise of the good pixels, nJy; infinite if there is none."""
        good = ~self.planes.bad
        return float(np.sqrt(np.median(self.planes.variance[good]))) if good.any() else float("inf")

    @property
    def weight(self) -> float:
        """Inverse of the median variance of the good pixels."""
        return self.noise**-2

    @property
    def psf(self) -> NDArray[np.float64] | None:
        """The median PSF of the cells, (size, size), of unit sum; `None` where no cell has one."""
        known = self.psfs[np.isfinite(self.psfs).all(axis=(2, 3))]
        if not len(known):
            return None
        middle = np.median(known, axis=0)
        return np.asarray(middle / middle.sum())

    @property
    def fwhm(self) -> float:
        """FWHM of the median PSF in pixels; NaN where it is not known."""
        psf = self.psf
        return float("nan") if psf is None else half_maximum_width(psf)


def strongest(inputs: Iterable[CoaddInput], most: int = MOST_INPUTS) -> tuple[list[CoaddInput], list[int]]:
    """Choose the warps that a coadd is made of, and hold no more of them at a time.

    Parameters
    ----------
    inputs : iterable of `CoaddInput`
        Those without a good pixel are dropped.
    most : `int`
        How many can be combined.

    Returns
    -------
    chosen : `list` [`CoaddInput`]
        Those that add most to what a coadd knows of point sources, over all the pixels that they cover.
    left_out : `list` [`int`]
        The other visits, in order.
    """
    chosen: list[tuple[float, CoaddInput]] = []
    left_out = []
    for item in inputs:
        if not item.weight > 0:
            continue
        strength = np.count_nonzero(~item.planes.bad) * item.weight / item.fwhm**2
        chosen.append((0.0 if np.isnan(strength) else float(strength), item))
        if len(chosen) > most:
            least = min(range(len(chosen)), key=lambda n: chosen[n][0])
            left_out.append(chosen.pop(least)[1].visit)
    return [item for _, item in chosen], sorted(left_out)


def cell_psfs(coadd: CellCoadd, grid: CellGrid, planes: Planes) -> NDArray[np.float64]:
    """Return the PSF of each cell, (n_y, n_x, size, size), NaN for cells without one."""
    ny, nx = planes.image.shape
    first = grid.index_of(y=planes.y0, x=planes.x0)
    psfs = np.full((ny // grid.cell_shape.y, nx // grid.cell_shape.x, PSF_SIZE, PSF_SIZE), np.nan)
    for i in range(psfs.shape[0]):
        for j in range(psfs.shape[1]):
            index = CellIJ(i=first.i + i, j=first.j + j)
            if index not in coadd.psf.bounds.missing:
                psfs[i, j] = coadd.psf[index].array
    return psfs


@dataclass
class Cube:
    """Warps on one box of pixels.

    Attributes
    ----------
    images, variances : `numpy.ndarray`, (n, ny, nx)
        NaN where a warp has no good pixel.
    masks : `numpy.ndarray`, (n, ny, nx)
        Mask bits.
    x0, y0 : `int`
        Coordinates of the first pixel.
    """

    images: NDArray[np.float32]
    variances: NDArray[np.float32]
    masks: NDArray[np.int32]
    x0: int
    y0: int

    @classmethod
    def of(cls, inputs: Sequence[CoaddInput]) -> Cube:
        """Put warps on the smallest box that holds them all.

        Raises
        ------
        BadInputError
            If there are none, or the planes of one differ in shape.
        """
        if not inputs:
            raise BadInputError("No warps to combine", "coadd", "give at least one")
        for item in inputs:
            planes = item.planes
            if not planes.image.shape == planes.variance.shape == planes.bits.shape:
                raise BadInputError(
                    f"Image, variance and mask of a warp differ in shape: {planes.image.shape}, "
                    f"{planes.variance.shape}, {planes.bits.shape}",
                    f"visit {item.visit}",
                    "make its warp again",
                )
        x0, y0 = min(item.planes.x0 for item in inputs), min(item.planes.y0 for item in inputs)
        x1 = max(item.planes.x0 + item.planes.image.shape[1] for item in inputs)
        y1 = max(item.planes.y0 + item.planes.image.shape[0] for item in inputs)
        shape = (len(inputs), y1 - y0, x1 - x0)
        images = np.full(shape, np.nan, np.float32)
        variances = np.full(shape, np.nan, np.float32)
        masks = np.full(shape, BIT["NO_DATA"], np.int32)
        for n, item in enumerate(inputs):
            planes, bad = item.planes, item.planes.bad
            ny, nx = planes.image.shape
            view = np.s_[n, planes.y0 - y0 : planes.y0 - y0 + ny, planes.x0 - x0 : planes.x0 - x0 + nx]
            images[view] = np.where(bad, np.nan, planes.image)
            variances[view] = np.where(bad, np.nan, planes.variance)
            masks[view] = planes.bits
        return cls(images, variances, masks, x0, y0)
