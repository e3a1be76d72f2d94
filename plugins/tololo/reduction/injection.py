"""Sources drawn into the pixels of a detector, before anything is measured on them, and the truth about them.

Sources are drawn with the PSF, the projection and the calibration that the detector has without them; their
photons arrive at random, from a seed that visit, detector and source fix, so that the same source is the same
in every run and whatever others there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from lsst.images import MaskPlane, VisitImage
from lsst.images.fields import ChebyshevField
from numpy.typing import NDArray

from tololo.reduction.formats.images import planes_of
from tololo.reduction.formats.masks import BIT, UNUSABLE
from tololo.reduction.formats.projection import sky_to_pixel
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.injection_catalog import GALAXIES, no_sources
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.references import ZERO_POINT

MASK_PLANES = (
    MaskPlane("INJECTED", "An injected source has light here."),
    MaskPlane("INJECTED_CORE", "One of the nine pixels around the centre of an injected source."),
)
"""Planes that only images with injected sources have, as LSST's source_injection names them."""

CORE = 1
"""Pixels on either side of a source's central one that are its core."""

GALAXY_RADII = 8.0
"""Half-light radii that a galaxy's stamp reaches; a de Vaucouleurs profile has 4 % of its light beyond."""

LARGEST_STAMP = 1001
"""Pixels; galaxies are cut off there."""


@dataclass(frozen=True)
class Stamp:
    """The expected light of one source on the pixels of a detector that it reaches.

    Attributes
    ----------
    row : `int`
        Of the source among those that were placed.
    box : `tuple` [`slice`, `slice`]
        (y, x) on the detector.
    light : `numpy.ndarray`, float64
        nJy.
    """

    row: int
    box: tuple[slice, slice]
    light: NDArray[np.float64]


