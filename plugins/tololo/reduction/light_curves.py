"""Light curves of diaObjects, out of the APDB into a file.

``python -m tololo.reduction.light_curves --apdb CONFIG --object ID --output FILE`` writes one; instead of
``--object`` a position (``--ra --dec --radius``) gives the nearest object.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from astropy.time import Time

from tololo.facility.errors import BadInputError, NothingToDoError, TololoError
from tololo.reduction.apdb_readers import light_curve, objects_near

if TYPE_CHECKING:
    from tololo.reduction.apdb import CampaignApdb

RADIUS = 1.0
"""Arcsec around a position in which an object is looked for."""

AB_ZERO = 31.4
"""AB magnitude of 1 nJy."""


def object_light_curve(apdb: CampaignApdb, dia_object_id: int) -> Table:
    """Return the light curve of a diaObject: its diaSources and forced sources, none that was withdrawn.

    Returns
    -------
    table : `astropy.table.Table`
        ``mjd_tai``, ``mjd_utc`` (d, middle of the exposure), ``band``, ``kind`` (``detected`` or ``forced``),
        ``visit``, ``detector``, ``ra``, ``dec`` (ICRS deg), ``psfFlux`` and ``psfFluxErr`` (nJy, on the
        difference), ``scienceFlux`` and ``scienceFluxErr`` (nJy, on the visit image), ``mag`` and ``magErr``
        (AB, of ``scienceFlux``; NaN where it is not positive); in time order.

    Raises
    ------
    BadInputError
        If there is no such object.
    """
    points = light_curve(apdb, dia_object_id)
    tai = np.asarray(points["midpointMjdTai"], dtype=float)
    flux, error = (np.asarray(points[name], dtype=float) for name in ("scienceFlux", "scienceFluxErr"))
    seen = flux > 0
    table = Table(meta={"diaObjectId": int(dia_object_id), "apdb": apdb.name})
    table["mjd_tai"] = tai
    table["mjd_utc"] = Time(tai, format="mjd", scale="tai").utc.mjd
    for name in ("band", "kind", "visit", "detector", "ra", "dec"):
        table[name] = points[name]
    for name in ("psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr"):
        table[name] = points[name]
    table["mag"] = np.where(seen, AB_ZERO - 2.5 * np.log10(np.where(seen, flux, 1.0)), np.nan)
    table["magErr"] = np.where(seen, 2.5 / np.log(10) * error / np.where(seen, flux, 1.0), np.nan)
    for names, unit in ((("mjd_tai", "mjd_utc"), "d"), (("mag", "magErr"), "mag")):
        for name in names:
            table[name].unit = unit
    return table


def nearest_object(apdb: CampaignApdb, ra: float, dec: float, radius: float = RADIUS) -> int:
    """Return the diaObject that is nearest to a position.

    Parameters
    ----------
    apdb : `~tololo.reduction.apdb.CampaignApdb`
    ra, dec : `float`
        ICRS degrees.
    radius : `float`, optional
        Arcsec.

    Raises
    ------
    BadInputError
        If it is no position, or the radius is not positive.
    NothingToDoError
        If there is none.
    """
    where = f"ra {ra}, dec {dec}, radius {radius} arcsec"
    if not (0 <= ra < 360 and -90 <= dec <= 90 and 0 < radius <= 3600):
        raise BadInputError(
            "This is no place to look at", where, "give degrees, and a radius of up to 3600 arcsec"
        )
    near = objects_near(apdb, ra, dec, radius)
    if not len(near):
        raise NothingToDoError(f"There is no diaObject in the APDB {apdb.name}", where, "widen the radius")
    return int(near["diaObjectId"][0])


def write_table(table: Table, path: Path) -> None:
    """Write a table beside its file, then give it the name.

    Parameters
    ----------
    table : `astropy.table.Table`
    path : `pathlib.Path`
        ``.parquet``, or ``.csv`` or ``.ecsv``: comma-separated, with units and types in comment lines before.

    Raises
    ------
    BadInputError
        If it is another kind of file, or cannot be written.
    """
    write = _writer(path)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(table, beside)
        os.replace(beside, path)
    except OSError as error:
        raise BadInputError(f"The file cannot be written: {error.strerror}", str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def _writer(path: Path) -> Callable[[Table, Path], None]:
    match path.suffix.lower():
        case ".parquet":
            return lambda table, file: table.write(file, format="parquet", overwrite=True)
        case ".csv" | ".ecsv":
            return lambda table, file: table.write(file, format="ascii.ecsv", delimiter=",", overwrite=True)
    raise BadInputError(
        f"{path.suffix or 'No ending'!r} is no kind of light curve", str(path), "end it in .parquet or .csv"
    )


def main(arguments: list[str] | None = None) -> int:
    """Write the light curve that the command line asks for; 1 and one message if that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m tololo.reduction.light_curves", description="Write the light curve of a diaObject."
    )
    parser.add_argument("--apdb", required=True, metavar="CONFIG", help="configuration file of the APDB")
    parser.add_argument("--object", type=int, metavar="ID", help="diaObjectId")
    parser.add_argument("--ra", type=float, help="ICRS degrees")
    parser.add_argument("--dec", type=float, help="ICRS degrees")
    parser.add_argument("--radius", type=float, default=RADIUS, help="arcsec (%(default)s)")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help=".parquet, .csv or .ecsv")
    asked = parser.parse_args(arguments)
    by_place = asked.ra is not None and asked.dec is not None
    if (asked.object is None) != by_place or (asked.ra is None) != (asked.dec is None):
        parser.error("give --object, or --ra and --dec")
    try:
        _writer(asked.output)
        _write(asked)
    except TololoError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _write(asked: argparse.Namespace) -> None:
    from tololo.reduction.apdb import open_apdb, reachable

    apdb = open_apdb(asked.apdb)
    with reachable(f"APDB {asked.apdb}"):
        number = asked.object
        if number is None:
            number = nearest_object(apdb, asked.ra, asked.dec, asked.radius)
        table = object_light_curve(apdb, number)
    write_table(table, asked.output)
    counts = {kind: int(np.count_nonzero(table["kind"] == kind)) for kind in ("detected", "forced")}
    print(  # noqa: T201
        f"diaObject {number}: {counts['detected']} detections, {counts['forced']} forced, in {asked.output}"
    )


if __name__ == "__main__":
    sys.exit(main())
