"""Images as LSST's public image types hold them, and the plain planes that kernels work on.

Pixel values of visit images, coadds and differences are nJy, variances nJy².
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy import units as u
from astropy.wcs import WCS
from lsst.images import (
    YX,
    Box,
    DetectorFrame,
    DifferenceImage,
    Image,
    MaskedImage,
    ObservationSummaryStats,
    SkyProjection,
    TractFrame,
    VisitImage,
)
from lsst.images.cells import (
    CellCoadd,
    CellGrid,
    CellGridBounds,
    CellIJ,
    CellPointSpreadFunction,
    PatchDefinition,
)
from lsst.images.fields import ChebyshevField
from numpy.typing import NDArray

from tololo.reduction.formats.masks import BIT, UNUSABLE, pack_mask, unpack_mask
from tololo.reduction.formats.obs_info import midpoint_mjd_tai, visit_of
from tololo.reduction.formats.projection import projection_of
from tololo.reduction.formats.psfs import to_piff
from tololo.reduction.formats.tract import Patch, Tract
from tololo.reduction.instrument.detectors import detector_geometry
from tololo.reduction.kernels.psf import PixelPsf

LEAST_CELL, LARGEST_CELL = 64, 256
"""Pixels; a patch is cut into cells of such sizes, and the PSF of a coadd is one image for each."""


@dataclass
class Planes:
    """Image, variance and mask bits of shape (ny, nx), and the coordinates (x0, y0) of the first pixel."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    bits: NDArray[np.int32]
    x0: int = 0
    y0: int = 0

    @property
    def bad(self) -> NDArray[np.bool_]:
        """Pixels that are not to be measured."""
        bad: NDArray[np.bool_] = (
            ((self.bits & UNUSABLE) != 0)
            | ~np.isfinite(self.image)
            | ~np.isfinite(self.variance)
            | (self.variance <= 0)
        )
        return bad

    @property
    def bbox(self) -> Box:
        """The box of the pixels."""
        ny, nx = self.image.shape
        return Box.factory[self.y0 : self.y0 + ny, self.x0 : self.x0 + nx]

    def as_images(self) -> dict[str, Any]:
        """Return image, mask and variance for the constructors of LSST's image types."""
        bbox = self.bbox
        return {
            "image": Image(np.ascontiguousarray(self.image, dtype=np.float32), bbox=bbox, unit=u.nJy),
            "mask": pack_mask(self.bits, bbox),
            "variance": Image(
                np.ascontiguousarray(self.variance, dtype=np.float32), bbox=bbox, unit=u.nJy**2
            ),
        }


def planes_of(image: MaskedImage) -> Planes:
    """Return the planes of one of LSST's masked images; the pixels are shared, not copied."""
    return Planes(
        image.image.array,
        image.variance.array,
        unpack_mask(image.mask),
        x0=image.bbox.x.start,
        y0=image.bbox.y.start,
    )


@dataclass(frozen=True)
class VisitContext:
    """What goes with the pixels of one visit and detector: who, where, when."""

    detector: int
    band: str
    obs_info: ObservationInfo
    sky_projection: SkyProjection[DetectorFrame]

    @classmethod
    def from_wcs(
        cls, wcs: WCS, shape: tuple[int, int], detector: int, band: str, info: ObservationInfo
    ) -> VisitContext:
        """Build the context from an exposure's own FITS WCS (TPV distortion and all)."""
        geometry = detector_geometry(detector)
        frame = DetectorFrame(instrument="DECam", visit=visit_of(info), detector=detector, bbox=geometry.bbox)
        projection = projection_of(wcs, frame, Box.from_shape(shape), shape)
        return cls(detector, band, info, projection)

    @classmethod
    def from_visit_image(cls, image: VisitImage) -> VisitContext:
        """Take the context of an image that is read back."""
        return cls(image.detector.id, image.band, image.obs_info, image.sky_projection)

    @property
    def midpoint_mjd_tai(self) -> float:
        """Middle of the exposure, MJD TAI."""
        return midpoint_mjd_tai(self.obs_info)


def visit_image(
    planes: Planes,
    psf: PixelPsf,
    context: VisitContext,
    stats: ObservationSummaryStats,
    njy_per_adu: float,
    metadata: Mapping[str, Any],
) -> VisitImage:
    """Assemble a calibrated visit image."""
    return VisitImage(
        **_visit_parts(planes, psf, context, stats, metadata),
        photometric_scaling=ChebyshevField(planes.bbox, np.array([[njy_per_adu]]), unit=u.nJy / u.adu),
    )


def difference_image(
    planes: Planes,
    psf: PixelPsf,
    context: VisitContext,
    stats: ObservationSummaryStats,
    metadata: Mapping[str, Any],
) -> DifferenceImage:
    """Assemble a difference image; its PSF is that of the difference."""
    return DifferenceImage(**_visit_parts(planes, psf, context, stats, metadata))


