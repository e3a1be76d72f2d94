"""Known solar-system bodies: where a table of ephemerides predicts them, and which sources they are.

A table has a row for each body and epoch: ``name``, ``mjd_tai`` or ``mjd_utc`` (d), ``ra``, ``dec`` (ICRS,
astrometric, degrees, as seen from the observatory), and optionally the motion ``ra_rate`` (times cos dec),
``dec_rate`` (arcsec per hour) and a number of its own in ``ssObjectId``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from astropy.time import Time
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from tololo.facility.errors import BadInputError

if TYPE_CHECKING:
    type Floats = NDArray[np.float64]
    type Integers = NDArray[np.int64]

LONGEST_GAP = 2.0
"""Days between two epochs of a body: farther apart they say nothing of what lies between."""

LONGEST_REACH = 0.5
"""Days that a motion is believed before the first and after the last epoch of a body."""

NAME_BYTES = 7
_HASHED = 0x7F << 56
_RATE = np.pi / 180 / 3600 * 24
"""From arcsec per hour to radians per day."""


def read_ephemerides(path: Path | str) -> Table:
    """Read a table of ephemerides: Parquet, or whatever text astropy reads (CSV, ECSV).

    Returns
    -------
    table : `astropy.table.Table`
        ``ssObjectId``, ``name``, ``mjd_tai``, ``ra``, ``dec``, and the motion where it is given; sorted by
        body and time.

    Raises
    ------
    BadInputError
        If it cannot be read, a column is missing, or a value is not a number or off the sky.
    """
    path, where = Path(path), f"ephemerides {path}"
    try:
        given = Table.read(path, **({} if path.suffix in (".parquet", ".ecsv") else {"format": "ascii.csv"}))
    except Exception as error:  # each reader has errors of its own
        raise BadInputError(
            f"The table cannot be read: {error}", where, "give Parquet, CSV or ECSV"
        ) from error
    names = set(given.colnames)
    missing = {"name", "ra", "dec"} - names
    if not {"mjd_tai", "mjd_utc"} & names:
        missing.add("mjd_tai")
    if missing:
        raise BadInputError(
            f"There is no column {', '.join(sorted(missing))}", where, "docs/alerts.md has all"
        )
    table = Table({"name": np.asarray(given["name"]).astype(str)})
    for name in ("mjd_tai", "mjd_utc", "ra", "dec", "ra_rate", "dec_rate"):
        if name in names:
            table[name] = _numbers(given, name, where)
    if "mjd_tai" not in names:
        table["mjd_tai"] = Time(table["mjd_utc"].data, format="mjd", scale="utc").tai.mjd
    for name, low, high in (("ra", 0, 360), ("dec", -90, 90)):
        if np.any((table[name] < low) | (table[name] > high)):
            raise BadInputError(f"Some values of {name} are not within {low} and {high} degrees", where)
    if "ssObjectId" in names:
        table["ssObjectId"] = _whole_numbers(given, "ssObjectId", where)
    else:
        numbers = {name: ss_object_id(name) for name in np.unique(table["name"])}
        table["ssObjectId"] = np.array([numbers[name] for name in table["name"]], dtype=np.int64)
    if np.any(table["ssObjectId"] <= 0):
        raise BadInputError(
            "Some ssObjectId are not positive", where, "leave the column out, or number bodies from 1"
        )
    table.sort(["ssObjectId", "mjd_tai"])
    body = np.asarray(table["ssObjectId"])
    if np.any((np.diff(body) == 0) & (np.diff(table["mjd_tai"]) <= 0)):
        raise BadInputError("A body has two rows of one epoch", where, "leave one of them out")
    return table


def match_ephemerides(
    ra: ArrayLike, dec: ArrayLike, mjd_tai: float, table: Table, radius: float
) -> NDArray[np.int64]:
    """Tell which sources are known bodies.

    Parameters
    ----------
    ra, dec : array_like, (n,)
        Sources, ICRS degrees.
    mjd_tai : `float`
        Middle of the exposure, MJD TAI.
    table : `astropy.table.Table`
        As `read_ephemerides` returns it.
    radius : `float`
        Largest distance from the predicted place, arcsec.

    Returns
    -------
    ids : `numpy.ndarray`, (n,)
        ``ssObjectId``; 0 for a source that is no known body. A body is one source, the nearest.
    """
    sources = _vectors(np.atleast_1d(ra), np.atleast_1d(dec))
    ids = np.zeros(len(sources), dtype=np.int64)
    bodies, places = predicted(table, mjd_tai)
    if not len(sources) or not len(bodies):
        return ids
    reach = 2 * np.sin(np.radians(radius / 3600) / 2)
    off, nearest = cKDTree(sources).query(places, distance_upper_bound=reach * (1 + 1e-12))
    for body in np.argsort(off, kind="stable")[: np.count_nonzero(np.isfinite(off))]:
        if ids[nearest[body]] == 0:
            ids[nearest[body]] = bodies[body]
    return ids


def predicted(table: Table, mjd_tai: float) -> tuple[Integers, Floats]:
    """Return the bodies whose place is known at a time.

    Between two epochs the place follows a cubic through both, with the motion that is given there or that the
    neighbouring epochs imply. Before the first and after the last epoch it goes straight on, where a motion
    is given.

    Returns
    -------
    bodies : `numpy.ndarray`, (m,)
        ``ssObjectId``.
    places : `numpy.ndarray`, (m, 3)
        Unit vectors.
    """
    body, time = np.asarray(table["ssObjectId"]), np.asarray(table["mjd_tai"], dtype=float)
    if not len(body):
        return body.astype(np.int64), np.empty((0, 3))
    same = np.append(body[1:] == body[:-1], False)  # the next row is of the same body
    later = np.append(time[1:] > mjd_tai, False)
    before = np.flatnonzero((time <= mjd_tai) & same & later)
    between = before[time[before + 1] - time[before] <= LONGEST_GAP]
    place, motion = _vectors(table["ra"], table["dec"]), _motions(table)

    step = (time[between + 1] - time[between])[:, None]
    s = ((mjd_tai - time[between]) / step[:, 0])[:, None]
    curve = (
        (1 + 2 * s) * (1 - s) ** 2 * place[between]
        + s * (1 - s) ** 2 * step * motion[between]
        + s**2 * (3 - 2 * s) * place[between + 1]
        + s**2 * (s - 1) * step * motion[between + 1]
    )
    ends = np.empty(0, dtype=np.int64)
    if "ra_rate" in table.colnames and "dec_rate" in table.colnames:
        first = np.append(True, ~same[:-1])
        outside = (first & (time > mjd_tai)) | (~same & (time <= mjd_tai))
        ends = np.flatnonzero(outside & (np.abs(time - mjd_tai) <= LONGEST_REACH))
    straight = place[ends] + motion[ends] * (mjd_tai - time[ends])[:, None]
    places = np.concatenate([curve, straight])
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    return body[np.concatenate([between, ends])].astype(np.int64), places


def ss_object_id(name: str) -> int:
    """Return the ssObjectId of a body.

    A packed provisional designation of the Minor Planet Center (``K19A01B``) gives LSST's number, its seven
    ASCII bytes; so does any shorter name, filled up with blanks. A longer one is hashed, and cannot be told
    from the number.
    """
    if 0 < len(name) <= NAME_BYTES and name.isascii():
        return int.from_bytes(name.ljust(NAME_BYTES).encode("ascii"), "big")
    return _HASHED | int.from_bytes(hashlib.blake2b(name.encode(), digest_size=NAME_BYTES).digest(), "big")


def designation_of(number: int) -> str | None:
    """Return the name that a ssObjectId stands for; `None` if it stands for none."""
    name = int(number).to_bytes(8, "big")
    text = name[1:].decode("latin-1").rstrip()
    return text if name[0] == 0 and text and text.isascii() and text.isprintable() else None


def _numbers(table: Table, name: str, where: str) -> NDArray[np.float64]:
    try:
        values = np.ma.filled(np.ma.asarray(getattr(table[name], "value", table[name])).astype(float), np.nan)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"Some values of {name} are no numbers", where) from error
    if bad := np.flatnonzero(~np.isfinite(values)).tolist():
        raise BadInputError(
            f"{len(bad)} values of {name} are no numbers, the first in row {bad[0] + 1}", where
        )
    return np.asarray(values, dtype=float)


def _whole_numbers(table: Table, name: str, where: str) -> Integers:
    """Return whole numbers; not by way of floats, which cannot tell all of them apart."""
    try:
        return np.array([int(value) for value in np.ma.filled(table[name], 0).tolist()], dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInputError(f"Some {name} are no whole numbers: {error}", where) from error


def _vectors(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.float64]:
    """Return unit vectors, shape ``(n, 3)``."""
    lon, lat = np.radians(np.asarray(ra, dtype=float)), np.radians(np.asarray(dec, dtype=float))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _motions(table: Table) -> NDArray[np.float64]:
    """Return what the unit vectors change by in a day, shape ``(n, 3)``."""
    if "ra_rate" in table.colnames and "dec_rate" in table.colnames:
        lon, lat = np.radians(np.asarray(table["ra"])), np.radians(np.asarray(table["dec"]))
        east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], axis=1)
        north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=1)
        rates = (np.asarray(table[name], dtype=float)[:, None] * _RATE for name in ("ra_rate", "dec_rate"))
        return np.asarray(next(rates) * east + next(rates) * north)
    body, time = np.asarray(table["ssObjectId"]), np.asarray(table["mjd_tai"], dtype=float)
    place = _vectors(table["ra"], table["dec"])
    n = len(body)
    has_next, has_last = np.append(body[1:] == body[:-1], False), np.append(False, body[1:] == body[:-1])
    step = np.where(has_next[:-1], np.diff(time), 1.0)[:, None]
    slope = np.where(has_next[:-1, None], np.diff(place, axis=0) / step, 0.0)
    forward, backward = np.zeros((n, 3)), np.zeros((n, 3))
    forward[:-1], backward[1:] = slope, slope
    ahead, behind = np.ones((n, 1)), np.ones((n, 1))
    ahead[:-1], behind[1:] = step, step
    # The parabola through three epochs; at the first and the last, the line to their neighbour.
    middle = (behind * forward + ahead * backward) / (ahead + behind)
    both = (has_next & has_last)[:, None]
    return np.asarray(np.where(both, middle, np.where(has_next[:, None], forward, backward)))
