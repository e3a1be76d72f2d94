"""A science exposure as one CCD sees it before it counts: sky, stars, galaxies, clouds, a satellite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.simulation.raw_camera import Chip
from tololo.simulation.raw_plan import RawPlan
from tololo.simulation.raw_schedule import RawExposure
from tololo.simulation.sky import (
    GALAXY_POINTS,
    PIXEL_SCALE,
    Psf,
    draw_points,
    galaxy_points,
    wcs_header,
    wcs_of,
)
from tololo.simulation.truth import nanojansky, positions_at
from tololo.simulation.view import View

type Floats = NDArray[np.float64]
type Floats32 = NDArray[np.float32]

COLOR_PIVOT = 1.2
"""BP - RP of the stars for which the zero point holds whatever the colour term."""

_FAINT = 0.1
"""Galaxies are drawn as far out as the whole would give 0.1 e- per pixel; draw_points has 0.01 for stars."""


@dataclass(frozen=True)
class FieldPsf:
    """How the PSF of an exposure varies over the focal plane; X and Y are its coordinates over its radius.

    Attributes
    ----------
    fwhm : `tuple` of 4 `float`
        At the centre of the field, pixels; relative change along X and along Y; with the squared radius.
    g1, g2 : `tuple` of 3 `float`
        Shear at the centre, change along X and along Y.
    """

    fwhm: tuple[float, float, float, float]
    g1: tuple[float, float, float]
    g2: tuple[float, float, float]

    @classmethod
    def draw(cls, random: np.random.Generator, fwhm_arcsec: float) -> FieldPsf:
        """Draw the variation of a PSF with this FWHM."""
        slopes, shear = random.normal(0, 0.015, 2), random.normal(0, 0.012, (2, 3))
        g1, g2 = ((float(row[0]), float(row[1]), float(row[2])) for row in shear)
        fwhm = (fwhm_arcsec / PIXEL_SCALE, float(slopes[0]), float(slopes[1]), float(random.uniform(0, 0.04)))
        return cls(fwhm, g1, g2)

    def on(self, chip: Chip) -> Psf:
        """Return the PSF of one CCD."""
        ny, nx = chip.shape
        x, y = (float(value) for value in chip.focal_plane(nx / 2, ny / 2))
        right, top = (float(value) for value in chip.focal_plane(nx, ny))
        width, height = right - x, top - y
        size, along_x, along_y, curve = self.fwhm
        factor = 1 + along_x * x + along_y * y + curve * (x**2 + y**2)
        # Psf knows one curvature for both axes: that of the longer one.
        return Psf(
            fwhm=(
                size * factor,
                (along_x + 2 * curve * x) * width / factor,
                (along_y + 2 * curve * y) * height / factor,
                curve * max(width, height) ** 2 / factor,
            ),
            g1=_over(self.g1, x, y, width, height),
            g2=_over(self.g2, x, y, width, height),
        )


@dataclass(frozen=True)
class Trail:
    """A satellite's trail: through (X, Y) of the focal plane at an angle (degrees), its peak in electrons."""

    x: float
    y: float
    angle: float
    peak: float

    def on(self, chip: Chip) -> tuple[float, float, float]:
        """Return a, b, c of the line a x + b y + c = 0 on a CCD: the distance from it in pixels."""
        x0, y0 = (float(value) for value in chip.focal_plane(0.0, 0.0))
        x1, _ = (float(value) for value in chip.focal_plane(1.0, 0.0))
        scale = x1 - x0
        a, b = math.sin(math.radians(self.angle)), -math.cos(math.radians(self.angle))
        return a, b, (a * (x0 - self.x) + b * (y0 - self.y)) / scale


def draw_trail(chips: list[Chip], random: np.random.Generator) -> Trail:
    """Draw a trail that crosses the middle of one of the CCDs."""
    chip = chips[int(random.integers(len(chips)))]
    ny, nx = chip.shape
    x, y = (float(value) for value in chip.focal_plane(nx / 2, ny / 2))
    return Trail(x, y, float(random.uniform(0, 180)), float(10 ** random.uniform(2.5, 3.7)))


