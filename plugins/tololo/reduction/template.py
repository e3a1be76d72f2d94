"""A template brought from the patches of a sky map to the pixels of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lsst.images import VisitImage
from lsst.images.cells import CellCoadd
from numpy.typing import NDArray

from tololo.reduction.coadd import cell_psfs, detector_to_tract, resample
from tololo.reduction.formats.images import Planes, cell_centers, empty_planes, planes_of
from tololo.reduction.formats.projection import pixel_to_sky
from tololo.reduction.formats.tract import Patch
from tololo.reduction.kernels.psf import half_maximum_width


@dataclass
class DetectorTemplate:
    """A template on the pixels of a detector; ``fwhm`` in those pixels, at the cells that fall on it."""

    planes: Planes
    fwhm: float
    coverage: float
    visits: list[int]
    nights: list[int]


def bring_template(science: VisitImage, coadds: Sequence[tuple[CellCoadd, Patch]]) -> DetectorTemplate | None:
    """Resample the patches of a template onto a detector; `None` if no pixel of it is covered.

    Where patches overlap, the first one given has the word; within a tract they hold the same pixels.

    Parameters
    ----------
    science : `lsst.images.VisitImage`
        Gives pixels and projection.
    coadds : sequence of (`CellCoadd`, `Patch`)
        Patches that overlap the detector.
    """
    ny, nx = science.image.array.shape
    planes = empty_planes((0, 0, nx, ny))
    widths: list[float] = []
    visits: set[int] = set()
    nights: set[int] = set()
    for coadd, patch in coadds:
        source = planes_of(coadd)

        def transform(
            x: NDArray[np.float64], y: NDArray[np.float64], patch: Patch = patch, source: Planes = source
        ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            tx, ty = patch.tract.sky_to_pixel(*pixel_to_sky(science.sky_projection, x, y))
            return tx - source.x0, ty - source.y0

        result, area = resample(source, transform, (ny, nx))
        fresh = np.isfinite(result.image) & ~np.isfinite(planes.image)
        if not fresh.any():
            continue
        planes.image[fresh] = result.image[fresh]
        planes.variance[fresh] = result.variance[fresh]
        planes.bits[fresh] = result.mask_bits[fresh]
        scale = 1 / np.sqrt(float(np.median(area)))
        widths += [scale * width for width in _widths(science, coadd, patch, source)]
        visits |= {int(visit) for visit in str(coadd.metadata["VISITS"]).split(",")}
        nights |= {int(night) for night in str(coadd.metadata["NIGHTS"]).split(",")}
    covered = np.isfinite(planes.image)
    if not covered.any() or not widths:
        return None
    return DetectorTemplate(
        planes, float(np.median(widths)), float(covered.mean()), sorted(visits), sorted(nights)
    )


def _widths(science: VisitImage, coadd: CellCoadd, patch: Patch, source: Planes) -> list[float]:
    """Return the FWHM of the cells near the detector, in pixels of the tract."""
    x, y = cell_centers(coadd.grid, source)
    px, py = detector_to_tract(science, patch, 0, 0)(x.ravel(), y.ravel())
    ny, nx = science.image.array.shape
    reach = coadd.grid.cell_shape.x
    near = ((px > -reach) & (px < nx + reach) & (py > -reach) & (py < ny + reach)).reshape(x.shape)
    psfs = cell_psfs(coadd, coadd.grid, source)
    known = near & np.isfinite(psfs).all(axis=(2, 3))
    return [half_maximum_width(psf) for psf in psfs[known][:16]]
