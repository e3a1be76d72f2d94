"""A template brought from the patches of a sky map to the pixels of a detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lsst.images import VisitImage
from lsst.images.cells import CellCoadd
from numpy.typing import NDArray

from tololo.reduction.coadd_input import cell_psfs
from tololo.reduction.formats.images import Planes, cell_centers, empty_planes, planes_of
from tololo.reduction.formats.projection import pixel_to_sky
from tololo.reduction.formats.tract import Patch
from tololo.reduction.kernels.covariance import measured_covariance, resampled_covariance
from tololo.reduction.kernels.matching import polynomial
from tololo.reduction.kernels.psf import PixelPsf, half_maximum_width
from tololo.reduction.kernels.warp import beside
from tololo.reduction.patch_warp import detector_to_tract, jacobian_at, resample, warp_psf

NODE_STEP = 64
"""Spacing in pixels of the detector's points that are looked for in a patch."""

PSF_CELLS = 16
"""Cells of a patch, spread over what it has near the detector, that make the PSF there."""

SEAM, WHOLE = 3, 0.999
"""Pixels from the edge of a patch within which a kernel reaches beyond it; there another patch has the word
that has this part of the kernel."""

CELLS_OF_ORDER = {2: 12, 1: 5}
"""Cells needed for a PSF that varies over the detector with so high an order."""


@dataclass
class DetectorTemplate:
    """A template on the pixels of a detector; ``fwhm`` in those pixels, NaN where no PSF is known."""

    planes: Planes
    fwhm: float
    coverage: float
    visits: list[int]
    nights: list[int]
    psf: PixelPsf | None
    """PSF on the detector's pixels; `None` where no cell on the detector has one."""

    covariance: NDArray[np.float64] | None
    """Of the noise between pixels, in units of the variance plane; `None` where nothing is known of it."""


