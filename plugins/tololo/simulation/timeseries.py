"""A series of reduced frames of one target: a microlensing event among stars, under clouds and drifting.

The frames are in the form of Las Cumbres' pipeline (image SCI, sources CAT, mask BPM, errors ERR); what is
true of them stands beside in ``truth``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time, TimeDelta
from astropy.wcs import WCS
from numpy.typing import NDArray

from tololo.simulation.sky import Psf, draw_points

Floats = NDArray[np.float64]

PIXEL_SCALE = 0.389
"""Arcsec."""

ZERO_POINT = 23.1
"""Magnitude of one count a second at an airmass of 0."""

EXTINCTION = 0.12
"""Mag an airmass."""

COLOR_TERM = 0.05
"""Mag for each mag of colour (g - i less its mean)."""


@dataclass(frozen=True)
class Event:
    """A microlensing event of a point by a point (Paczyński 1986, ApJ 304, 1).

    ``peak`` MJD UTC, ``einstein`` days, ``impact`` in Einstein radii; magnitudes of the source and of what is
    blended with it.
    """

    peak: float
    einstein: float = 6.0
    impact: float = 0.15
    source: float = 15.5
    blend: float = 17.0

    def flux(self, mjd: Floats) -> Floats:
        """Return the flux, that of magnitude 0 being 1."""
        u2 = self.impact**2 + ((np.asarray(mjd) - self.peak) / self.einstein) ** 2
        gain = (u2 + 2) / np.sqrt(u2 * (u2 + 4))
        return np.asarray(10 ** (-0.4 * self.source) * gain + 10 ** (-0.4 * self.blend))


@dataclass(frozen=True)
class SeriesPlan:
    """What is simulated.

    ``clouds`` gives by frame number how many magnitudes are lost, ``trailed`` and ``lost`` frames whose
    guiding or astrometry failed. ``sky`` and star fluxes are counts (gain 1); ``source`` and ``blend`` are
    the magnitudes of the target out of the event. ``flat`` is the error of the flat field of each pixel, one
    for all frames. Stars keep ``alone`` arcsec away from the target: what neighbours do to an aperture is
    another question, asked by a field with many stars and 0.
    """

    target: str = "OGLE-2024-BLG-0034"
    ra: float = 262.60625
    dec: float = -25.50847
    n_frames: int = 60
    shape: tuple[int, int] = (512, 512)
    n_stars: int = 250
    first: str = "2024-05-02T01:00:00.000"
    step: float = 0.4
    exposure_time: float = 60.0
    filter: str = "ip"
    sky: float = 400.0
    read_noise: float = 8.0
    saturation: float = 120000.0
    brightest: float = 12.5
    faintest: float = 19.0
    clouds: dict[int, float] = field(default_factory=lambda: {20: 0.5, 21: 1.2, 22: 0.3})
    trailed: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    variables: int = 5
    source: float = 15.5
    blend: float = 17.0
    flat: float = 0.004
    alone: float = 12.0


@dataclass(frozen=True)
class SeriesTruth:
    """What is true of a series.

    ``stars``: ra, dec, mag (in the filter), color, variable; the first is the target. ``frames``: image_id,
    mjd_utc, transparency (mag), airmass, seeing (arcsec). ``magnitude`` (n_frames, n_stars) above the air.
    """

    folder: Path
    reference: Path
    stars: Table
    frames: Table
    magnitude: Floats


def simulate_series(root: Path, plan: SeriesPlan | None = None, seed: int = 1) -> SeriesTruth:
    """Write the frames of a dataset below ``root``, its reference catalogue, and the truth.

    Returns
    -------
    truth : `SeriesTruth`
        Frames are in ``<root>/<target>/sinistro/<filter>``.
    """
    plan = plan or SeriesPlan()
    random = np.random.default_rng(seed)
    folder = root / plan.target / "sinistro" / plan.filter
    folder.mkdir(parents=True, exist_ok=True)
    start = Time(plan.first, scale="utc")
    event = Event(
        peak=float(start.mjd) + plan.step * plan.n_frames * 0.55, source=plan.source, blend=plan.blend
    )
    flat = 1 + plan.flat * np.random.default_rng(seed + 1000).normal(size=plan.shape)
    stars = _field(plan, random)
    rows: list[dict[str, Any]] = []
    magnitude = np.empty((plan.n_frames, len(stars)))
    pointing = np.cumsum(random.normal(0, 2.0, (plan.n_frames, 2)), axis=0)
    for n in range(plan.n_frames):
        begin = start + TimeDelta((n * plan.step + random.uniform(0, 0.01)) * 86400, format="sec")
        mjd = float(begin.mjd) + plan.exposure_time / 2 / 86400
        magnitude[n] = stars["mag"]
        magnitude[n, 0] = -2.5 * math.log10(float(event.flux(np.array(mjd))))
        wobble = 0.2 * np.sin(2 * math.pi * mjd / stars["period"] + np.arange(len(stars)))
        magnitude[n] += np.where(stars["variable"], wobble, 0.0)
        airmass = float(random.uniform(1.0, 1.9))
        row = {
            "image_id": f"cpt1m012-fa06-{begin.strftime('%Y%m%d')}-{n:04d}-e91",
            "begin": str(begin.isot),
            "mjd_utc": mjd,
            "airmass": airmass,
            "transparency": plan.clouds.get(n, 0.0) + float(abs(random.normal(0, 0.01))),
            "seeing": float(random.uniform(1.4, 2.8)),
        }
        rows.append(row)
        _write_frame(folder, plan, stars, magnitude[n], row, pointing[n], n, flat, random)
    frames = Table(rows=rows)
    reference = root / plan.target / "reference.ecsv"
    known = stars["ra", "dec", "mag", "color"]
    known["mag_error"] = 0.01
    known["mag"][0] = -2.5 * math.log10(10 ** (-0.4 * plan.source) + 10 ** (-0.4 * plan.blend))
    known.write(reference, overwrite=True)
    stars.write(root / plan.target / "truth_stars.ecsv", overwrite=True)
    frames.write(root / plan.target / "truth_frames.ecsv", overwrite=True)
    return SeriesTruth(folder, reference, stars, frames, magnitude)


def _field(plan: SeriesPlan, random: np.random.Generator) -> Table:
    """Draw stars; the first is the target, in the middle."""
    n = plan.n_stars
    half = 0.75 * max(plan.shape) * PIXEL_SCALE / 3600
    # Numbers of stars grow with magnitude as they do towards the bulge.
    spread = 10 ** (0.3 * (plan.faintest - plan.brightest))
    mag = plan.brightest + np.log10(1 + random.random(n) * (spread - 1)) / 0.3
    ra = plan.ra + random.uniform(-half, half, n) / math.cos(math.radians(plan.dec))
    dec = plan.dec + random.uniform(-half, half, n)
    near = np.hypot((ra - plan.ra) * math.cos(math.radians(plan.dec)), dec - plan.dec) < plan.alone / 3600
    dec[near] += 2 * plan.alone / 3600
    ra[0], dec[0], mag[0] = plan.ra, plan.dec, 0.0  # its magnitude is that of the event
    variable = np.zeros(n, bool)
    variable[random.choice(np.arange(1, n), plan.variables, replace=False)] = True
    return Table(
        {
            "ra": ra,
            "dec": dec,
            "mag": mag,
            "color": random.normal(1.2, 0.4, n),
            "variable": variable,
            "period": random.uniform(0.3, 5.0, n),
        }
    )


def _write_frame(
    folder: Path,
    plan: SeriesPlan,
    stars: Table,
    magnitude: Floats,
    row: dict[str, Any],
    pointing: Floats,
    number: int,
    flat: Floats,
    random: np.random.Generator,
) -> None:
    nx = plan.shape[1]
    header = _wcs(plan, pointing, float(random.normal(0, 0.02)))
    x, y = WCS(header).all_world2pix(stars["ra"], stars["dec"], 0)
    loss = row["transparency"] + EXTINCTION * row["airmass"] - COLOR_TERM * (stars["color"] - 1.2)
    flux = plan.exposure_time * 10 ** (-0.4 * (magnitude + loss - ZERO_POINT))
    fwhm = row["seeing"] / PIXEL_SCALE
    shear = 0.45 if number in plan.trailed else 0.0
    psf = Psf((fwhm, 0.0, 0.0, 0.01), (shear, 0.0, 0.0), (0.0, 0.0, 0.0))
    light = np.full(plan.shape, plan.sky * (1 + 0.2 * math.sin(number)))
    draw_points(light, psf, np.asarray(x), np.asarray(y), np.asarray(flux))
    image = random.poisson(light * flat) + random.normal(0, plan.read_noise, plan.shape)
    image = np.minimum(image, plan.saturation).astype(np.float32)
    mask = np.zeros(plan.shape, np.uint8)
    mask[:, nx // 3] = 1
    image[:, nx // 3] = 0
    error = np.sqrt(np.clip(image, 0, None) + plan.read_noise**2).astype(np.float32)
    cards = {
        "OBSTYPE": "EXPOSE",
        "RLEVEL": 91,
        "DATE-OBS": row["begin"],
        "EXPTIME": plan.exposure_time,
        "FILTER": plan.filter,
        "INSTRUME": "fa06",
        "TELESCOP": "1m0-12",
        "SITEID": "cpt",
        "ENCID": "domc",
        "TELID": "1m0a",
        "PROPID": "SIMULATED",
        "OBJECT": plan.target,
        "RA": _sexagesimal(plan.ra / 15),
        "DEC": _sexagesimal(plan.dec),
        "AIRMASS": row["airmass"],
        "L1FWHM": row["seeing"],
        "PIXSCALE": PIXEL_SCALE,
        "GAIN": 1.0,
        "RDNOISE": plan.read_noise,
        "SATURATE": plan.saturation,
        "MAXLIN": 0.0,
        "WCSERR": 4 if number in plan.lost else 0,
        "LONGITUD": 20.81,
        "LATITUDE": -32.38,
        "HEIGHT": 1760.0,
    }
    science = fits.ImageHDU(image, header=header, name="SCI")
    science.header.update(cards)
    sources = _sources(np.asarray(x), np.asarray(y), np.asarray(flux), plan, fwhm, random)
    sources["ellipticity"] += shear
    hdus = [
        fits.PrimaryHDU(),
        science,
        fits.BinTableHDU(sources, name="CAT"),
        fits.ImageHDU(mask, name="BPM"),
        fits.ImageHDU(error, name="ERR"),
    ]
    path = folder / f"{row['image_id']}.fits"
    fits.HDUList(hdus).writeto(path.with_suffix(".part"), overwrite=True)
    path.with_suffix(".part").replace(path)


def _wcs(plan: SeriesPlan, pointing: Floats, rotation: float) -> fits.Header:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [plan.ra, plan.dec]
    wcs.wcs.crpix = [plan.shape[1] / 2 + 0.5 + pointing[0], plan.shape[0] / 2 + 0.5 + pointing[1]]
    angle, scale = math.radians(rotation), PIXEL_SCALE / 3600
    cos, sin = math.cos(angle), math.sin(angle)
    wcs.wcs.cd = scale * np.array([[-cos, sin], [sin, cos]])
    return wcs.to_header()


def _sources(
    x: Floats, y: Floats, flux: Floats, plan: SeriesPlan, fwhm: float, random: np.random.Generator
) -> Table:
    """Return what the observatory's pipeline would have found: stars above ten times the noise of the sky."""
    noise = math.sqrt(math.pi * fwhm**2 * (plan.sky + plan.read_noise**2))
    ny, nx = plan.shape
    seen = (flux > 10 * noise) & (x > 0) & (x < nx - 1) & (y > 0) & (y < ny - 1)
    n = int(seen.sum())
    wrong = fwhm / 2.355 * noise / flux[seen] + 0.02
    return Table(
        {
            "x": x[seen] + 1 + random.normal(0, 1, n) * wrong,
            "y": y[seen] + 1 + random.normal(0, 1, n) * wrong,
            "flux": flux[seen] + random.normal(0, noise, n),
            "fluxerr": np.full(n, noise),
            "fwhm": np.full(n, fwhm),
            "ellipticity": np.abs(random.normal(0.03, 0.01, n)),
        }
    )


def _sexagesimal(value: float) -> str:
    sign, value = ("-" if value < 0 else ""), abs(value)
    thousandths = round(value * 3600000)
    whole, rest = divmod(thousandths, 3600000)
    minutes, rest = divmod(rest, 60000)
    return f"{sign}{whole:02d}:{minutes:02d}:{rest / 1000:06.3f}"
