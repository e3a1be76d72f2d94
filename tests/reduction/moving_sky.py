"""Warps of one field in changing seeing, through the real resampling, with artefacts where the truth says."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.coadd_input import CoaddInput
from tololo.reduction.formats.images import Planes, patch_cells
from tololo.reduction.formats.tract import Patch
from tololo.reduction.kernels.warp import grid_of, warp
from tololo.reduction.patch_warp import PSF_SIZE

from .chain import SKYMAP
from .kernels.difference_pair import moffat

NOISE = 10.0
MARGIN = 40
PATCH: Patch = SKYMAP[9000].patch(60)


@dataclass
class MovingSky:
    """Stars that stay, and what does not; positions are pixels of the warps.

    Each warp is one detector that is shifted by parts of a pixel against the patch, with a registration error
    of 0.1 pixel and a PSF that is wrong by 2 % in its width.
    """

    fwhms: tuple[float, ...]
    side: int = 440
    patch: Patch = PATCH
    n_stars: int = 80
    seed: int = 1
    stars: NDArray[np.float64] = field(init=False)
    extra: list[NDArray[np.float64]] = field(init=False)
    factors: list[NDArray[np.float64]] = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        x, y = random.uniform(25, self.side - 25, (2, self.n_stars))
        flux = NOISE * 10 ** random.uniform(1.5, 4.5, self.n_stars)
        self.stars = np.stack([x, y, flux], axis=1)
        shape = (self.side + 2 * MARGIN,) * 2
        self.extra = [np.zeros(shape) for _ in self.fwhms]
        self.factors = [np.ones(self.n_stars) for _ in self.fwhms]

    def trail(self, visit: int, peak: float, slope: float = 0.3, start: float = 100.0) -> NDArray[np.float64]:
        """Add a trail as wide as the seeing; return its distance from each pixel of the warps."""
        y, x = np.mgrid[: self.side + 2 * MARGIN, : self.side + 2 * MARGIN].astype(float) - MARGIN
        distance = (y - start - slope * x) / np.hypot(1.0, slope)
        sigma = self.fwhms[visit] / 2.3548
        self.extra[visit] += peak * np.exp(-0.5 * (distance / sigma) ** 2)
        inner = np.s_[MARGIN:-MARGIN, MARGIN:-MARGIN]
        return np.asarray(distance[inner])

    def asteroid(self, visit: int, x: float, y: float, flux: float, length: float = 6.0) -> None:
        """Add a short trail of a given flux."""
        for step in np.linspace(-length / 2, length / 2, 13):
            self._paint(self.extra[visit], x + step, y, flux / 13, self.fwhms[visit])

    def ray(self, visit: int, x: int, y: int, charge: float, length: int = 4) -> None:
        """Add a cosmic ray: sharp, a pixel wide."""
        self.extra[visit][y + MARGIN, x + MARGIN : x + MARGIN + length] += charge

    def inputs(self) -> list[CoaddInput]:
        """Return the warps."""
        return [self._warp(visit) for visit in range(len(self.fwhms))]

    def _warp(self, visit: int) -> CoaddInput:
        random = np.random.default_rng((self.seed, visit))
        fwhm = self.fwhms[visit]
        image = self.extra[visit].copy()
        dx, dy = random.normal(0, 0.1, 2)
        shift_x, shift_y = random.uniform(-0.5, 0.5, 2)
        for (x, y, flux), factor in zip(self.stars, self.factors[visit], strict=True):
            self._paint(image, x + dx, y + dy, flux * factor, fwhm)
        # The detector lies beside the patch by parts of a pixel; what is drawn there is drawn moved by them.
        variance = np.full(image.shape, NOISE**2) + np.maximum(image, 0) / 10
        grid = grid_of(lambda x, y: (x + MARGIN + shift_x, y + MARGIN + shift_y), (self.side, self.side))
        back = grid_of(lambda x, y: (x - shift_x, y - shift_y), image.shape)
        moved = _resample(image, np.ones(image.shape), back, image.shape)[0]
        moved = np.nan_to_num(moved) + random.normal(size=image.shape) * np.sqrt(variance)
        pixels, spread = _resample(moved, variance, grid, (self.side, self.side))
        x0, y0, _, _ = self.patch.outer
        planes = Planes(pixels, spread, np.zeros(pixels.shape, np.int32), x0, y0)
        psf = moffat(fwhm * (1 + 0.02 * random.choice([-1, 1])), side=PSF_SIZE)
        cells = self.side // patch_cells(self.patch).cell_shape.x
        psfs = np.broadcast_to(psf / psf.sum(), (cells, cells, *psf.shape)).copy()
        return CoaddInput(visit, planes, psfs, day_obs=20190301 + visit)

    def _paint(self, image: NDArray[np.float64], x: float, y: float, flux: float, fwhm: float) -> None:
        ix, iy = round(x), round(y)
        stamp = moffat(fwhm, x - ix, y - iy, side=PSF_SIZE)
        half = PSF_SIZE // 2
        image[iy + MARGIN - half : iy + MARGIN + half + 1, ix + MARGIN - half : ix + MARGIN + half + 1] += (
            flux * stamp
        )


def _resample(image, variance, grid, shape):
    source = image.astype(np.float32)
    bits, bad = np.zeros(source.shape, np.int32), np.zeros(source.shape, bool)
    warped = warp(source, variance.astype(np.float32), bits, bad, *grid, 32, shape)
    return warped.image, warped.variance
