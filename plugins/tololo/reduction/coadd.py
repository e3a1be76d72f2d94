"""Warps of visits onto patches, and their combination into a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lsst.images import VisitImage
from lsst.images.cells import CellCoadd, CellGrid
from numpy.typing import NDArray
from scipy import ndimage

from tololo.reduction.formats.images import (
    Planes,
    cell_centers,
    cell_coadd,
    empty_planes,
    patch_cells,
    planes_of,
    snap_to_cells,
)
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.projection import pixel_to_sky, sky_to_pixel
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.formats.tract import Patch
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.stack import Method, stack
from tololo.reduction.kernels.warp import STEP, Transform, Warped, area_ratio, grid_of, warp

PSF_SIZE = 43
"""Pixels; coadds of different seeing need stamps of one size."""

SEEING_REACH = 3
"""Pixels; how far the light lies from which seeing moves some to a pixel, or takes it."""

EXACT_SHARE = 0.8
"""Part of the visits of a cell that a pixel must have for the cell's PSF to be its own."""

FAINTEST_WING = 1e-3
"""Of the peak: PSFs are compared where they are brighter."""


def overlap_box(image: VisitImage, patch: Patch) -> tuple[int, int, int, int] | None:
    """Return the part (x0, y0, x1, y1) of a patch that an image covers, in whole cells; `None` if nothing."""
    ny, nx = image.image.array.shape
    x = np.concatenate([np.linspace(-0.5, nx - 0.5, 9)] * 2 + [np.full(9, -0.5), np.full(9, nx - 0.5)])
    y = np.concatenate([np.full(9, -0.5), np.full(9, ny - 0.5)] + [np.linspace(-0.5, ny - 0.5, 9)] * 2)
    tx, ty = patch.tract.sky_to_pixel(*pixel_to_sky(image.sky_projection, x, y))
    x0, y0, x1, y1 = patch.outer
    box = (
        max(x0, int(np.floor(tx.min()))),
        max(y0, int(np.floor(ty.min()))),
        min(x1, int(np.ceil(tx.max())) + 1),
        min(y1, int(np.ceil(ty.max())) + 1),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
        return None
    return snap_to_cells(patch_cells(patch), box)


def detector_to_tract(image: VisitImage, patch: Patch, x0: int, y0: int) -> Any:
    """Return the map from pixels of a box of a tract (origin x0, y0) to pixels of an image."""

    def transform(
        x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        ra, dec = patch.tract.pixel_to_sky(x + x0, y + y0)
        return sky_to_pixel(image.sky_projection, ra, dec)

    return transform


def resample(
    source: Planes, transform: Transform, shape: tuple[int, int]
) -> tuple[Warped, NDArray[np.float64]]:
    """Resample planes (Lanczos 3), the flux of stars kept; also return the output pixels' areas on a grid."""
    grid_x, grid_y = grid_of(transform, shape)
    area = area_ratio(grid_x, grid_y)
    warped = warp(
        source.image, source.variance, source.bits, source.bad, grid_x, grid_y, STEP, shape, area=area
    )
    return warped, area


def warp_psf(
    psf: PixelPsf, x: float, y: float, jacobian: NDArray[np.float64], size: int = PSF_SIZE
) -> NDArray[np.float64]:
    """Resample a PSF onto other pixels.

    Parameters
    ----------
    psf : `PixelPsf`
        The PSF of the image.
    x, y : `float`
        Where on the image.
    jacobian : `numpy.ndarray`, (2, 2)
        Change of the image's (x, y) with the new pixels' (x, y).
    size : `int`
        Width of the result.

    Returns
    -------
    kernel : `numpy.ndarray`, (size, size)
        Unit sum, centred.
    """
    kernel = psf.kernel(x, y)
    half = size // 2
    # A margin of zeros: beyond the stamp the PSF is taken to be dark.
    margin = int(np.ceil(half * 1.5)) + 4
    padded = np.pad(kernel, margin).astype(np.float32)
    center = padded.shape[0] // 2
    offset = np.arange(2) * size - half
    dx, dy = np.meshgrid(offset.astype(float), offset.astype(float))
    grid_x = center + jacobian[0, 0] * dx + jacobian[0, 1] * dy
    grid_y = center + jacobian[1, 0] * dx + jacobian[1, 1] * dy
    flat = np.ones_like(padded)
    warped = warp(
        padded,
        flat,
        np.zeros(padded.shape, np.uint8),
        np.zeros(padded.shape, bool),
        grid_x,
        grid_y,
        size,
        (size, size),
    )
    result = np.where(np.isfinite(warped.image), warped.image, 0.0).astype(float)
    return np.asarray(result / result.sum())


def jacobian_at(transform: Any, x: float, y: float) -> NDArray[np.float64]:
    """Return d(image x, y)/d(x, y) of a pixel map at a point, by differences over one pixel."""
    px, py = transform(np.array([x - 0.5, x + 0.5, x, x]), np.array([y, y, y - 0.5, y + 0.5]))
    return np.array([[px[1] - px[0], px[3] - px[2]], [py[1] - py[0], py[3] - py[2]]])


@dataclass
class PatchWarp:
    """The detectors of one visit on a patch: pixels, and the PSF of each cell (NaN where there is none)."""

    planes: Planes
    psfs: NDArray[np.float64]


def warp_visit(images: Sequence[VisitImage], patch: Patch) -> PatchWarp | None:
    """Resample the images of one visit onto a patch (Lanczos 3); `None` if none of them reaches it.

    A star keeps its flux: each output pixel is scaled with its area in input pixels.
    """
    boxes = [(image, box) for image in images if (box := overlap_box(image, patch)) is not None]
    if not boxes:
        return None
    corners = np.array([box for _, box in boxes])
    x0, y0 = (int(v) for v in corners[:, :2].min(axis=0))
    x1, y1 = (int(v) for v in corners[:, 2:].max(axis=0))
    planes = empty_planes((x0, y0, x1, y1))
    grid = patch_cells(patch)
    center_x, center_y = cell_centers(grid, planes)
    psfs = np.full((*center_x.shape, PSF_SIZE, PSF_SIZE), np.nan)
    for image, box in boxes:
        _paste(image, patch, box, planes)
        _paste_psfs(image, patch, (center_x, center_y), psfs)
    return PatchWarp(planes, psfs)


def _paste(image: VisitImage, patch: Patch, box: tuple[int, int, int, int], planes: Planes) -> None:
    source = planes_of(image)
    shape = (box[3] - box[1], box[2] - box[0])
    transform = detector_to_tract(image, patch, box[0], box[1])
    result, _ = resample(source, transform, shape)
    view = np.s_[box[1] - planes.y0 : box[3] - planes.y0, box[0] - planes.x0 : box[2] - planes.x0]
    fresh = np.isfinite(result.image)
    planes.image[view][fresh] = result.image[fresh]
    planes.variance[view][fresh] = result.variance[fresh]
    planes.bits[view][fresh] = result.mask_bits[fresh]


def _paste_psfs(
    image: VisitImage,
    patch: Patch,
    centers: tuple[NDArray[np.float64], NDArray[np.float64]],
    psfs: NDArray[np.float64],
) -> None:
    psf = from_piff(image.psf)
    transform = detector_to_tract(image, patch, 0, 0)
    px, py = transform(centers[0].ravel(), centers[1].ravel())
    px, py = px.reshape(centers[0].shape), py.reshape(centers[0].shape)
    ny, nx = image.image.array.shape
    reach = 0.75 * max(patch_cells(patch).cell_shape.x, patch_cells(patch).cell_shape.y)
    near = (px > -reach) & (px < nx + reach) & (py > -reach) & (py < ny + reach)
    for i, j in np.argwhere(near):
        x, y = np.clip(px[i, j], 0, nx - 1), np.clip(py[i, j], 0, ny - 1)
        jacobian = jacobian_at(transform, centers[0][i, j], centers[1][i, j])
        psfs[i, j] = warp_psf(psf, float(x), float(y), jacobian)


def to_cell_coadd(
    warped: PatchWarp, skymap: str, patch: Patch, band: str, metadata: dict[str, Any]
) -> CellCoadd:
    """Return a warp as the image type that files hold."""
    return cell_coadd(warped.planes, warped.psfs, skymap, patch.tract, patch, band, metadata)


@dataclass
class CoaddInput:
    """One warp that goes into a coadd, with the visit it comes from."""

    visit: int
    planes: Planes
    psfs: NDArray[np.float64]

    @classmethod
    def from_cell_coadd(cls, visit: int, warped: CellCoadd) -> CoaddInput:
        """Take pixels and PSFs of a warp that is read back."""
        planes = planes_of(warped)
        grid = warped.grid
        psfs = cell_psfs(warped, grid, planes)
        return cls(visit, planes, psfs)

    @property
    def weight(self) -> float:
        """Inverse of the median variance of the good pixels."""
        good = ~self.planes.bad
        return float(1.0 / np.median(self.planes.variance[good])) if good.any() else 0.0


def cell_psfs(coadd: CellCoadd, grid: CellGrid, planes: Planes) -> NDArray[np.float64]:
    """Return the PSF of each cell, (n_y, n_x, size, size), NaN for cells without one."""
    from lsst.images.cells import CellIJ

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
class Template:
    """A coadd of visits on a patch."""

    planes: Planes
    psfs: NDArray[np.float64]
    depth: NDArray[np.int16]
    visits: list[int]
    weights: list[float]


def combine(inputs: Sequence[CoaddInput], patch: Patch, method: Method) -> Template:
    """Combine the warps of several visits.

    Parameters
    ----------
    inputs : sequence of `CoaddInput`
        At least one.
    patch : `Patch`
        The patch.
    method : `str`
        ``mean``, ``median``, ``meanclip`` or ``min``; see `tololo.reduction.kernels.stack.stack`.

    Returns
    -------
    template : `Template`
        Weights are the inverse of each warp's median variance; the PSF of a cell is the weighted mean of its
        inputs' (for ``median`` and ``min`` that is an approximation).
    """
    x0 = min(item.planes.x0 for item in inputs)
    y0 = min(item.planes.y0 for item in inputs)
    x1 = max(item.planes.x0 + item.planes.image.shape[1] for item in inputs)
    y1 = max(item.planes.y0 + item.planes.image.shape[0] for item in inputs)
    shape = (len(inputs), y1 - y0, x1 - x0)
    images = np.full(shape, np.nan, np.float32)
    variances = np.full(shape, np.nan, np.float32)
    masks = np.full(shape, BIT["NO_DATA"], np.int32)
    for n, item in enumerate(inputs):
        ny, nx = item.planes.image.shape
        view = np.s_[
            n, item.planes.y0 - y0 : item.planes.y0 - y0 + ny, item.planes.x0 - x0 : item.planes.x0 - x0 + nx
        ]
        bad = item.planes.bad
        images[view] = np.where(bad, np.nan, item.planes.image)
        variances[view] = np.where(bad, np.nan, item.planes.variance)
        masks[view] = item.planes.bits
    weights = np.array([item.weight for item in inputs])
    tolerance = None
    if method == "meanclip" and len(inputs) > 1:
        tolerance = seeing_tolerance(images, variances, masks, [item.psfs for item in inputs])
    result = stack(images, variances, masks, weights, method, tolerance=tolerance, clipped_bit=BIT["CLIPPED"])
    planes = Planes(result.image, result.variance, result.mask.astype(np.int32), x0, y0)
    empty = ~np.isfinite(result.image)
    planes.bits[empty] |= BIT["NO_DATA"]
    psfs, depth = _mean_psfs(inputs, weights, planes, patch_cells(patch))
    planes.bits[~empty & (result.n_used < EXACT_SHARE * depth)] |= BIT["INEXACT_PSF"]
    return Template(planes, psfs, result.n_used, [item.visit for item in inputs], [float(w) for w in weights])


def seeing_tolerance(
    images: NDArray[np.float32],
    variances: NDArray[np.float32],
    masks: NDArray[np.int32],
    psfs: Sequence[NDArray[np.float64]],
) -> NDArray[np.float32] | None:
    """Return by how much stars differ from input to input because of the seeing, as a variance.

    Around a star of flux F the inputs differ by F |P_i - P_j|. From the PSFs follows the largest part c that
    this makes of the star's light within `SEEING_REACH` pixels; so (c M / 2)^2, with M the brightest pixel of
    the inputs' median that is so near, lets no star be clipped for the seeing, however wide its range.

    Parameters
    ----------
    images, variances, masks : `numpy.ndarray`, (n, ny, nx)
        The warps.
    psfs : sequence of `numpy.ndarray`, (n_cells_y, n_cells_x, size, size)
        Their PSFs by cell, NaN where there is none.

    Returns
    -------
    tolerance : `numpy.ndarray`, (ny, nx), or `None`
        `None` where fewer than two PSFs are known.
    """
    typical = []
    for cells in psfs:
        known = cells[np.isfinite(cells).all(axis=(2, 3))]
        if len(known):
            typical.append(np.median(known, axis=0))
    if len(typical) < 2:
        return None
    size = 2 * SEEING_REACH + 1
    stamps = np.array(typical)
    middle = np.median(stamps, axis=0)
    near = ndimage.maximum_filter(middle, (size, size))
    seen = near > FAINTEST_WING * middle.max()
    others = [np.median(np.delete(stamps, n, axis=0), axis=0) for n in range(len(stamps))]
    change = float((np.abs(stamps - others)[:, seen] / near[seen]).max())
    # Of two inputs the median would hold what either of them has too much.
    common = stack(images, variances, masks, None, "min" if len(images) == 2 else "median")
    light = np.nan_to_num(common.image - 3 * np.sqrt(common.variance), nan=0.0)
    tolerance: NDArray[np.float32] = (change / 2 * ndimage.maximum_filter(np.maximum(light, 0), size)) ** 2
    return tolerance.astype(np.float32, copy=False)


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
