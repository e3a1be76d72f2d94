"""A catalogue of sources to inject that is made for the visits of one night.

The sky is divided into cells, and each cell has at most one source, whose place follows from the night and
the cell alone: the same night gives the same sources, whatever part of it is looked at. Some lie beside or
upon a source of the sky, as transients in their hosts do, the others anywhere. Their magnitudes follow the
depth that the night's visits reach there, so that there are some that nobody can miss and some that nobody
can find.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.reduction.injection_catalog import POINT_SOURCES, no_sources
from tololo.reduction.instrument.filters import BANDS

if TYPE_CHECKING:
    from lsst.sphgeom import Region

SOURCES = 2000
"""So many sources a band are aimed at, as far as the spacing allows it."""

WIDEST, CLOSEST = 72.0, 18.0
"""Arcseconds between neighbouring cells: about 110 and 1800 sources on a CCD of DECam."""

MARGIN = 0.2
"""Part of a cell along each side that stays free, so that neighbours are never close."""

HOSTED = 0.4
"""Part of the sources that get a host, where their cell has one."""

HOST_SNR = 10.0, 300.0
"""Signal to noise of sources that can be hosts; brighter ones are stars mostly, whose middle is lost."""

EXTENDED = 0.05
"""Extendedness of a host that is taken for a galaxy, and preferred."""

FAINT, FAINT_PART = (-2.0, 1.0), 0.7
"""Magnitudes relative to the depth (5 sigma) of most of the sources: where completeness falls."""

BRIGHT = (-5.0, -2.0)
"""Those of the others, which tell whether fluxes are true."""

_ROW = 1_000_000
"""More than there are cells around the sky in a row; an id is the row times this, plus the cell."""


@dataclass(frozen=True)
class Footprint:
    """A calibrated detector of a night.

    Attributes
    ----------
    visit, detector : `int`
    band : `str`
    region : `lsst.sphgeom.Region`
        On the sky.
    depth : `float`
        AB magnitude of a point source at 5 sigma.
    """

    visit: int
    detector: int
    band: str
    region: Region
    depth: float


@dataclass(frozen=True)
class Cells:
    """Cells of the sky, ``spacing`` arcsec apart, and the source in the middle part of each.

    ``chance`` has the random numbers of each from 0 to 1: place (2), host (3: whether, which, how far), its
    direction, and two for each band.
    """

    spacing: float
    ids: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    chance: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)


def auto_catalogue(
    night: int, footprints: Sequence[Footprint], stars: Callable[[Footprint], Table | None]
) -> Table:
    """Make a catalogue for a night.

    Parameters
    ----------
    night : `int`
        The seed.
    footprints : sequence of `Footprint`
    stars : callable
        Returns the sources of the sky (``single_visit_star``) on a footprint, `None` where there is no table.

    Returns
    -------
    sources : `astropy.table.Table`
        As `~tololo.reduction.injection_catalog.read_injection_catalog` returns: point sources, the same place
        in every band and every visit, a magnitude of its own for each band.
    """
    cells = cells_of(night, footprints, WIDEST)
    density = len(cells) / SOURCES
    if density < 1:
        cells = cells_of(night, footprints, max(CLOSEST, WIDEST * math.sqrt(density)))
    ra, dec = cells.ra.copy(), cells.dec.copy()
    _find_hosts(cells, footprints, stars, ra, dec)
    depths = _depths(footprints, ra, dec)
    rows = []
    for column, band in enumerate(BANDS):
        depth = depths.get(band, np.full(len(cells), np.nan))
        which, place = cells.chance[:, 6 + 2 * column], cells.chance[:, 7 + 2 * column]
        (faint, fainter), (bright, brighter) = FAINT, BRIGHT
        offset = np.where(
            which < FAINT_PART, faint + (fainter - faint) * place, bright + (brighter - bright) * place
        )
        known = np.isfinite(depth)
        rows.append((band, known, np.round(depth + offset, 4)))
    return _table(cells, ra, dec, rows)


def cells_of(night: int, footprints: Sequence[Footprint], spacing: float) -> Cells:
    """Return the cells whose sources lie on some footprint, in order of their ids."""
    found = sorted({cell for item in footprints for cell in _cells_near(item.region, spacing)})
    numbers = 6 + 2 * len(BANDS)
    chance = np.array([np.random.default_rng([night, *cell]).random(numbers) for cell in found])
    chance = chance.reshape(len(found), numbers)
    row, column = np.array(found, dtype=np.int64).reshape(len(found), 2).T
    inner = MARGIN + (1 - 2 * MARGIN) * chance[:, :2]
    dec = (row + inner[:, 0]) * spacing / 3600 - 90
    around = np.array([_around(int(j), spacing) for j in row], dtype=float)
    ra = (column + inner[:, 1]) / np.maximum(around, 1) * 360
    covered = np.zeros(len(found), bool)
    for item in footprints:
        covered |= _inside(item, ra, dec)
    ids = row * _ROW + column
    return Cells(spacing, ids[covered], ra[covered], dec[covered], chance[covered])


def _around(row: int, spacing: float) -> int:
    """Return how many cells a row of the sky has."""
    dec = (row + 0.5) * spacing / 3600 - 90
    return max(1, int(360 * 3600 * math.cos(math.radians(dec)) / spacing))


def _cells_near(region: Region, spacing: float) -> Iterator[tuple[int, int]]:
    """List the cells around a region as (row, column)."""
    # A circle: boxes of regions that lie across RA 0 go all around the sky.
    ra, dec, radius = _circle(region)
    low = math.floor((dec - radius + 90) * 3600 / spacing)
    high = math.floor((dec + radius + 90) * 3600 / spacing)
    for row in range(max(0, low), high + 1):
        around = _around(row, spacing)
        reach = radius / max(1e-3, math.cos(math.radians((row + 0.5) * spacing / 3600 - 90)))
        if reach >= 180:
            yield from ((row, column) for column in range(around))
            continue
        first = math.floor((ra - reach) * around / 360)
        last = math.floor((ra + reach) * around / 360)
        yield from ((row, column % around) for column in range(first, last + 1))


def _circle(region: Region) -> tuple[float, float, float]:
    """Return RA, Dec and radius of the circle around a region, degrees."""
    from lsst.sphgeom import LonLat

    circle = region.getBoundingCircle()
    middle = LonLat(circle.getCenter())
    ra, dec = middle.getLon().asDegrees(), middle.getLat().asDegrees()
    return ra, dec, circle.getOpeningAngle().asDegrees()


def _inside(item: Footprint, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which places lie on a footprint; the exact question is asked for those near it only."""
    _, middle, radius = _circle(item.region)
    inside = np.abs(dec - middle) <= radius
    inside[inside] = item.region.contains(np.radians(ra[inside]), np.radians(dec[inside]))
    return inside


