"""The stars of a dataset: those of its reference frame, with the magnitudes of a reference catalogue."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io.registry import IORegistryError
from astropy.table import Table
from astropy.wcs import WCS, WcsError
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.tract import unit_vectors
from tololo.reduction.timeseries.frames import Frame
from tololo.reduction.timeseries.placing import MIN_STARS, place

Floats = NDArray[np.float64]

FILE = "star_catalog.ecsv"
"""In the folder of the dataset."""

SAME = 1.5
"""Arcsec within which a source of the reference frame and a star of the catalogue are one."""

FAINTEST = 50.0
"""Mag; values beyond it, to either side, stand for unknown ones (-999, 99.99 ...)."""

BANDS = {
    "up": ("u", "u", "g"),
    "gp": ("g", "g", "r"),
    "rp": ("r", "r", "i"),
    "ip": ("i", "r", "i"),
    "zs": ("z", "i", "z"),
    "SDSS-G": ("g", "g", "r"),
    "SDSS-I": ("i", "r", "i"),
}
"""Magnitude, and the two of the colour, that calibrate each filter."""


COLUMNS = ("ra", "dec", "flux", "magnitude", "error", "color")


class NoMagnitudesError(BadInputError):
    """The reference catalogue has no magnitudes for a filter."""


@dataclass(frozen=True)
class Stars:
    """Stars of a dataset; the target is the first.

    Attributes
    ----------
    ra, dec : `numpy.ndarray`, (n,)
        ICRS degrees.
    flux : `numpy.ndarray`, (n,)
        Counts on the reference frame, NaN where it does not show the star.
    magnitude, error, color : `numpy.ndarray`, (n,)
        Of the reference catalogue, NaN where it has none.
    reference_image, filter : `str`
        The frame that they were found on, and its filter.
    origin : `str`
        Fingerprint of what they were made of: target, reference frame and reference catalogue.
    """

    ra: Floats
    dec: Floats
    flux: Floats
    magnitude: Floats
    error: Floats
    color: Floats
    reference_image: str
    filter: str
    origin: str = ""

    @property
    def fingerprint(self) -> str:
        """Change of this means that frames have to be measured again: other places, or another order."""
        places = np.round(np.column_stack([self.ra, self.dec, self.flux]), 7).tobytes()
        return hashlib.sha256(places + self.filter.encode()).hexdigest()[:16]

    def table(self) -> Table:
        """Return them as they are written."""
        table = Table({name: getattr(self, name) for name in COLUMNS})
        table.add_column(np.arange(len(table)), name="star", index=0)
        table.meta.update(reference_image=self.reference_image, filter=self.filter, origin=self.origin)
        return table

    def write(self, folder: Path) -> None:
        """Write them into the folder of the dataset: whole or not at all."""
        part = folder / f".{FILE}.part"
        self.table().write(part, format="ascii.ecsv", overwrite=True)
        os.replace(part, folder / FILE)


def read_stars(folder: Path) -> Stars | None:
    """Read the stars of a dataset; `None` if they have not been written, or not as they are now."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        table = Table.read(path, format="ascii.ecsv")
        columns = {name: np.ma.filled(np.ma.asarray(table[name], float), np.nan) for name in COLUMNS}
        image, band, origin = (str(table.meta[name]) for name in ("reference_image", "filter", "origin"))
        return Stars(**columns, reference_image=image, filter=band, origin=origin)
    except (ValueError, KeyError, TypeError, OSError):
        return None


def read_reference(path: Path, filter_name: str) -> Table:
    """Read a reference catalogue.

    Parameters
    ----------
    path : `pathlib.Path`
        CSV, ECSV, FITS or Parquet with ``ra``, ``dec`` (ICRS degrees) and either ``mag`` in the filter, with
        ``mag_error`` and ``color`` if they are known, or ``gmag``, ``rmag`` ... with ``gmagerr`` ...
    filter_name : `str`
        Filter of the dataset.

    Returns
    -------
    reference : `astropy.table.Table`
        ra, dec, magnitude, error, color; only stars with a position and a magnitude.

    Raises
    ------
    BadInputError
        It cannot be read, or (`NoMagnitudesError`) has no magnitudes for the filter.
    """
    where = f"reference catalogue {path}"
    try:
        table = Table.read(path, format="ascii" if path.suffix in (".dat", ".txt") else None)
    except (OSError, ValueError, TypeError, IndexError, IORegistryError) as wrong:
        said = str(wrong).partition("\n")[0]
        raise BadInputError(
            f"The reference catalogue cannot be read: {said}",
            where,
            "write it as .csv, .ecsv, .dat, .fits or .parquet; see docs/datasets.md",
        ) from wrong
    names = {name.lower(): name for name in table.colnames}
    if missing := [name for name in ("ra", "dec") if name not in names]:
        raise BadInputError(
            f"The reference catalogue has no column {', '.join(missing)}", where, "add it, in degrees"
        )

    def column(name: str) -> Floats:
        if name not in names:
            return np.full(len(table), np.nan)
        try:
            values = np.ma.filled(np.ma.asarray(table[names[name]], dtype=float), np.nan)
        except (TypeError, ValueError) as wrong:
            raise BadInputError(
                f"The column {names[name]} of the reference catalogue holds no numbers: {wrong}",
                where,
                "write degrees and magnitudes as decimal numbers",
            ) from wrong
        return np.asarray(values, float)

    def magnitudes(name: str) -> Floats:
        values = column(name)
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(values) < FAINTEST, values, np.nan)

    if "mag" in names:
        magnitude, error, color = magnitudes("mag"), magnitudes("mag_error"), magnitudes("color")
    elif filter_name in BANDS and f"{BANDS[filter_name][0]}mag" in names:
        band, blue, red = BANDS[filter_name]
        magnitude, error = magnitudes(f"{band}mag"), magnitudes(f"{band}magerr")
        color = magnitudes(f"{blue}mag") - magnitudes(f"{red}mag")
    else:
        known = ", ".join(sorted(BANDS))
        raise NoMagnitudesError(
            f"The reference catalogue has no magnitudes for the filter {filter_name}",
            where,
            f"add a column mag, or gmag, rmag ... for one of the filters {known}",
        )
    reference = Table(
        {
            "ra": column("ra"),
            "dec": column("dec"),
            "magnitude": magnitude,
            "error": np.where(error >= 0, error, 0.02),  # also where it is not known
            "color": color,
        }
    )
    good = np.isfinite(reference["ra"]) & np.isfinite(reference["dec"]) & np.isfinite(reference["magnitude"])
    return reference[good]


