"""A field of diaObjects for the bench of the APDB, loaded by COPY, and visits that see a part of it."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from lsst.dax.apdb import ApdbTables
from lsst.sphgeom import Box, HtmPixelization, LonLat, UnitVector3d

from tololo.reduction.association import AssociationResult, VisitInfo

if TYPE_CHECKING:
    import psycopg

    from tololo.reduction.apdb import CampaignApdb

WIDTH, HEIGHT = 0.15, 0.30
"""Degrees; one CCD of DECam."""
RA, DEC, FIRST_MJD = 150.0, 0.0, 58000.2
HISTORY_VISITS = 100
ARCSEC = 1 / 3600.0


@dataclass
class Field:
    """Objects with constant density over a square around a detector.

    Parameters
    ----------
    objects : `int`
        In the database.
    overlap : `int`
        Of these, on the detector (on average).
    """

    objects: int
    overlap: int

    def __post_init__(self) -> None:
        side = math.sqrt(self.objects * WIDTH * HEIGHT / self.overlap)
        random = np.random.default_rng([self.objects, self.overlap])
        self.ra = RA + random.uniform(-side / 2, side / 2, self.objects)
        self.dec = DEC + random.uniform(-side / 2, side / 2, self.objects)
        self.ids = np.arange(1, self.objects + 1)
        self.on_detector = np.flatnonzero(
            (np.abs(self.ra - RA) < WIDTH / 2) & (np.abs(self.dec - DEC) < HEIGHT / 2)
        )

    def load(self, apdb: CampaignApdb, connection: psycopg.Connection[Any]) -> None:
        """Fill an empty APDB: one version, one source and one forced source of each object."""
        visit = self.ids % HISTORY_VISITS + 1
        times = FIRST_MJD + visit
        htm = HtmPixelization(apdb.config.pixelization.htm_level)
        pixels = np.array(
            [
                htm.index(UnitVector3d(LonLat.fromDegrees(ra, dec)))
                for ra, dec in zip(self.ra, self.dec, strict=True)
            ]
        )
        place = {"ra": self.ra, "dec": self.dec}
        errors = {name: np.full(self.objects, 0.05 * ARCSEC) for name in ("raErr", "decErr")}
        seen = {"visit": visit, "detector": np.ones_like(visit), "midpointMjdTai": times, "band": "r"}
        fluxes = {name: 1000.0 for name in ("psfFlux", "scienceFlux")}
        fluxes |= {name: 50.0 for name in ("psfFluxErr", "scienceFluxErr")}
        own = {"diaObjectId": self.ids, "pixelId": pixels}
        columns: dict[ApdbTables, dict[str, Any]] = {
            ApdbTables.DiaObject: {"validityStartMjdTai": times, "nDiaSources": 1, **own, **place, **errors},
            ApdbTables.DiaSource: {
                "diaSourceId": self.ids,
                "x": 1.0,
                "y": 1.0,
                **own,
                **place,
                **errors,
                **seen,
                **fluxes,
            },
            ApdbTables.DiaForcedSource: {"diaForcedSourceId": self.ids, **own, **place, **seen, **fluxes},
        }
        for table, given in columns.items():
            self._copy(apdb, connection, table, given)
        with apdb._engine.begin() as ledger:
            for number in range(1, HISTORY_VISITS + 1):
                info = self.info(number)
                result = AssociationResult(number, 1, info.night, False, 0, 0, 0, 0)
                apdb.ledger.insert(ledger, info, result, info.midpoint)
        connection.execute("ANALYZE")

    def _copy(
        self,
        apdb: CampaignApdb,
        connection: psycopg.Connection[Any],
        kind: ApdbTables,
        given: dict[str, Any],
    ) -> None:
        """COPY columns into a table; those that must not be NULL are 0 where nothing is given."""
        table = apdb._schema.get_table(kind)
        zeros = {c.name: 0 for c in table.columns if not c.nullable and c.name not in given}
        frame = pandas.DataFrame({name: given[name] for name in given if name in table.c} | zeros)
        names = ", ".join(f'"{name}"' for name in frame.columns)
        statement = f'COPY "{table.schema}"."{table.name}" ({names}) FROM STDIN (FORMAT csv)'
        with connection.cursor().copy(statement) as copy:
            for first in range(0, len(frame), 50_000):
                block = io.StringIO()
                frame.iloc[first : first + 50_000].to_csv(block, header=False, index=False)
                copy.write(block.getvalue())

    def info(self, visit: int) -> VisitInfo:
        """Return the detector of a visit; those after `HISTORY_VISITS` come later than what is loaded."""
        half_width, half_height = WIDTH / 2, HEIGHT / 2
        box = Box.fromDegrees(RA - half_width, DEC - half_height, RA + half_width, DEC + half_height)
        return VisitInfo(visit, 1, "r", FIRST_MJD + visit, box, 60.0)

    def sources(self, visit: int, new: int = 10) -> dict[str, np.ndarray[Any, Any]]:
        """Return a visit's sources: every third object on the detector, and a few that nobody knows."""
        random = np.random.default_rng([visit, self.objects])
        seen = self.on_detector[visit % 3 :: 3]
        ra = np.append(self.ra[seen], RA + random.uniform(-WIDTH / 2, WIDTH / 2, new))
        dec = np.append(self.dec[seen], DEC + random.uniform(-HEIGHT / 2, HEIGHT / 2, new))
        n = len(ra)
        return {
            "diaSourceId": 10**9 * visit + np.arange(n),
            "ra": ra + random.normal(0, 0.05, n) * ARCSEC,
            "dec": dec + random.normal(0, 0.05, n) * ARCSEC,
            "raErr": np.full(n, 0.05 * ARCSEC),
            "decErr": np.full(n, 0.05 * ARCSEC),
            "x": random.uniform(0, 2048, n),
            "y": random.uniform(0, 4096, n),
            "psfFlux": random.normal(1000, 50, n),
            "psfFluxErr": np.full(n, 50.0),
            "scienceFlux": random.normal(1000, 50, n),
            "scienceFluxErr": np.full(n, 50.0),
            "snr": np.full(n, 20.0),
        }

    @staticmethod
    def forced(ra: Any, dec: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Return forced photometry without pixels."""
        names = ("psfFlux", "scienceFlux", "psfFluxErr", "scienceFluxErr")
        return {name: np.full(len(ra), 50.0) for name in names}
