"""Ten nights with a variable star, a supernova, a moving object and false detections; the truth is known."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from lsst.sphgeom import Box

from tololo.reduction.association import DetectorVisit, VisitInfo, associate_night

from .sky import ARCSEC

NIGHTS = range(10)
BANDS = ("r", "g")
BEGIN = 58178.20
ERROR = 120.0
SCATTER = 0.08
REGION = Box.fromDegrees(150.0, 2.0, 150.15, 2.3)
VARIABLE, SUPERNOVA = (150.04, 2.11), (150.11, 2.05)
FIXED = {"variable": VARIABLE, "supernova": SUPERNOVA}
BODY = 4711
FALSE_DETECTIONS = 3


def visits(night):
    """Two visits of a night, in r and half an hour later in g."""
    return [(1000 + 10 * night + k, BANDS[k], BEGIN + night + 0.02 * k) for k in range(2)]


ALL = [visit for night in NIGHTS for visit in visits(night)]
TIME = {visit: time for visit, _, time in ALL}


def flux(name, band, time):
    """Flux on the difference, nJy."""
    days = time - BEGIN
    colour = {"r": 1.0, "g": 1.4}[band]
    if name == "variable":
        return colour * 6000 * np.sin(2 * np.pi * days / 2.73 + 0.4)
    if name == "supernova":
        return 0.0 if days < 2.5 else colour * 9000 * (1 - np.exp(2.5 - days)) * np.exp(-(days - 2.5) / 8)
    return 5000.0


def body(time):
    """Where the moving object is: it goes north by 3 arcsec in an hour."""
    return 150.075, 2.01 + 0.02 * (time - BEGIN)


def detections(visit, band, time):
    """What is above five sigma, and what is nothing."""
    random = np.random.default_rng(visit)
    places = [*FIXED.items(), ("body", body(time))]
    rows = [(*place, flux(name, band, time) + random.normal(0, ERROR)) for name, place in places]
    rows = [row for row in rows if abs(row[2]) > 5 * ERROR]
    for _ in range(FALSE_DETECTIONS):
        rows.append((random.uniform(150.0, 150.15), random.uniform(2.0, 2.3), 6 * ERROR))
    ra, dec, measured = np.array(rows).T
    n = len(ra)
    return Table(
        {
            "diaSourceId": visit * 1000 + np.arange(n),
            "ra": ra + random.normal(0, SCATTER, n) * ARCSEC,
            "dec": dec + random.normal(0, SCATTER, n) * ARCSEC,
            "raErr": np.full(n, SCATTER * ARCSEC),
            "decErr": np.full(n, SCATTER * ARCSEC),
            "x": random.uniform(0, 2048, n),
            "y": random.uniform(0, 4096, n),
            "psfFlux": measured,
            "psfFluxErr": np.full(n, ERROR),
            "scienceFlux": measured + 2e4,
            "scienceFluxErr": np.full(n, 1.5 * ERROR),
            "snr": measured / ERROR,
        }
    )


def forced(visit, band, time):
    """Photometry at given positions: the noise belongs to the position, as if there were pixels."""

    def measure(ra, dec):
        values = []
        for one_ra, one_dec in zip(ra, dec, strict=True):
            value = np.random.default_rng([visit, int(one_ra * 1e5), int(one_dec * 1e5)]).normal(0, ERROR)
            for name, (true_ra, true_dec) in FIXED.items():
                if np.hypot(one_ra - true_ra, one_dec - true_dec) < 1 * ARCSEC:
                    value += flux(name, band, time)
            values.append(value)
        n = len(ra)
        return {
            "psfFlux": np.array(values),
            "psfFluxErr": np.full(n, ERROR),
            "scienceFlux": np.array(values) + 2e4,
            "scienceFluxErr": np.full(n, 1.5 * ERROR),
        }

    return measure


def detector_visits(night):
    """A night as `associate_night` takes it."""
    return [
        DetectorVisit(
            VisitInfo(visit, 1, band, time, REGION, 90.0),
            lambda v=(visit, band, time): (detections(*v), forced(*v)),
        )
        for visit, band, time in visits(night)
    ]


def run_night(apdb, night, **options):
    """Associate a night."""
    return associate_night(apdb, detector_visits(night), **options)


def ephemerides():
    """Where the moving object is, once a day."""
    times = BEGIN + np.arange(-1.0, 12.0)
    places = np.array([body(time) for time in times])
    return Table(
        {
            "ssObjectId": np.full(len(times), BODY),
            "mjd_tai": times,
            "ra": places[:, 0],
            "dec": places[:, 1],
        }
    )