def _visit_parts(
    planes: Planes,
    psf: PixelPsf,
    context: VisitContext,
    stats: ObservationSummaryStats,
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        **planes.as_images(),
        "sky_projection": context.sky_projection,
        "psf": to_piff(psf, planes.bbox),
        "obs_info": context.obs_info,
        "summary_stats": stats,
        "detector": detector_geometry(context.detector),
        "band": context.band,
        "metadata": dict(metadata),
    }


def detector_image(planes: Planes, context: VisitContext, metadata: Mapping[str, Any]) -> MaskedImage:
    """Assemble a masked image on the pixels of a detector (a template brought to it)."""
    return MaskedImage(**planes.as_images(), sky_projection=context.sky_projection, metadata=dict(metadata))


def tract_projection(skymap: str, tract: Tract) -> SkyProjection[TractFrame]:
    """Return the projection of a tract's pixels."""
    x0, y0, x1, y1 = tract.bbox
    frame = TractFrame(skymap=skymap, tract=tract.id, bbox=Box.factory[y0:y1, x0:x1])
    return SkyProjection.from_fits_wcs(tract.wcs(), frame)


def patch_cells(patch: Patch) -> CellGrid:
    """Cut a patch into square-ish cells of at most `LARGEST_CELL` pixels that fill it exactly.

    Where a side has no divisor from `LEAST_CELL` to that, the cells are larger: a PSF for every few pixels of
    the patch would take far more room than the patch itself.
    """
    x0, y0, x1, y1 = patch.outer
    shape = YX(y=_cell_size(y1 - y0), x=_cell_size(x1 - x0))
    return CellGrid(bbox=Box.factory[y0:y1, x0:x1], cell_shape=shape)


def _cell_size(length: int) -> int:
    sizes = [size for size in range(min(LEAST_CELL, length), length + 1) if length % size == 0]
    return max((size for size in sizes if size <= LARGEST_CELL), default=sizes[0])


def snap_to_cells(grid: CellGrid, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Enlarge a box (x0, y0, x1, y1) inside a patch to whole cells."""
    gx, gy = grid.bbox.x.start, grid.bbox.y.start
    sx, sy = grid.cell_shape.x, grid.cell_shape.y
    x0, y0, x1, y1 = box
    return (
        gx + (x0 - gx) // sx * sx,
        gy + (y0 - gy) // sy * sy,
        gx + -(-(x1 - gx) // sx) * sx,
        gy + -(-(y1 - gy) // sy) * sy,
    )


def cell_centers(grid: CellGrid, planes: Planes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y (tract pixels) of the centres of the cells that the planes fill, shape (n_y, n_x)."""
    ny, nx = planes.image.shape
    sx, sy = grid.cell_shape.x, grid.cell_shape.y
    x = planes.x0 + sx * np.arange(nx // sx) + (sx - 1) / 2
    y = planes.y0 + sy * np.arange(ny // sy) + (sy - 1) / 2
    xx, yy = np.meshgrid(x, y)
    return xx, yy


def cell_coadd(
    planes: Planes,
    psfs: NDArray[np.float64],
    skymap: str,
    tract: Tract,
    patch: Patch,
    band: str,
    metadata: Mapping[str, Any],
) -> CellCoadd:
    """Assemble a coadd, or the warp of one visit, on whole cells of a patch.

    Parameters
    ----------
    planes : `Planes`
        Pixels, cut at the borders of cells.
    psfs : `numpy.ndarray`, (n_cells_y, n_cells_x, size, size)
        The PSF at the centre of each cell; NaN where there is none.
    skymap, tract, patch : `str`, `Tract`, `Patch`
        Where it lies.
    band : `str`
        The band.
    metadata : `dict`
        Goes into the header.
    """
    grid = patch_cells(patch)
    first = grid.index_of(y=planes.y0, x=planes.x0)
    missing = frozenset(
        CellIJ(i=first.i + int(i), j=first.j + int(j))
        for i, j in np.argwhere(~np.isfinite(psfs).all(axis=(2, 3)))
    )
    bounds = CellGridBounds(grid=grid, bbox=planes.bbox, missing=missing)
    x0, y0, x1, y1 = patch.inner
    coadd = CellCoadd(
        **planes.as_images(),
        sky_projection=tract_projection(skymap, tract),
        band=band,
        psf=CellPointSpreadFunction(psfs, bounds),
        patch=PatchDefinition(
            id=patch.id,
            index=YX(y=patch.y, x=patch.x),
            inner_bbox=Box.factory[y0:y1, x0:x1],
            cells=grid,
        ),
    )
    coadd.metadata.update(metadata)
    return coadd


def empty_planes(box: tuple[int, int, int, int]) -> Planes:
    """Return planes without data over a box (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    shape = (y1 - y0, x1 - x0)
    return Planes(
        np.full(shape, np.nan, dtype=np.float32),
        np.full(shape, np.nan, dtype=np.float32),
        np.full(shape, BIT["NO_DATA"], dtype=np.int32),
        x0,
        y0,
    )


def header_cards(names: Sequence[str], header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cards of a header that exist, for an image's metadata."""
    return {name: header[name] for name in names if header.get(name) is not None}
