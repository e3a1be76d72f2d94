"""Plant transients: where they can be recovered, and as bright as the noise there demands."""

from __future__ import annotations

import math
from collections.abc import Container

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from tololo.simulation.plan import Plan
from tololo.simulation.sky import Ccd, Psf, draw_points
from tololo.simulation.truth import positions_at
from tololo.simulation.view import View

type Floats = NDArray[np.float64]

EDGE, APART = 25.0, 15.0
"""Least distance of transients from the edge of every exposure, and from one another, pixels."""

_TRIES = 2000
_STAMP = 41


def choose_places(
    plan: Plan,
    chip: Ccd,
    stars: Table,
    galaxies: Table,
    wcs: list[WCS],
    bad: NDArray[np.bool_],
    random: np.random.Generator,
) -> Table:
    """Choose where transients go: half of them near galaxies, none on saturated stars or defects.

    Parameters
    ----------
    plan : `Plan`
    chip : `Ccd`
    stars, galaxies : `astropy.table.Table`
        Those of this detector.
    wcs : `list` [`astropy.wcs.WCS`]
        Of each exposure.
    bad : `numpy.ndarray`, (ny, nx), bool
        Defects of the detector.
    random : `numpy.random.Generator`

    Returns
    -------
    places : `astropy.table.Table`
        ra, dec, galaxy (row of ``galaxies``, or -1). Fewer rows than asked for where the field is too full.
    """
    hosts = np.flatnonzero(np.asarray(galaxies["radius"]) > 0.25)
    places: list[tuple[float, float, int]] = []
    pixels: list[tuple[float, float]] = []
    star_x, star_y = wcs[0].all_world2pix(stars["ra"], stars["dec"], 0)
    avoided = np.interp(stars["g"], (13.5, 15.8, 16.0, 21.0, 21.1), (90, 40, 9, 5, 0))
    bleeding = np.asarray(stars["g"]) < 15.8
    for _ in range(_TRIES):
        if len(places) == plan.transients:
            break
        host = int(random.choice(hosts)) if len(hosts) and len(places) % 2 == 0 else -1
        if host >= 0:
            distance, angle = (
                galaxies["radius"][host] * random.uniform(0.2, 1.2) / 3600,
                random.uniform(0, 2 * np.pi),
            )
            dec = float(galaxies["dec"][host] + distance * np.sin(angle))
            ra = float(galaxies["ra"][host] + distance * np.cos(angle) / np.cos(np.radians(dec)))
        else:
            x, y = random.uniform(0, plan.shape[1]), random.uniform(0, plan.shape[0])
            ra, dec = (float(value) for value in wcs[0].all_pix2world(x, y, 0))
        x0, y0 = (float(value) for value in wcs[0].all_world2pix(ra, dec, 0))
        away = np.hypot(star_x - x0, star_y - y0)
        if (away < avoided).any() or (bleeding & (np.abs(star_x - x0) < 8)).any():
            continue
        if pixels and np.hypot(*(np.array(pixels) - (x0, y0)).T).min() < APART:
            continue
        if all(_is_clean(one, ra, dec, plan.shape, bad) for one in wcs):
            places.append((ra, dec, host))
            pixels.append((x0, y0))
    columns = zip(*places, strict=True) if places else ((), (), ())
    return Table(dict(zip(("ra", "dec", "galaxy"), (list(column) for column in columns), strict=True)))


def plant(
    plan: Plan,
    chip: Ccd,
    views: list[View],
    places: Table,
    galaxies: Table,
    random: np.random.Generator,
    poor: Container[int] = (),
) -> list[dict[str, object]]:
    """Draw the transients into the science exposures and return their rows of `Truth.transients`.

    A third of them begin on the second science night. Fluxes vary between exposures by up to a fifth; the one
    that is worst for a transient sees it with the signal to noise drawn from the plan's range, or up to a
    fifth less. Exposures whose visit is ``poor`` (clouds) are not asked for that, unless all are.
    """
    rows: list[dict[str, object]] = []
    science = [view for view in views if view.seen.planned.science]
    nights = sorted({view.seen.planned.night for view in science})
    for number, place in enumerate(places):
        snr = math.exp(random.uniform(*np.log(plan.snr)))
        begins = nights[1] if len(nights) > 1 and random.random() < 1 / 3 else nights[0] if nights else 0
        shining = [view for view in science if view.seen.planned.night >= begins]
        course = random.uniform(0.8, 1.0, len(shining))
        noise = [_noise(view, views, place, chip) for view in shining]
        needed = [
            flux_for(snr, profile, variance, chip.gain) * view.njy_per_adu / share
            for view, (profile, variance, _), share in zip(shining, noise, course, strict=True)
        ]
        demanding = [n for n, view in zip(needed, shining, strict=True) if view.seen.visit not in poor]
        for view, (profile, variance, alone), share in zip(shining, noise, course, strict=True):
            flux = max(demanding or needed) * share
            adu = flux / view.njy_per_adu
            x, y = view.pixel(place["ra"], place["dec"])
            draw_points(view.model, view.psf, np.array([x]), np.array([y]), np.array([adu]))
            rows.append(
                {
                    "id": chip.ccdnum * 1000 + number,
                    "kind": "transient",
                    "visit": view.seen.visit,
                    "detector": chip.ccdnum,
                    "band": view.seen.planned.band,
                    "ra": float(place["ra"]),
                    "dec": float(place["dec"]),
                    "x": x,
                    "y": y,
                    "flux": flux,
                    "snr": signal_to_noise(adu, profile, variance, chip.gain),
                    "snr_science": signal_to_noise(adu, profile, alone, chip.gain),
                    "galaxy": int(galaxies["id"][place["galaxy"]]) if place["galaxy"] >= 0 else -1,
                }
            )
    return rows


