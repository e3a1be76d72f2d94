"""A detector as it is after the removal of the instrument's signature, drawn with known truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.refcat import _from_gaia
from tololo.reduction.isr import Corrected, OverscanStats
from tololo.simulation.plan import Plan, PlannedExposure
from tololo.simulation.sky import PIXEL_SCALE, Psf, ccd, draw_points, wcs_header
from tololo.simulation.truth import make_stars, nanojansky, positions_at, reference_catalogue

MJD = 58550.2
GAIN, READ_NOISE, SKY, SATURATION = 3.85, 6.0, 1400.0, 170000.0
ZERO_POINT = 31.4
"""AB magnitude of one electron."""


@dataclass
class RawField:
    """Electrons with truth: ``x``, ``y`` (pixels) and ``flux`` (e-) of ``stars``."""

    corrected: Corrected
    wcs: WCS
    true_wcs: WCS
    header: dict[str, float]
    stars: Table
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    cosmic_rays: NDArray[np.bool_]
    psf: Psf
    shard: Table


def bent(header: fits.Header, shape: tuple[int, int], bend: float) -> fits.Header:
    """Return the cards of a camera that is bent: cubic terms that move the corners by some pixels."""
    cards = header.copy()
    corner = max(shape) / 2 * abs(header["CD1_2"])
    for axis in (1, 2):
        for term, share in ((4, 0.5), (7, 1.0), (8, -0.6), (10, 0.4)):
            power = 2 if term == 4 else 3
            degrees = share * bend * PIXEL_SCALE / 3600
            cards[f"PV{axis}_{term}"] += degrees / max(corner, 0.02) ** power
    return cards


def draw_field(
    shape: tuple[int, int] = (1024, 1024),
    *,
    seed: int = 1,
    offset: tuple[float, float] = (6.0, -4.0),
    rotation: float = 0.05,
    bend: float = 1.0,
    fwhm: float = 1.1,
    stars_per_deg2: float = 18000.0,
    color_term: float = 0.0,
    cosmic_rays: int = 25,
    limit: float = 21.0,
) -> RawField:
    """Draw a field on CCD 28.

    Parameters
    ----------
    offset : `tuple` [`float`, `float`]
        Arcsec by which the header's pointing is off.
    rotation : `float`
        Degrees by which the header is turned.
    bend : `float`
        Pixels of distortion that the header does not know.
    color_term : `float`
        By how much the camera sees stars fainter, mag per mag of BP - RP beyond 1.2.
    cosmic_rays : `int`
        Per Mpx.
    """
    random = np.random.default_rng(seed)
    chip = ccd(28)
    plan = Plan(
        exposures=(PlannedExposure(20190309),), shape=shape, origin=(0, 0), stars_per_deg2=stars_per_deg2
    )
    stars = make_stars(plan, chip, random)
    stars["id"] = np.arange(1, len(stars) + 1)
    nominal = wcs_header(chip, plan)
    true_wcs = WCS(bent(nominal, shape, bend))
    header = wcs_header(chip, plan, (offset[0] / 3600, offset[1] / 3600))
    turn = math.radians(rotation)
    cd = np.array([[header[f"CD{i}_{j}"] for j in (1, 2)] for i in (1, 2)])
    cd = cd @ [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    for i in (1, 2):
        for j in (1, 2):
            header[f"CD{i}_{j}"] = cd[i - 1, j - 1]
    x, y = true_wcs.all_world2pix(*positions_at(stars, MJD), 0)
    color = np.asarray(stars["bp"] - stars["rp"])
    flux = (
        np.asarray(stars["flux_r"])
        / float(nanojansky(ZERO_POINT))
        * 10 ** (-0.4 * color_term * (color - 1.2))
    )
    psf = Psf.draw(random, fwhm)
    model = np.full(shape, SKY) * (1 + 0.01 * np.linspace(-1, 1, shape[1]))
    draw_points(model, psf, x, y, flux)
    image = random.poisson(model) + random.normal(0, READ_NOISE, shape)
    hit = _hit(image, int(cosmic_rays * image.size / 1e6), random)
    bits = np.zeros(shape, np.int32)
    bits[image > SATURATION] = BIT["SATURATED"]
    column = shape[1] // 3
    bits[: shape[0] // 2, column] |= BIT["BAD"]
    image[: shape[0] // 2, column] = 0.0
    variance = np.maximum(image, 0) + READ_NOISE**2
    planes = Planes(image.astype(np.float32), variance.astype(np.float32), bits)
    overscan = {name: OverscanStats(1700.0, 0.5, READ_NOISE, 1.0) for name in "AB"}
    cards = {"EXPTIME": 90.0, "GAINA": GAIN, "GAINB": GAIN}
    shard = _from_gaia(reference_catalogue(stars, limit, random))
    return RawField(
        Corrected(planes, overscan), WCS(header), true_wcs, cards, stars, x, y, flux, hit, psf, shard
    )


def _hit(image: NDArray[np.float64], number: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """Add straight tracks; return where."""
    hit = np.zeros(image.shape, bool)
    for _ in range(number):
        x, y = random.uniform(0, image.shape[1]), random.uniform(0, image.shape[0])
        angle, length = random.uniform(0, np.pi), 1 + random.exponential(6)
        steps = np.arange(0, length, 0.5)
        columns = np.clip(np.round(x + steps * np.cos(angle)).astype(int), 0, image.shape[1] - 1)
        rows = np.clip(np.round(y + steps * np.sin(angle)).astype(int), 0, image.shape[0] - 1)
        np.add.at(
            image, (rows, columns), 10 ** random.uniform(2.8, 4.2) / 2 * random.uniform(0.4, 1.6, len(steps))
        )
        hit[rows, columns] = True
    return hit
