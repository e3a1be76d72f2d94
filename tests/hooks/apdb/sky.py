"""A small sky whose truth is known, the nights that see it, and how tests look at an APDB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import sqlalchemy
from astropy.table import Table
from astropy.time import Time
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

from tololo.reduction.association import DetectorVisit, VisitInfo, associate_night
from tololo.reduction.source_selection import SourceSelection

NAME = "2018_meanclip"
TEMPLATE = {"template": "2018/meanclip/coadd", "template_version": "v1"}
ARCSEC = 1 / 3600.0
MIDPOINTS = {1001: 58161.20, 1002: 58162.21, 1003: 58163.19}
REGIONS = {1: (150.0, 150.1, 2.0, 2.2), 2: (150.3, 150.4, 2.0, 2.2)}
SELECTION = SourceSelection(minimum_reliability=0.5)

# name: ra, dec, detector, flux (nJy) in each visit, whether it is detected
STAR = (150.05, 2.1, 1, {1001: 5000.0, 1002: -3000.0, 1003: 8000.0}, {1001, 1002, 1003})
TRANSIENT = (150.35, 2.05, 2, {1001: 0.0, 1002: 9000.0, 1003: 200.0}, {1002})
GHOST = (150.02, 2.02, 1, {1001: 0.0, 1002: 4000.0, 1003: 0.0}, {1002})
TRUTH = (STAR, TRANSIENT, GHOST)
ERROR = 100.0


def polygon(detector):
    ra0, ra1, dec0, dec1 = REGIONS[detector]
    corners = [(ra0, dec0), (ra1, dec0), (ra1, dec1), (ra0, dec1)]
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(*corner)) for corner in corners])


def visit_info(visit, detector, band="z"):
    return VisitInfo(visit, detector, band, MIDPOINTS[visit], polygon(detector), 60.0)


def sources(visit, detector):
    """What is detected, with an artefact of low reliability; positions scatter by 0.1 arcsec."""
    rng = np.random.default_rng(visit * 100 + detector)
    rows = [
        (ra, dec, flux[visit], 0.95)
        for ra, dec, where, flux, seen in TRUTH
        if where == detector and visit in seen
    ]
    ra0, _, dec0, _ = REGIONS[detector]
    if (visit, detector) != (1001, 2):
        rows.append((ra0 + 0.07, dec0 + 0.07, 700.0, 0.1))
    n = len(rows)
    ra, dec, flux, reliability = np.array(rows, dtype=float).reshape(n, 4).T
    return Table(
        {
            "diaSourceId": np.arange(n, dtype=np.int64) + visit * 1000 + detector * 100,
            "visit": np.full(n, visit),
            "detector": np.full(n, detector, dtype=np.int16),
            "band": np.full(n, "z"),
            "midpointMjdTai": np.full(n, MIDPOINTS[visit]),
            "ra": ra + rng.normal(0, 0.1, n) * ARCSEC,
            "dec": dec + rng.normal(0, 0.1, n) * ARCSEC,
            "raErr": np.full(n, 0.1 * ARCSEC),
            "decErr": np.full(n, 0.1 * ARCSEC),
            "ra_dec_Cov": np.full(n, 0.3 * (0.1 * ARCSEC) ** 2),
            "psfLnL": np.full(n, -1234.5),
            "x": rng.uniform(0, 2000, n),
            "y": rng.uniform(0, 4000, n),
            "psfFlux": flux,
            "psfFluxErr": np.full(n, ERROR),
            "apFlux": flux * 0.98,
            "scienceFlux": flux + 1e4,
            "scienceFluxErr": np.full(n, ERROR),
            "snr": flux / ERROR,
            "isNegative": flux < 0,
            "isDipole": np.zeros(n, dtype=bool),
            "reliability": reliability.astype(np.float32),
            "trailLength": np.full(n, 0.3, dtype=np.float32),
            "pixelFlags": np.zeros(n, dtype=bool),
            "pixelFlags_bad": np.arange(n) == 0,
            "notInTheSchema": np.zeros(n),
        }
    )


def forced(visit, detector):
    def measure(ra, dec):
        flux = np.zeros(len(ra))
        for true_ra, true_dec, _, fluxes, _ in TRUTH:
            near = np.hypot(ra - true_ra, dec - true_dec) < 1 * ARCSEC
            flux[near] = fluxes[visit]
        error = np.full(len(ra), ERROR)
        return {"psfFlux": flux, "psfFluxErr": error, "scienceFlux": flux + 1e4, "scienceFluxErr": error}

    return measure


def night(*visits, detectors=(1, 2)):
    return [
        DetectorVisit(visit_info(v, d), lambda v=v, d=d: (sources(v, d), forced(v, d)))
        for v in visits
        for d in detectors
    ]


def run(apdb, *visits, **options):
    return associate_night(apdb, night(*visits), selection=SELECTION, **options)


def dump(apdb, *, timeless=False):
    """All rows of all tables of an APDB; without processing times where two runs are compared."""
    tables = sqlalchemy.MetaData(schema=apdb.config.namespace)
    tables.reflect(apdb._engine)
    rows = {}
    for table in tables.sorted_tables:
        columns = [c for c in table.c if not (timeless and c.name == "timeProcessedMjdTai")]
        with apdb._engine.begin() as connection:
            found = [tuple(row) for row in connection.execute(sqlalchemy.select(*columns))]
        if timeless and table.name == "metadata":
            found = [row for row in found if row[0] != "tololo:created"]
        rows[table.name] = sorted(found, key=repr)
    return rows


def connect(monkeypatch, **fields):
    monkeypatch.setenv("AIRFLOW_CONN_APDB_DEFAULT", json.dumps({"conn_type": "apdb", **fields}))


def as_child(code, config_path):
    """Run code in a process of its own, with this module as `t` and the APDB open as `apdb`."""
    lines = [
        "import os, signal, sys",
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
        "import sky as t",
        "from tololo.reduction.apdb import CampaignApdb, open_apdb",
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)",
        f"apdb = open_apdb({str(config_path)!r})",
        code,
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )


def visit_time(visit):
    return Time(MIDPOINTS[visit], format="mjd", scale="tai")