@dataclass(frozen=True)
class Placed:
    """The sources that have light on a detector.

    Attributes
    ----------
    table : `astropy.table.Table`
        The catalogue's columns with ``x``, ``y`` (pixels) and ``flux`` (nJy), in order of the ids.
    stamps : `list` [`Stamp`]
    """

    table: Table
    stamps: list[Stamp]

    def __len__(self) -> int:
        return len(self.table)

    def core(self, row: int, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Return the (y, x) box of a source's core on a detector of shape (ny, nx); empty beside it."""
        y0, x0 = round(float(self.table["y"][row])), round(float(self.table["x"][row]))
        ny, nx = shape
        return (
            slice(max(0, min(ny, y0 - CORE)), max(0, min(ny, y0 + CORE + 1))),
            slice(max(0, min(nx, x0 - CORE)), max(0, min(nx, x0 + CORE + 1))),
        )


@dataclass(frozen=True)
class Scene:
    """What sources are drawn with: a detector as it was calibrated without them.

    Attributes
    ----------
    image : `lsst.images.VisitImage`
    visit, detector : `int`
    psf : `PixelPsf`
    """

    image: VisitImage
    visit: int
    detector: int
    psf: PixelPsf

    @classmethod
    def of(cls, image: VisitImage, visit: int) -> Scene:
        """Take them from a visit image."""
        return cls(image, visit, image.detector.id, from_piff(image.psf))

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the detector."""
        ny, nx = self.image.image.array.shape
        return ny, nx

    @property
    def njy_per_adu(self) -> float:
        """What the pixels were multiplied by."""
        scaling = self.image.photometric_scaling
        assert isinstance(scaling, ChebyshevField)
        return float(scaling.coefficients[0, 0])

    def place(self, sources: Table) -> Placed:
        """Draw the sources of this visit whose light reaches the detector.

        Parameters
        ----------
        sources : `astropy.table.Table`
            As in shards of `injection_catalog`.
        """
        mine = sources[(sources["visit"] == 0) | (sources["visit"] == self.visit)]
        mine = mine[np.argsort(mine["injection_id"], kind="stable")]
        mine["x"], mine["y"] = sky_to_pixel(self.image.sky_projection, mine["ra"], mine["dec"])
        mine["flux"] = 10 ** (0.4 * (ZERO_POINT - np.asarray(mine["mag"])))
        ny, nx = self.shape
        reach = self._reach(mine)
        x, y = np.asarray(mine["x"]), np.asarray(mine["y"])
        near = mine[(x > -reach) & (x < nx + reach) & (y > -reach) & (y < ny + reach)]
        stamps = [self._stamp(row, source) for row, source in enumerate(near)]
        kept = [stamp for stamp in stamps if stamp.light.size]
        table = near[[stamp.row for stamp in kept]]
        return Placed(table, [replace(stamp, row=row) for row, stamp in enumerate(kept)])

    def _stamp(self, row: int, source: Any) -> Stamp:
        """Return the part of a source's light that falls on the detector, if there is one."""
        (ny, nx), (light, x0, y0) = self.shape, self._light(source)
        y, x = max(0, y0), max(0, x0)
        part = float(source["flux"]) * light[y - y0 : max(0, ny - y0), x - x0 : max(0, nx - x0)]
        return Stamp(row, (slice(y, y + part.shape[0]), slice(x, x + part.shape[1])), part)

    def _light(self, source: Any) -> tuple[NDArray[np.float64], int, int]:
        """Return a source of unit flux, and the pixel (x0, y0) of its corner."""
        x, y = float(source["x"]), float(source["y"])
        if source["source_type"] not in GALAXIES:
            return self.psf.stamp(x, y)
        import galsim

        half, radius = int(self._reach(source)), self._radius(source)
        profile = galsim.Sersic(float(source["n"]), half_light_radius=radius)
        profile = profile.shear(q=float(source["q"]), beta=self._angle(source) * galsim.radians)
        psf = galsim.InterpolatedImage(galsim.Image(self.psf.kernel(x, y)), scale=1.0, flux=1.0)
        ix, iy = round(x), round(y)
        stamp = galsim.Image(2 * half + 1, 2 * half + 1, dtype=float)
        galsim.Convolve(profile, psf).drawImage(stamp, scale=1.0, offset=(x - ix, y - iy), method="no_pixel")
        return stamp.array, ix - half, iy - half

    def _reach(self, sources: Any) -> NDArray[np.int64]:
        """Return how many pixels the stamps of sources, or of one, reach from their middles."""
        half = self.psf.size // 2
        radius = np.nan_to_num(np.asarray(sources["half_light_radius"]) / self.image.summary_stats.pixelScale)
        galaxy = half + np.ceil(GALAXY_RADII * radius).astype(np.int64)
        extended = np.isin(np.asarray(sources["source_type"]), GALAXIES)
        return np.where(extended, np.minimum(galaxy, LARGEST_STAMP // 2), half)

    def _radius(self, source: Any) -> float:
        """Return the half-light radius in pixels."""
        return float(source["half_light_radius"]) / self.image.summary_stats.pixelScale

    def _angle(self, source: Any) -> float:
        """Return the direction of a galaxy's major axis on the pixels, radians from x towards y."""
        step = 1.0 / 3600
        ra, dec, pa = (float(source[name]) for name in ("ra", "dec", "pa"))
        north = step * math.cos(math.radians(pa))
        east = step * math.sin(math.radians(pa)) / math.cos(math.radians(dec))
        x, y = sky_to_pixel(self.image.sky_projection, [ra, ra + east], [dec, dec + north])
        return math.atan2(y[1] - y[0], x[1] - x[0])


@dataclass(frozen=True)
class Added:
    """What became of each source that was placed.

    Attributes
    ----------
    flux : `numpy.ndarray`, (n,), float64
        What its photons on the detector amount to, nJy.
    saturated : `numpy.ndarray`, (n,), bool
        Whether a pixel is full where it has light.
    """

    flux: NDArray[np.float64]
    saturated: NDArray[np.bool_]


def truth_table(scene: Scene, image: VisitImage, placed: Placed, added: Added) -> Table:
    """Return what has been injected into a detector: the table ``injected_source``.

    Parameters
    ----------
    scene : `Scene`
    image : `lsst.images.VisitImage`
        The detector with the sources, calibrated.
    placed : `Placed`
    added : `Added`

    Returns
    -------
    truth : `astropy.table.Table`
        The catalogue's columns with ``visit, detector, x, y`` (pixels), ``flux`` (nJy, of the magnitude),
        ``flux_added`` (nJy, of the photons on the detector), ``snr`` (what a fit of its own shape can reach),
        ``snr_beneath`` (of the light of the same shape that lies there without it), ``inside`` (its centre
        lies on the detector), ``masked`` (something else than its own light makes its core unusable) and
        ``saturated``.
    """
    (ny, nx), planes, table = scene.shape, planes_of(image), placed.table
    x, y = np.asarray(table["x"]), np.asarray(table["y"])
    unusable = (planes.bits & (UNUSABLE & ~BIT["SATURATED"])) != 0
    unusable |= (planes_of(scene.image).bits & BIT["SATURATED"]) != 0
    masked = [unusable[placed.core(row, scene.shape)].any() for row in range(len(placed))]
    # The inverse variance of a fit, with the photons of the source in the variance.
    information = [np.nansum(s.light**2 / planes.variance[s.box]) for s in placed.stamps]
    truth = table.copy()
    truth["visit"] = np.full(len(table), scene.visit, np.int64)
    truth["detector"] = np.full(len(table), scene.detector, np.int16)
    truth["flux_added"] = added.flux
    truth["snr"] = np.sqrt(np.array(information, dtype=float))
    truth["snr_beneath"] = _beneath(scene, placed)
    truth["inside"] = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    truth["masked"] = np.array(masked, dtype=bool)
    truth["saturated"] = added.saturated
    return truth


def _beneath(scene: Scene, placed: Placed) -> NDArray[np.float64]:
    """Fit each source's shape to the image without it; what is left is told in sigma, 0 where nothing is."""
    planes = planes_of(scene.image)
    weight = np.where(planes.bad, 0.0, 1 / np.where(planes.bad, 1.0, planes.variance))
    light = np.where(planes.bad, 0.0, planes.image)
    found = [np.sum(s.light * light[s.box] * weight[s.box]) for s in placed.stamps]
    information = np.array([np.sum(s.light**2 * weight[s.box]) for s in placed.stamps], dtype=float)
    return np.asarray(np.array(found, dtype=float) / np.sqrt(np.maximum(information, 1e-30)))


def marked[I: VisitImage](image: I, placed: Placed) -> I:
    """Return a copy of an image with the mask planes of injected sources, which no other image has.

    A copy, because an image may bring planes that are compressed for its file already, without these.
    """
    ny, nx = image.image.array.shape
    light, core = np.zeros((ny, nx), bool), np.zeros((ny, nx), bool)
    for stamp in placed.stamps:
        light[stamp.box] = True
        core[placed.core(stamp.row, (ny, nx))] = True
    mask = image.mask.add_planes(MASK_PLANES)
    mask.set("INJECTED", light)
    mask.set("INJECTED_CORE", core)
    result = image.copy()
    result.mask = mask
    return result  # type: ignore[return-value]


def stacked(shards: Iterable[Table]) -> Table:
    """Return shards as one table; that of no shards has the same columns."""
    return vstack([no_sources(), *shards], metadata_conflicts="silent")