def variable_rows(chip: Ccd, views: list[View], stars: Table, factor: Floats) -> list[dict[str, object]]:
    """Return the rows of `Truth.transients` for variable stars: the change of their flux against the mean."""
    rows: list[dict[str, object]] = []
    for row in np.flatnonzero(np.asarray(stars["variable"])):
        star = stars[row]
        for number, view in enumerate(views):
            ra, dec = positions_at(stars[row : row + 1], view.seen.mjd)
            x, y = (float(value[0]) for value in view.wcs.all_world2pix(ra, dec, 0))
            inside = 0 <= x < view.model.shape[1] and 0 <= y < view.model.shape[0]
            if view.seen.planned.science and inside:
                rows.append(
                    {
                        "id": chip.ccdnum * 1000 + 500 + int(row),
                        "kind": "variable",
                        "visit": view.seen.visit,
                        "detector": chip.ccdnum,
                        "band": view.seen.planned.band,
                        "ra": float(ra[0]),
                        "dec": float(dec[0]),
                        "x": x,
                        "y": y,
                        "flux": float(star[f"flux_{view.seen.planned.band}"] * (factor[row, number] - 1)),
                        "snr": math.nan,
                        "snr_science": math.nan,
                        "galaxy": -1,
                    }
                )
    return rows


def stamp(image: Floats, x: float, y: float) -> Floats:
    """Cut 41 x 41 pixels around a place; infinite beyond the edge (a variance that counts for nothing)."""
    half = _STAMP // 2
    padded = np.full((_STAMP, _STAMP), np.inf)
    x0, y0 = round(x) - half, round(y) - half
    ys, xs = (
        slice(max(y0, 0), min(y0 + _STAMP, image.shape[0])),
        slice(max(x0, 0), min(x0 + _STAMP, image.shape[1])),
    )
    padded[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0] = image[ys, xs]
    return padded


def psf_stamp(psf: Psf, x: float, y: float, shape: tuple[int, int]) -> Floats:
    """Return the PSF of unit flux at a place of a detector of that shape, cut like `stamp`."""
    alpha, g1, g2 = (np.atleast_1d(value) for value in psf.at(np.array([x]), np.array([y]), shape))
    here = Psf(
        (float(alpha[0]) * 2 * np.sqrt(2 ** (1 / 3) - 1), 0.0, 0.0, 0.0),
        (float(g1[0]), 0.0, 0.0),
        (float(g2[0]), 0.0, 0.0),
    )
    image = np.zeros((_STAMP, _STAMP))
    half = _STAMP // 2
    place = np.array([x - round(x) + half]), np.array([y - round(y) + half])
    draw_points(image, here, *place, np.ones(1), np.full(1, 1e6))
    return image


def signal_to_noise(flux: float, profile: Floats, variance: Floats, gain: float) -> float:
    """Return the signal to noise of a PSF fit.

    Parameters
    ----------
    flux : `float`
        ADU.
    profile : `numpy.ndarray`
        PSF of unit sum.
    variance : `numpy.ndarray`
        Of everything else, ADU^2.
    gain : `float`
        e-/ADU.
    """
    return flux * float(np.sqrt(np.sum(profile**2 / (variance + flux * profile / gain))))


def flux_for(snr: float, profile: Floats, variance: Floats, gain: float) -> float:
    """Return the flux (ADU) that has this signal to noise; the inverse of `signal_to_noise`."""
    low, high = 0.0, 1e9
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if signal_to_noise(middle, profile, variance, gain) < snr else (low, middle)
        )
    return high


def _is_clean(wcs: WCS, ra: float, dec: float, shape: tuple[int, int], bad: NDArray[np.bool_]) -> bool:
    x, y = (float(value) for value in wcs.all_world2pix(ra, dec, 0))
    if not (EDGE <= x < shape[1] - EDGE and EDGE <= y < shape[0] - EDGE):
        return False
    return not bad[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5].any()


def _noise(view: View, views: list[View], place: Table.Row, chip: Ccd) -> tuple[Floats, Floats, Floats]:
    """PSF at a place, and the variance there: on the difference with a mean template, on the image alone."""

    def variance(one: View) -> Floats:
        return np.asarray(
            stamp(one.model, *one.pixel(place["ra"], place["dec"])) / chip.gain
            + (chip.read_noise / chip.gain) ** 2
        )

    alone = variance(view)
    templates = [
        variance(one) * 10 ** (0.8 * (view.seen.zero_point - one.seen.zero_point))
        for one in views
        if not one.seen.planned.science and one.seen.planned.band == view.seen.planned.band
    ]
    both = alone + (sum(templates) / len(templates) ** 2 if templates else 0)
    return psf_stamp(view.psf, *view.pixel(place["ra"], place["dec"]), view.model.shape), both, alone