def bring_template(science: VisitImage, coadds: Sequence[tuple[CellCoadd, Patch]]) -> DetectorTemplate | None:
    """Resample the patches of a template onto a detector; `None` if no pixel of it is covered.

    Where patches overlap, the one that reaches most of the detector has the word, but for its very edge;
    within a tract they hold the same pixels.

    Parameters
    ----------
    science : `lsst.images.VisitImage`
        Gives pixels and projection.
    coadds : sequence of (`CellCoadd`, `Patch`)
        Patches that overlap the detector.
    """
    ny, nx = science.image.array.shape
    planes = empty_planes((0, 0, nx, ny))
    cells: list[tuple[float, float, NDArray[np.float64]]] = []
    scales: list[float] = []
    matched = False
    visits: set[int] = set()
    nights: set[int] = set()
    sources = [(coadd, patch, planes_of(coadd)) for coadd, patch in coadds]
    reached = [_reached(science, patch, source) for _, patch, source in sources]
    for n in sorted(range(len(sources)), key=lambda n: -_area(reached[n])):
        coadd, patch, source = sources[n]
        x0, y0, x1, y1 = _still_empty(planes, reached[n])
        if x0 >= x1 or y0 >= y1:
            continue

        def transform(
            x: NDArray[np.float64],
            y: NDArray[np.float64],
            patch: Patch = patch,
            source: Planes = source,
            x0: int = x0,
            y0: int = y0,
        ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            tx, ty = patch.tract.sky_to_pixel(*pixel_to_sky(science.sky_projection, x + x0, y + y0))
            return tx - source.x0, ty - source.y0

        result, area = resample(source, transform, (y1 - y0, x1 - x0))
        view = np.s_[y0:y1, x0:x1]
        wanted = ~np.isfinite(planes.image[view])
        if scales:
            wanted |= beside(wanted, SEAM) & (result.coverage > WHOLE)
        fresh = np.isfinite(result.image) & wanted
        if not fresh.any():
            continue
        np.copyto(planes.image[view], result.image, where=fresh)
        np.copyto(planes.variance[view], result.variance, where=fresh)
        np.copyto(planes.bits[view], result.mask_bits, where=fresh)
        scales.append(float(np.sqrt(np.median(area))))
        cells += _psfs_on(science, coadd, patch, source)
        matched |= str(coadd.metadata.get("WARP", "direct")) != "direct"
        visits |= {int(visit) for visit in str(coadd.metadata["VISITS"]).split(",")}
        nights |= {int(night) for night in str(coadd.metadata["NIGHTS"]).split(",")}
    covered = np.isfinite(planes.image)
    if not covered.any():
        return None
    # Of images convolved before they were stacked the way of resampling does not tell the noise.
    scale = float(np.median(scales))
    known = measured_covariance(planes.image, planes.variance, planes.bad) if matched else None
    return DetectorTemplate(
        planes,
        float(np.median([half_maximum_width(stamp) for _, _, stamp in cells])) if cells else math.nan,
        float(covered.mean()),
        sorted(visits),
        sorted(nights),
        _psf_of(cells, (ny, nx)) if cells else None,
        known if matched else resampled_covariance([1 / scale, scale]),
    )


def _reached(science: VisitImage, patch: Patch, source: Planes) -> tuple[int, int, int, int]:
    """Return the part (x0, y0, x1, y1) of a detector that the planes of a patch reach, a little too large.

    The detector's pixels are looked for in the patch and not the patch's on the detector: far from it the
    distortion of its projection means nothing.
    """
    ny, nx = science.image.array.shape
    x, y = (grid.ravel() for grid in np.meshgrid(_nodes(nx), _nodes(ny)))
    tx, ty = patch.tract.sky_to_pixel(*pixel_to_sky(science.sky_projection, x, y))
    height, width = source.image.shape
    # One pixel of a tract is about one of a detector: nodes within two steps see every part between nodes.
    reach = 2 * NODE_STEP
    inside = (tx > source.x0 - reach) & (tx < source.x0 + width + reach)
    inside &= (ty > source.y0 - reach) & (ty < source.y0 + height + reach)
    if not inside.any():
        return 0, 0, 0, 0
    x, y = x[inside], y[inside]
    return (
        max(0, int(x.min()) - NODE_STEP),
        max(0, int(y.min()) - NODE_STEP),
        min(nx, int(x.max()) + NODE_STEP + 1),
        min(ny, int(y.max()) + NODE_STEP + 1),
    )


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _still_empty(planes: Planes, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return the part of a box that holds all its pixels without data, and those beside them."""
    x0, y0, x1, y1 = box
    empty = ~np.isfinite(planes.image[y0:y1, x0:x1])
    rows, columns = np.flatnonzero(empty.any(axis=1)), np.flatnonzero(empty.any(axis=0))
    if not rows.size:
        return 0, 0, 0, 0
    return (
        max(x0, x0 + int(columns[0]) - SEAM),
        max(y0, y0 + int(rows[0]) - SEAM),
        min(x1, x0 + int(columns[-1]) + 1 + SEAM),
        min(y1, y0 + int(rows[-1]) + 1 + SEAM),
    )


def _nodes(length: int) -> NDArray[np.float64]:
    """Return positions along an axis at most `NODE_STEP` apart, the ends included."""
    return np.linspace(0.0, length - 1.0, 2 + length // NODE_STEP)


def _psfs_on(
    science: VisitImage, coadd: CellCoadd, patch: Patch, source: Planes
) -> list[tuple[float, float, NDArray[np.float64]]]:
    """Return x, y and PSF, on the detector's pixels, of cells near the detector."""
    x, y = cell_centers(coadd.grid, source)
    transform = detector_to_tract(science, patch, 0, 0)
    px, py = transform(x.ravel(), y.ravel())
    ny, nx = science.image.array.shape
    reach = coadd.grid.cell_shape.x
    near = ((px > -reach) & (px < nx + reach) & (py > -reach) & (py < ny + reach)).reshape(x.shape)
    psfs = cell_psfs(coadd, coadd.grid, source)
    known = near & np.isfinite(psfs).all(axis=(2, 3))
    chosen = np.argwhere(known)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(PSF_CELLS, len(chosen)), dtype=int)]
    found = []
    for i, j in chosen:
        onto_tract = np.linalg.inv(jacobian_at(transform, x[i, j], y[i, j]))
        stamp = warp_psf(PixelPsf(psfs[i, j][None]), 0.0, 0.0, onto_tract, psfs.shape[-1])
        k = i * x.shape[1] + j
        found.append((float(px[k]), float(py[k]), stamp))
    return found


def _psf_of(cells: Sequence[tuple[float, float, NDArray[np.float64]]], shape: tuple[int, int]) -> PixelPsf:
    """Fit the PSFs of cells with a polynomial in x and y, of an order that their number allows."""
    center, scale = ((shape[1] - 1) / 2, (shape[0] - 1) / 2), (shape[1] / 2, shape[0] / 2)
    x, y, stamps = (np.array(values) for values in zip(*cells, strict=True))
    order = next((order for order, number in CELLS_OF_ORDER.items() if len(cells) >= number), 0)
    terms = polynomial(order, (x - center[0]) / scale[0], (y - center[1]) / scale[1])
    return PixelPsf(np.tensordot(np.linalg.pinv(terms), stamps, 1), order, center, scale)
