"""Catalogues of sources to inject: read, checked, brought into one form and divided into shards.

The form is proc-decam's: ``RA, DEC`` (ICRS degrees), ``MAG`` (AB), ``BAND`` and, where a source is for one
exposure only, ``EXPNUM``, in capitals or not. A shard (HTM level 7 and band) holds ``injection_id, ra, dec,
mag, visit`` (0: every visit), ``source_type`` and, for galaxies, ``n, half_light_radius`` (arcsec), ``q`` and
``pa`` (degrees from north through east).
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.checked_columns import CheckedColumns, name_rows
from tololo.reduction.formats.refcat import htm_index
from tololo.reduction.instrument.filters import BANDS

POINT_SOURCES = ("DeltaFunction", "Star")
GALAXIES = ("Exponential", "Sersic")

FAINTEST = 40.0
"""AB; beyond it a number is no magnitude, but a sign that there is none."""

_SERSIC = (0.3, 6.2)
"""GalSim has no Sersic profile beyond these indices."""

_NAMES = {"id": "injection_id", "expnum": "visit"}
"""Columns that files call otherwise."""

_FORMATS = {
    (".ecsv",): "ascii.ecsv",
    (".csv",): "ascii.csv",
    (".fits", ".fit", ".fits.gz", ".fits.fz"): "fits",
}
SHARD_COLUMNS = (
    *("injection_id", "ra", "dec", "mag", "band", "visit"),
    *("source_type", "n", "half_light_radius", "q", "pa"),
)
_REQUIRED = ("ra", "dec", "mag", "band")
_GIVE = "a catalogue has the columns RA, DEC, MAG, BAND and, if need be, EXPNUM"


def read_injection_catalog(path: Path | str) -> Table:
    """Read a catalogue of sources to inject.

    Parameters
    ----------
    path : `pathlib.Path` or `str`
        CSV, ECSV, FITS or Parquet.

    Returns
    -------
    sources : `astropy.table.Table`
        ``injection_id`` (int64; the row's number, from 1, where the file has none), ``ra``, ``dec`` (ICRS
        degrees), ``mag`` (AB), ``band``, ``visit`` (int64, 0: every visit), ``source_type``, ``n``,
        ``half_light_radius`` (arcsec), ``q``, ``pa`` (degrees; NaN for point sources).

    Raises
    ------
    BadInputError
        If there is no such file, it cannot be read or is empty, a column is missing or there twice, or a row
        cannot be used; the message has the numbers of such rows, the first one being 1.
    """
    file = Path(path)
    table = _load(file)
    columns = _columns(table, file)
    if missing := [name for name in _REQUIRED if name not in columns]:
        raise BadInputError(
            f"The injection catalogue has no column {', '.join(name.upper() for name in missing)}",
            f"{file}, columns {', '.join(table.colnames[:12]) or 'none'}",
            _GIVE,
        )
    if not len(table):
        raise BadInputError("The injection catalogue has no rows", str(file), "give sources to inject")
    check = CheckedColumns(file, columns, len(table))
    ra = check.numbers("ra", lambda v: (v >= 0) & (v <= 360), "give degrees from 0 to 360")
    dec = check.numbers("dec", lambda v: np.abs(v) <= 90, "give degrees from -90 to 90")
    mag = check.numbers("mag", lambda v: (v > 0) & (v < FAINTEST), "give AB magnitudes from 0 to 40")
    band = np.array(["y" if name == "Y" else name for name in check.words("band")])
    check.refuse(~np.isin(band, BANDS), "band", f"use {', '.join(BANDS)}")
    numbers = np.arange(1, len(table) + 1, dtype=np.int64)
    sources = Table(
        {
            "injection_id": check.integers("injection_id", numbers),
            "ra": ra % 360,
            "dec": dec,
            "mag": mag,
            "band": band,
            "visit": check.integers("visit", np.zeros(len(table), np.int64)),
            **_profiles(check),
        }
    )
    _refuse_doubles(sources, file)
    return sources


def content_hash(sources: Table) -> str:
    """Return what tells one catalogue from another, whatever file format they came in."""
    columns = {name: np.asarray(sources[name]).tolist() for name in sources.colnames}
    return hashlib.sha256(repr(columns).encode()).hexdigest()


def no_sources() -> Table:
    """Return a table of the columns of shards that has no rows."""
    numbers = dict.fromkeys(("injection_id", "visit"), np.int64)
    words = dict.fromkeys(("band", "source_type"), "U13")
    kinds = {name: numbers.get(name, words.get(name, np.float64)) for name in SHARD_COLUMNS}
    return Table({name: np.empty(0, kind) for name, kind in kinds.items()})


def injection_shards(sources: Table) -> dict[tuple[int, str], Table]:
    """Divide sources by HTM trixel of level 7 and band, in order.

    Parameters
    ----------
    sources : `astropy.table.Table`
        As `read_injection_catalog` returns.
    """
    trixels = htm_index(sources["ra"], sources["dec"])
    keys = sorted(set(zip(trixels.tolist(), sources["band"].tolist(), strict=True)))
    return {
        (trixel, band): sources[(trixels == trixel) & (np.asarray(sources["band"]) == band)]
        for trixel, band in keys
    }


def _profiles(check: CheckedColumns) -> dict[str, NDArray[Any]]:
    """Return what the sources look like; galaxies are round exponential disks unless the file says more."""
    kinds = check.words("source_type", POINT_SOURCES[0])
    known = POINT_SOURCES + GALAXIES
    if "source_type" in check.columns:
        check.refuse(~np.isin(kinds, known), "source_type", f"use {', '.join(known)}")
    extended = np.isin(kinds, GALAXIES)
    if extended.any() and "half_light_radius" not in check.columns:
        raise BadInputError(
            "The injection catalogue has galaxies, but no column half_light_radius",
            str(check.file),
            f"give it in arcseconds, or use {' or '.join(POINT_SOURCES)}",
        )
    wanted = {
        "n": (1.0, *_SERSIC, "Sersic indices from 0.3 to 6.2", kinds == "Sersic"),
        "half_light_radius": (np.nan, 0.01, 60.0, "arcseconds from 0.01 to 60", extended),
        "q": (1.0, 0.05, 1.0, "minor over major axis, from 0.05 to 1", extended),
        "pa": (0.0, -360.0, 360.0, "degrees from north through east", extended),
    }
    shapes = {}
    for name, (default, low, high, what, used) in wanted.items():
        values = np.full(check.number, default)
        if name in check.columns:
            given = check.numbers(name, partial(_between, low, high), f"give {what}", used)
            values = np.where(used, given, values)
        shapes[name] = np.where(extended, values, np.nan)
    return {"source_type": kinds, **shapes}


def _between(low: float, high: float, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (values >= low) & (values <= high)


def _refuse_doubles(sources: Table, file: Path) -> None:
    """See that no source is there twice in one visit and band; one for every visit is there alone."""
    rows: dict[tuple[int, str, int], int] = {}
    twin = np.full(len(sources), -1)
    ids, bands, visits = (sources[name].tolist() for name in ("injection_id", "band", "visit"))
    everywhere = {(i, band) for i, band, visit in zip(ids, bands, visits, strict=True) if visit == 0}
    for row, (number, band, visit) in enumerate(zip(ids, bands, visits, strict=True)):
        key = (number, band, 0 if (number, band) in everywhere else visit)
        twin[row] = rows.setdefault(key, row)
    doubles = twin != np.arange(len(sources))
    if doubles.any():
        raise BadInputError(
            f"{np.count_nonzero(doubles)} of {len(sources)} sources have the id of another one",
            f"{file}, {name_rows(doubles, lambda row: f'{ids[row]} as in row {twin[row] + 1}')}",
            "give each source an id of its own, or no ids at all",
        )


def _load(file: Path) -> Table:
    if not file.is_file():
        raise BadInputError("There is no such injection catalogue", str(file), "name a file that exists")
    kind = file.name.lower()
    try:
        if kind.endswith((".parquet", ".parq")):
            from pyarrow import parquet

            return Table.from_pandas(parquet.read_table(file).to_pandas())
        for suffixes, form in _FORMATS.items():
            if kind.endswith(suffixes):
                return Table.read(file, format=form)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInputError(
            f"The injection catalogue cannot be read: {first}", str(file), "write the file again"
        ) from error
    raise BadInputError(
        "The injection catalogue is no table in a known form",
        str(file),
        "give a file ending in .csv, .ecsv, .fits or .parquet",
    )


def _columns(table: Table, file: Path) -> dict[str, Any]:
    """Return the columns under their names in shards, whatever case they have in the file."""
    found: dict[str, Any] = {}
    for name in table.colnames:
        known = _NAMES.get(name.lower(), name.lower())
        if known in found and known in SHARD_COLUMNS:
            raise BadInputError(
                f"The injection catalogue has the column {known} twice",
                f"{file}, columns {found[known].name} and {name}",
                "leave one of them out",
            )
        found[known] = table[name]
    return found