def make_raw_view(
    plan: RawPlan,
    chip: Chip,
    exposure: RawExposure,
    psf: Psf,
    stars: Table,
    factor: Floats,
    galaxies: Table,
) -> tuple[View, Table]:
    """Draw what a CCD sees in an exposure.

    Parameters
    ----------
    plan : `RawPlan`
    chip : `Chip`
    exposure : `RawExposure`
    psf : `Psf`
    stars, galaxies : `astropy.table.Table`
        Those of this detector.
    factor : `numpy.ndarray`, (stars,)
        By how much the stars are brighter than on average.

    Returns
    -------
    view : `View`
        Its model is in electrons of a perfect CCD, (ny, nx), float32.
    sources : `astropy.table.Table`
        The stars on the CCD: id, visit, detector, x, y (zero-based pixels), electrons.
    """
    seen = exposure.seen
    offset = ((seen.ra - plan.ra) * math.cos(math.radians(plan.dec)), seen.dec - plan.dec)
    header = wcs_header(chip.true, plan.sky, offset, exposure.turn)
    wcs = wcs_of(header)
    ny, nx = chip.shape
    u, v = chip.focal_plane(np.arange(nx, dtype=float), np.arange(ny, dtype=float)[:, None])
    slope = exposure.sky_slope
    # Half the size of what `View` holds otherwise: there is one for each exposure.
    model: NDArray[Any] = (seen.sky * (1 + slope[0] * u + slope[1] * v)).astype(np.float32)
    band, scale = seen.planned.band, 1 / float(nanojansky(seen.zero_point))

    def through(x: Floats, y: Floats) -> Floats:
        at_x, at_y = chip.focal_plane(x, y)
        cloud = exposure.transparency_slope
        return np.asarray(np.clip(1 + cloud[0] * at_x + cloud[1] * at_y, 0.05, None))

    x, y = wcs.all_world2pix(*positions_at(stars, seen.mjd), 0)
    color = np.nan_to_num(np.asarray(stars["bp"] - stars["rp"]), nan=COLOR_PIVOT)
    dimmed = 10 ** (-0.4 * plan.color_term * (color - COLOR_PIVOT))
    electrons = np.asarray(stars[f"flux_{band}"]) * factor * scale * dimmed * through(x, y)
    draw_points(model, psf, x, y, electrons)
    if len(galaxies):
        ra, dec = galaxy_points(galaxies)
        gx, gy = wcs.all_world2pix(ra.ravel(), dec.ravel(), 0)
        flux = np.repeat(np.asarray(galaxies[f"flux_{band}"]) * scale, GALAXY_POINTS) * through(gx, gy)
        draw_points(model, psf, gx, gy, flux / GALAXY_POINTS, flux * 0.01 / _FAINT)
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    sources = Table({"id": np.asarray(stars["id"])[inside]})
    sources["visit"], sources["detector"] = seen.visit, chip.ccd.id
    sources["x"], sources["y"], sources["electrons"] = x[inside], y[inside], electrons[inside]
    return View(seen, psf, header, wcs, model), sources


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def add_trail(image: Floats32, a: float, b: float, c: float, sigma: float, peak: float) -> int:
    """Add a line of Gaussian cross-section; return how many pixels it touches within 2 sigma."""
    ny, nx = image.shape
    touched = 0
    for y in range(ny):
        first, last = 0, nx
        if a != 0:
            middle, half = -(b * y + c) / a, 5 * sigma / abs(a)
            first, last = max(0, int(middle - half)), min(nx, int(middle + half) + 2)
        for x in range(first, last):
            distance = (a * x + b * y + c) / sigma
            if abs(distance) < 5:
                image[y, x] += np.float32(peak * np.exp(-0.5 * distance * distance))
                touched += abs(distance) < 2
    return touched


def _over(
    shear: tuple[float, float, float], x: float, y: float, width: float, height: float
) -> tuple[float, float, float]:
    return shear[0] + shear[1] * x + shear[2] * y, shear[1] * width, shear[2] * height