def find_stars(frame: Frame, ra: float, dec: float, reference: Table | None, origin: str = "") -> Stars:
    """Make the list of stars of a dataset.

    Parameters
    ----------
    frame : `Frame`
        The reference frame; all its sources are taken.
    ra, dec : `float`
        The target, ICRS degrees; a source or star within `SAME` of it is the target itself.
    reference : `astropy.table.Table`, optional
        As `read_reference` returns it. Its stars on the frame are taken also where the frame shows no source.
    origin : `str`, optional
        For `Stars.origin`.

    Raises
    ------
    BadInputError
        The frame's sources cannot be recognised among the stars of the catalogue; or, without one, are too
        few for other frames to be recognised by, or the frame has no celestial WCS.

    Notes
    -----
    The frame is placed on the catalogue, whose stars keep its places: these are better than those of one
    frame.
    """
    x, y, own_flux = (np.asarray(frame.catalogue[name], float) for name in ("x", "y", "flux"))
    if reference is None:
        reference = Table({name: np.empty(0) for name in ("ra", "dec", "magnitude", "error", "color")})
        own_ra, own_dec = _by_its_wcs(frame, x, y)
    else:
        star_ra, star_dec = (np.asarray(reference[name], float) for name in ("ra", "dec"))
        placement = place(frame, star_ra, star_dec, -np.asarray(reference["magnitude"], float))
        own_ra, own_dec = placement.sky(x, y)
        ny, nx = frame.image.shape
        with np.errstate(invalid="ignore"):
            px, py = placement.x, placement.y
            reference = reference[(px > 0) & (px < nx - 1) & (py > 0) & (py < ny - 1)]
    known = {name: np.asarray(reference[name], float) for name in ("magnitude", "error", "color")}
    star_of = _nearest(own_ra, own_dec, reference["ra"], reference["dec"])
    flux = np.full(len(reference), np.nan)
    flux[star_of[star_of >= 0]] = own_flux[star_of >= 0]
    alone = star_of < 0
    nothing = np.full(int(alone.sum()), np.nan)
    all_ra = np.concatenate([reference["ra"], own_ra[alone]])
    all_dec = np.concatenate([reference["dec"], own_dec[alone]])
    columns = {name: np.concatenate([values, nothing]) for name, values in known.items()}
    columns["flux"] = np.concatenate([flux, own_flux[alone]])
    target = int(_nearest(np.array([ra]), np.array([dec]), all_ra, all_dec)[0])
    rest = np.delete(np.arange(len(all_ra)), target) if target >= 0 else np.arange(len(all_ra))
    # A source takes the target's given place: the light curve is of that place.
    first = {name: [values[target] if target >= 0 else np.nan] for name, values in columns.items()}
    return Stars(
        ra=np.concatenate([[ra], all_ra[rest]]),
        dec=np.concatenate([[dec], all_dec[rest]]),
        reference_image=frame.info.image_id,
        filter=frame.info.filter,
        origin=origin,
        **{name: np.concatenate([first[name], values[rest]]) for name, values in columns.items()},
    )


def _by_its_wcs(frame: Frame, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return ra and dec of pixels as the frame itself has them."""
    where, remedy = str(frame.path), "the other frames go on without it"
    if len(x) < MIN_STARS:
        raise BadInputError(
            f"The frame is set aside: it shows {len(x)} stars (needed: {MIN_STARS})", where, remedy
        )
    try:
        wcs = WCS(frame.header)
        if not wcs.has_celestial:
            raise ValueError("no celestial axes")
        ra, dec = wcs.all_pix2world(x, y, 0)
    except (WcsError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"The frame is set aside: it has no usable WCS: {error}", where, remedy
        ) from error
    return np.asarray(ra, float), np.asarray(dec, float)


def _nearest(ra: Floats, dec: Floats, other_ra: Floats, other_dec: Floats) -> NDArray[np.int64]:
    """Return for each place the row of the nearest other one within `SAME`, each row once; else -1."""
    found = np.full(len(ra), -1, np.int64)
    if not len(ra) or not len(other_ra):
        return found
    own, other = (unit_vectors(a, d) for a, d in ((ra, dec), (other_ra, other_dec)))
    limit = np.radians(SAME / 3600)
    distance, row = cKDTree(other).query(own, distance_upper_bound=limit)
    _, back = cKDTree(own).query(other)
    hit = np.isfinite(distance)
    hit[hit] = back[row[hit]] == np.flatnonzero(hit)
    found[hit] = row[hit]
    return found
