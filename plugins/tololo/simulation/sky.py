"""From the sky to a detector: where its pixels look, how its PSF varies, and drawing with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.special import gammaincinv

from tololo.facility.errors import BadInputError
from tololo.simulation.plan import Plan

type Floats = NDArray[np.float64]

PIXEL_SCALE = 0.2623
"""Arcsec per pixel at the centre."""

GALAXY_POINTS = 200


@dataclass(frozen=True)
class Ccd:
    """A CCD as headers describe it: gain in e-/ADU, read noise in e-, saturation in ADU, terms of the WCS."""

    ccdnum: int
    name: str
    serial: str
    gain: float
    read_noise: float
    saturation: float
    crpix: tuple[float, float]
    pv1: tuple[float, ...]
    pv2: tuple[float, ...]


CD = ((-1.8249413473e-07, 7.28535892432e-05), (-7.2849900453899e-05, -1.82181666096e-07))
"""Degrees per pixel: x runs south, y runs east."""

# Distortion and reference pixels of real headers (EXPNUM 941420); gains after flat-fielding, as in InstCal
# files.
CCDS = {
    ccd.ccdnum: ccd
    for ccd in (
        Ccd(
            27, "S3", "S3-106_123194-8-1", 3.81, 6.01, 37500.0, (1121.2, 4284.333),
            (0.000680586273106, 1.00548328858, 0.00019526375756, 0.0, -0.000525017549007, -0.000158582949783,
             -0.000216149836895, -0.00440484672136, -0.000359828630108, -0.00394529797132, 0.000212500920195),
            (-0.000325615027275, 1.00564823323, -0.000225899079434, 0.0, 0.000788257093916,
             0.000212733050612, -3.48704288742e-05, -0.00766248036918, -0.000307854154318,
             -0.00352520228697, -3.34749389109e-05),
        ),
        Ccd(
            28, "S4", "S3-214_124750-21-3", 3.84, 6.35, 44800.0, (1121.2, 25.0),
            (0.000285674387099, 1.00568019103, -0.000338800300778, 0.0, -0.00024329640589, -0.000162539601835,
             -0.000248051171036, -0.00455890451146, 0.00145901942624, -0.00381410563223, 0.00105155810998),
            (-0.000101860154118, 1.00562966516, 0.000296201087258, 0.0, 0.000824275492071, 9.62815084357e-05,
             -9.07130093109e-05, -0.00788530016525, -0.00016434787284, -0.00338572119261, 0.000484269401983),
        ),
        Ccd(
            34, "N3", "S3-313_135959-19-1", 3.87, 5.88, 50400.0, (-1133.2001, 4284.333),
            (0.00059247714737, 1.00561672081, -0.00027357290974, 0.0, -5.22214877361e-05, -0.00012794061508,
             0.000160569171009, -0.00387490274681, -0.00046802686395, -0.00392490347911, 0.000754648596697),
            (0.000223364811806, 1.00550319855, 0.000231848849697, 0.0, -0.00220463025209, -0.000291580114468,
             -0.000269960626785, -0.0131172260649, -0.000699659375611, -0.00423046117408, -0.000441300489993),
        ),
        Ccd(
            35, "N4", "S3-187_124750-6-1", 3.86, 6.12, 46100.0, (-1133.2001, 25.0),
            (-3.85182451318e-05, 1.00567531603, -8.524667568e-05, 0.0, -0.000185764356613, -0.000136304818357,
             -0.000466264080618, -0.00514060942565, 0.000338187333513, -0.00453842699985, -0.00185637053335),
            (0.000163971820432, 1.00549074963, 2.08713064819e-05, 0.0, -0.00212064802375, -0.000205295388566,
             0.000148472380419, -0.011734691522, -0.000924343625343, -0.00364472470902, 0.000178193596804),
        ),
    )
}  # fmt: skip


def ccd(ccdnum: int) -> Ccd:
    """Return a CCD by its number; `BadInputError` if its geometry is not known here."""
    try:
        return CCDS[ccdnum]
    except KeyError:
        raise BadInputError(
            f"The simulator has no geometry of detector {ccdnum}",
            "plan, detectors",
            f"choose among {sorted(CCDS)}",
        ) from None


def wcs_header(
    chip: Ccd, plan: Plan, offset: tuple[float, float] = (0.0, 0.0), turn: float = 0.0
) -> fits.Header:
    """Return the WCS cards of a piece of a CCD.

    Parameters
    ----------
    chip : `Ccd`
    plan : `Plan`
        Pointing, and the origin of the piece.
    offset : `tuple` [`float`, `float`]
        Where the telescope points beside the plan's pointing, degrees on the sky (east, north).
    turn : `float`
        By how much the camera is turned, degrees from north to east.

    Returns
    -------
    header : `astropy.io.fits.Header`
        ``RA---TPV`` with PV terms, as in InstCal files.
    """
    cards = fits.Header()
    cards["WCSAXES"] = (2, "WCS Dimensionality")
    for axis in (1, 2):
        cards[f"CTYPE{axis}"] = ("RA---TPV", "DEC--TPV")[axis - 1]
        cards[f"CUNIT{axis}"] = ("deg", "Axis unit")
        cards[f"CRPIX{axis}"] = (chip.crpix[axis - 1] - plan.origin[2 - axis], "Reference pixel on this axis")
    cards["CRVAL1"] = (
        plan.ra + offset[0] / math.cos(math.radians(plan.dec)),
        "World coordinate on this axis",
    )
    cards["CRVAL2"] = (plan.dec + offset[1], "World coordinate on this axis")
    sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    linear = np.array([[cosine, sine], [-sine, cosine]]) @ CD
    for i in (1, 2):
        for j in (1, 2):
            cards[f"CD{i}_{j}"] = (float(linear[i - 1, j - 1]), "Linear projection matrix")
        for term, value in enumerate((chip.pv1, chip.pv2)[i - 1]):
            cards[f"PV{i}_{term}"] = (value, "Projection distortion parameter")
    return cards


def wcs_of(header: fits.Header) -> WCS:
    """Return the WCS of such cards (zero-based pixels to ICRS)."""
    return WCS(header)


@dataclass(frozen=True)
class Psf:
    """A Moffat profile with exponent 3 whose width and shape vary over a detector.

    Attributes
    ----------
    fwhm : `tuple` of 4 `float`
        Pixels: at the centre; relative change towards the edge in x, in y; and with the square of the radius.
    g1, g2 : `tuple` of 3 `float`
        Shear: at the centre, change towards the edge in x and in y.
    """

    fwhm: tuple[float, float, float, float]
    g1: tuple[float, float, float]
    g2: tuple[float, float, float]

    @classmethod
    def draw(cls, random: np.random.Generator, fwhm_arcsec: float) -> Psf:
        """Draw the variation over a detector of a PSF with this FWHM."""
        slopes = random.normal(0, 0.015, 2)
        shear = random.normal(0, 0.012, (2, 3))
        return cls(
            fwhm=(
                fwhm_arcsec / PIXEL_SCALE,
                float(slopes[0]),
                float(slopes[1]),
                float(random.uniform(0, 0.02)),
            ),
            g1=(float(shear[0, 0]), float(shear[0, 1]), float(shear[0, 2])),
            g2=(float(shear[1, 0]), float(shear[1, 1]), float(shear[1, 2])),
        )

    def at(self, x: Floats, y: Floats, shape: tuple[int, int]) -> tuple[Floats, Floats, Floats]:
        """Return scale radius (pixels) and both shears at positions on a detector of that shape."""
        u = 2 * np.asarray(x, float) / shape[1] - 1
        v = 2 * np.asarray(y, float) / shape[0] - 1
        fwhm = self.fwhm[0] * (1 + self.fwhm[1] * u + self.fwhm[2] * v + self.fwhm[3] * (u**2 + v**2))
        g1 = self.g1[0] + self.g1[1] * u + self.g1[2] * v
        g2 = self.g2[0] + self.g2[1] * u + self.g2[2] * v
        return fwhm / (2 * math.sqrt(2 ** (1 / 3) - 1)), g1, g2


def draw_points(
    image: Floats, psf: Psf, x: Floats, y: Floats, flux: Floats, source_flux: Floats | None = None
) -> None:
    """Add points to an image.

    Parameters
    ----------
    image : `numpy.ndarray`, (ny, nx), float64
        Changed in place.
    psf : `Psf`
    x, y : `numpy.ndarray`, (n,)
        Zero-based pixels.
    flux : `numpy.ndarray`, (n,)
        Total flux of each, in units of the image. Pixels hold the profile at their centres.
    source_flux : `numpy.ndarray`, (n,), optional
        Flux of the source that a point is part of: sets how far out it is drawn, to 0.01 per pixel of the
        whole.
    """
    alpha, g1, g2 = psf.at(x, y, (image.shape[0], image.shape[1]))
    whole = np.abs(flux if source_flux is None else source_flux)
    radius = np.clip(alpha * (2 * whole / (np.pi * alpha**2 * 0.01)) ** (1 / 6), 8, 400)
    _add_moffats(image, x, y, flux, alpha, g1, g2, radius)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _add_moffats(
    image: Floats, x: Floats, y: Floats, flux: Floats, alpha: Floats, g1: Floats, g2: Floats, radius: Floats
) -> None:
    ny, nx = image.shape
    for k in range(len(x)):
        if flux[k] == 0:
            continue
        norm = 2 * flux[k] / (math.pi * alpha[k] ** 2)
        stretch = 1 / (alpha[k] * math.sqrt(1 - g1[k] ** 2 - g2[k] ** 2))
        for j in range(max(0, math.ceil(y[k] - radius[k])), min(ny, math.floor(y[k] + radius[k]) + 1)):
            dy = j - y[k]
            half = math.sqrt(max(radius[k] ** 2 - dy * dy, 0.0))
            for i in range(max(0, math.ceil(x[k] - half)), min(nx, math.floor(x[k] + half) + 1)):
                dx = i - x[k]
                a = ((1 - g1[k]) * dx - g2[k] * dy) * stretch
                b = (-g2[k] * dx + (1 + g1[k]) * dy) * stretch
                t = 1 + a * a + b * b
                image[j, i] += norm / (t * t * t)


def galaxy_points(galaxies: Table) -> tuple[Floats, Floats]:
    """Spread galaxies over points of equal flux.

    Parameters
    ----------
    galaxies : `astropy.table.Table`
        ra, dec (degrees), radius (half-light along the major axis, arcsec), sersic, axis_ratio (minor over
        major axis), angle (of the major axis, degrees north to east).

    Returns
    -------
    ra, dec : `numpy.ndarray`, (n, `GALAXY_POINTS`)
        Degrees. Radii are quantiles of the profile (cut at 8 half-light radii), angles advance by the golden
        angle.
    """
    names = ("ra", "dec", "radius", "sersic", "axis_ratio", "angle")
    ra, dec, radius, n, axis_ratio, angle = (np.asarray(galaxies[name], float)[:, None] for name in names)
    angle = np.radians(angle)
    quantile = (np.arange(GALAXY_POINTS) + 0.5)[None, :] / GALAXY_POINTS
    ratio = (gammaincinv(2 * n, quantile) / gammaincinv(2 * n, 0.5)) ** n
    distance = radius * np.minimum(ratio, 8)
    turn = np.arange(GALAXY_POINTS) * math.pi * (3 - math.sqrt(5))
    major, minor = distance * np.cos(turn), distance * np.sin(turn) * axis_ratio
    east = major * np.sin(angle) + minor * np.cos(angle)
    north = major * np.cos(angle) - minor * np.sin(angle)
    return ra + east / 3600 / np.cos(np.radians(dec)), dec + north / 3600
