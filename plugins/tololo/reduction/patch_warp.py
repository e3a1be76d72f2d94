"""Warps: the detectors of a visit on the pixels of a patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lsst.images import VisitImage
from lsst.images.cells import CellCoadd
from numpy.typing import NDArray

from tololo.reduction.formats.images import (
    Planes,
    cell_centers,
    cell_coadd,
    empty_planes,
    patch_cells,
    planes_of,
    snap_to_cells,
)
from tololo.reduction.formats.projection import pixel_to_sky, sky_to_pixel
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.formats.tract import Patch
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.warp import STEP, Transform, Warped, area_ratio, grid_of, warp

PSF_SIZE = 43
"""Pixels; coadds of different seeing need stamps of one size."""


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


def warp_visit(images: Sequence[VisitImage], patch: Patch, *, white: bool = False) -> PatchWarp | None:
    """Resample the images of one visit onto a patch (Lanczos 3); `None` if none of them reaches it.

    A star keeps its flux: each output pixel is scaled with its area in input pixels. With ``white`` the
    variance is not that of the resampled pixels, which are smoother than the image and correlated, but that
    which independent pixels would have: what is smoothed further needs it.
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
        _paste(image, patch, box, planes, white)
        _paste_psfs(image, patch, (center_x, center_y), psfs)
    return PatchWarp(planes, psfs)


def _paste(
    image: VisitImage, patch: Patch, box: tuple[int, int, int, int], planes: Planes, white: bool
) -> None:
    source = planes_of(image)
    shape = (box[3] - box[1], box[2] - box[0])
    transform = detector_to_tract(image, patch, box[0], box[1])
    result, area = resample(source, transform, shape)
    variance = _white_variance(source, transform, area, result) if white else result.variance
    view = np.s_[box[1] - planes.y0 : box[3] - planes.y0, box[0] - planes.x0 : box[2] - planes.x0]
    fresh = np.isfinite(result.image)
    np.copyto(planes.image[view], result.image, where=fresh)
    np.copyto(planes.variance[view], variance, where=fresh)
    np.copyto(planes.bits[view], result.mask_bits, where=fresh)


def _white_variance(
    source: Planes, transform: Transform, area: NDArray[np.float64], result: Warped
) -> NDArray[np.float32]:
    """Interpolate the variance as if it were an image; it is no less than that of the resampled pixels."""
    shape = result.image.shape
    grid = grid_of(transform, shape)
    variance, bad = source.variance, source.bad
    smooth = warp(variance, variance, source.bits, bad, *grid, STEP, shape, area=area**2)
    return np.fmax(smooth.image, result.variance)


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
