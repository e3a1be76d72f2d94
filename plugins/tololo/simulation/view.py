"""An exposure as one detector sees it, before noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from tololo.simulation.cards import Observation
from tololo.simulation.plan import Plan
from tololo.simulation.sky import GALAXY_POINTS, Ccd, Psf, draw_points, galaxy_points, wcs_header, wcs_of
from tololo.simulation.truth import nanojansky, positions_at

type Floats = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """An exposure as one detector sees it.

    Attributes
    ----------
    seen : `Observation`
    psf : `Psf`
    header : `astropy.io.fits.Header`
        WCS cards.
    wcs : `astropy.wcs.WCS`
    model : `numpy.ndarray`, (ny, nx)
        Sky and sources without noise, ADU.
    """

    seen: Observation
    psf: Psf
    header: fits.Header
    wcs: WCS
    model: Floats

    @property
    def njy_per_adu(self) -> float:
        """Flux of 1 ADU in the exposure, nJy."""
        return float(nanojansky(self.seen.zero_point))

    def pixel(self, ra: float, dec: float) -> tuple[float, float]:
        """Zero-based (x, y) of a place on the sky."""
        x, y = self.wcs.all_world2pix(ra, dec, 0)
        return float(x), float(y)


def make_view(
    plan: Plan,
    chip: Ccd,
    seen: Observation,
    stars: Table,
    factor: Floats,
    galaxies: Table,
    random: np.random.Generator,
) -> View:
    """Draw what a detector sees in an exposure.

    Parameters
    ----------
    plan : `Plan`
    chip : `Ccd`
    seen : `Observation`
    stars, galaxies : `astropy.table.Table`
        Those of this detector.
    factor : `numpy.ndarray`, (stars,)
        By how much the stars are brighter than on average.
    random : `numpy.random.Generator`
    """
    offset = ((seen.ra - plan.ra) * math.cos(math.radians(plan.dec)), seen.dec - plan.dec)
    header = wcs_header(chip, plan, offset)
    wcs = wcs_of(header)
    psf = Psf.draw(random, seen.fwhm)
    model = _sky(plan.shape, seen.sky, random)
    band, scale = seen.planned.band, 1 / float(nanojansky(seen.zero_point))
    x, y = wcs.all_world2pix(*positions_at(stars, seen.mjd), 0)
    draw_points(model, psf, x, y, np.asarray(stars[f"flux_{band}"]) * factor * scale)
    if len(galaxies):
        ra, dec = galaxy_points(galaxies)
        x, y = wcs.all_world2pix(ra.ravel(), dec.ravel(), 0)
        flux = np.repeat(np.asarray(galaxies[f"flux_{band}"]) * scale, GALAXY_POINTS)
        draw_points(model, psf, x, y, flux / GALAXY_POINTS, flux)
    return View(seen, psf, header, wcs, model)


def _sky(shape: tuple[int, int], level: float, random: np.random.Generator) -> Floats:
    """Sky with a gradient of one or two per cent and a trace of curvature."""
    v = np.linspace(-1, 1, shape[0])[:, None]
    u = np.linspace(-1, 1, shape[1])[None, :]
    slopes = random.normal(0, 0.008, 2)
    curve = random.normal(0, 0.003)
    return np.asarray(level * (1 + slopes[0] * u + slopes[1] * v + curve * (u**2 + v**2)))