def _find_hosts(
    cells: Cells,
    footprints: Sequence[Footprint],
    stars: Callable[[Footprint], Table | None],
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
) -> None:
    """Move the sources that want a host to one of their cell, in place.

    A table is read only where it can serve cells that no other has served.
    """
    wanting = cells.chance[:, 2] < HOSTED
    for item in footprints:
        mine = np.flatnonzero(wanting & _inside(item, cells.ra, cells.dec))
        if not len(mine):
            continue
        table = stars(item)
        wanting[mine] = False
        if table is None or not len(table):
            continue
        low, high = HOST_SNR
        snr = np.asarray(table["snr"], float)
        table = table[(snr > low) & (snr < high) & ~np.asarray(table["flags"], bool)]
        by_cell = _by_cell(table, cells.spacing)
        for index in mine:
            rows = by_cell.get(int(cells.ids[index]))
            if rows is None:
                continue
            galaxies = [row for row in rows if table["extendedness"][row] > EXTENDED]
            chosen = galaxies or rows
            _, _, _, which, far, angle = cells.chance[index, :6]
            host = chosen[int(which * len(chosen))]
            # Exponential, as light in a disk is, out to three times half the width of what is seen.
            radius = min(3.0, -math.log(1 - far)) * float(table["fwhm"][host]) / 2 / 3600
            if not math.isfinite(radius):
                radius = 0.0
            dec[index] = float(table["dec"][host]) + radius * math.sin(2 * math.pi * angle)
            east = radius * math.cos(2 * math.pi * angle) / math.cos(math.radians(dec[index]))
            ra[index] = (float(table["ra"][host]) + east) % 360


def _by_cell(table: Table, spacing: float) -> dict[int, list[int]]:
    """Return the rows of a table by the cell in whose middle part they are."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    height = (np.asarray(table["dec"], float) + 90) * 3600 / spacing
    for index, (high, ra) in enumerate(zip(height, np.asarray(table["ra"], float), strict=True)):
        row = math.floor(high)
        along = ra * _around(row, spacing) / 360
        column = math.floor(along)
        if all(MARGIN <= part <= 1 - MARGIN for part in (high - row, along - column)):
            found[row * _ROW + column].append(index)
    return dict(found)


def _depths(
    footprints: Sequence[Footprint], ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return by band the mean depth of the visits that cover each place, NaN where none does."""
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, NDArray[np.int64]] = {}
    for item in footprints:
        inside = _inside(item, ra, dec)
        sums.setdefault(item.band, np.zeros(len(ra)))[inside] += item.depth
        counts.setdefault(item.band, np.zeros(len(ra), np.int64))[inside] += 1
    with np.errstate(invalid="ignore"):
        return {
            band: np.where(counts[band] > 0, total / np.maximum(counts[band], 1), np.nan)
            for band, total in sums.items()
        }


def _table(
    cells: Cells,
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    rows: Sequence[tuple[str, NDArray[np.bool_], NDArray[np.float64]]],
) -> Table:
    """Put the bands below each other in the form of a catalogue."""
    keep = np.concatenate([known for _, known, _ in rows])
    number = int(keep.sum())
    bands = np.concatenate([np.full(len(cells), band) for band, _, _ in rows])
    table = no_sources()
    columns = {
        "injection_id": np.tile(cells.ids, len(rows))[keep],
        "ra": np.tile(ra, len(rows))[keep],
        "dec": np.tile(dec, len(rows))[keep],
        "mag": np.concatenate([mag for _, _, mag in rows])[keep],
        "band": bands[keep],
        "visit": np.zeros(number, np.int64),
        "source_type": np.full(number, POINT_SOURCES[0]),
    }
    nothing = np.full(number, np.nan)
    return Table({name: columns.get(name, nothing) for name in table.colnames})
