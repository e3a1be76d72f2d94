"""Reference catalogues: tables of stars turned into shards by HTM level 7, one dataset each.

A shard holds ``id, coord_ra, coord_dec`` (rad, ICRS, at ``epoch``, MJD), ``coord_raErr, coord_decErr`` (rad),
``pm_ra`` (rad/yr, times cos dec), ``pm_dec, pm_raErr, pm_decErr`` (rad/yr), ``parallax`` (rad) and for each
band a flux and its error in nJy. Gaia's bands are ``phot_g_mean_flux, phot_bp_mean_flux, phot_rp_mean_flux``:
its own (Vega) magnitudes with the zero point 31.4 as they stand, so that 31.4 - 2.5 log10(flux) gives back
the catalogue's magnitude.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table, vstack
from astropy.time import Time
from lsst.sphgeom import HtmPixelization, UnitVector3d
from numpy.typing import ArrayLike, NDArray

from tololo.facility import collections
from tololo.facility.errors import BadInputError

from .tract import unit_vectors

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetType

LEVEL = 7
MILLIARCSECOND = np.pi / 180 / 3600e3  # rad
GAIA_BANDS = ("g", "bp", "rp")

# LSST's Gaia DR2 shards hold AB fluxes; the catalogue's magnitudes are Vega. Zero point AB - Vega, mag
# (Gaia DR2 documentation, section 5.3.6: 25.7934 - 25.6884, 25.3806 - 25.3514, 25.1161 - 24.7619).
_AB_MINUS_VEGA = {"g": 0.1050, "bp": 0.0292, "rp": 0.3542}

_SUFFIXES = (".fits", ".fit", ".fits.gz", ".fits.fz", ".ecsv", ".parquet", ".parq")
_GAIA = ("source_id", "ra", "dec", "phot_g_mean_mag")
_LSST = ("id", "coord_ra", "coord_dec")
_FLUX = re.compile(r"\w+_flux(?:Err)?")


@dataclass(frozen=True)
class RefcatReport:
    """What an ingest of a reference catalogue did.

    Attributes
    ----------
    stars : `int`
        Distinct stars in the tables.
    written, unchanged : `tuple` [`int`, ...]
        HTM indices of the shards that were written, and of those that held these stars already.
    run : `str`
        RUN of the written ones; empty where there are none.
    """

    stars: int
    written: tuple[int, ...]
    unchanged: tuple[int, ...]
    run: str


def read_refcat(path: Path | str) -> Table:
    """Read a reference catalogue.

    Parameters
    ----------
    path : `pathlib.Path` or `str`
        A FITS, ECSV or Parquet table, or a folder of such: Gaia's columns (``source_id, ra, dec`` in degrees,
        ``phot_g_mean_mag``, ...) or those of LSST's shards (``id, coord_ra, coord_dec`` in radians,
        ``*_flux`` in nJy).

    Returns
    -------
    stars : `astropy.table.Table`
        The columns above, each star once, by id.

    Raises
    ------
    BadInputError
        If there is no table or no star, a table is cut short or lacks columns, or holds impossible positions.
    """
    root = Path(path)
    tables = [table for file in _files(root) if len(table := _standard(_load(file), file))]
    if not tables:
        raise BadInputError("The reference catalogue holds no star", str(root), "give tables with rows")
    if len({tuple(sorted(table.colnames)) for table in tables}) > 1:
        raise BadInputError(
            "The tables of the reference catalogue have different bands", str(root), "ingest them one by one"
        )
    stars = vstack(tables, metadata_conflicts="silent")
    _, first = np.unique(stars["id"], return_index=True)
    return stars[first]


def shards(stars: Table) -> dict[int, Table]:
    """Divide stars by HTM trixel of level 7.

    Parameters
    ----------
    stars : `astropy.table.Table`
        As `read_refcat` returns.

    Returns
    -------
    shards : `dict` [`int`, `astropy.table.Table`]
        By HTM index.
    """
    index = htm_index(np.degrees(stars["coord_ra"]), np.degrees(stars["coord_dec"]))
    order = np.argsort(index, kind="stable")
    trixels, starts = np.unique(index[order], return_index=True)
    pieces = np.split(order, starts[1:])
    return {int(trixel): stars[piece] for trixel, piece in zip(trixels, pieces, strict=True)}


def htm_index(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
    """Return the HTM index of level 7 of positions in ICRS degrees, shape ``(n,)``."""
    pixelization = HtmPixelization(LEVEL)
    vectors = unit_vectors(ra, dec).reshape(-1, 3).tolist()
    return np.array([pixelization.index(UnitVector3d(*vector)) for vector in vectors], dtype=np.int64)


def ingest_refcat(butler: Butler, path: Path | str, name: str = "gaia_dr2") -> RefcatReport:
    """Put a reference catalogue into a repository: dataset ``name`` by htm7 in RUN ``refcats/{name}``.

    A shard that holds these stars already is left alone. One that lacks some is written anew, old and new
    stars together, into RUN ``refcats/{name}/v<N>``, which goes before the older in the chain ``refcats``;
    nothing is ever removed. A call that was killed is completed by the next.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable.
    path : `pathlib.Path` or `str`
        As in `read_refcat`.
    name : `str`, optional
        Name of the catalogue and of its dataset type.

    Returns
    -------
    report : `RefcatReport`

    Raises
    ------
    BadInputError
        As `read_refcat`; nothing has been written then.
    """
    from lsst.daf.butler import CollectionType, DatasetType  # type: ignore[attr-defined]

    collections.check_part(name, "name of the reference catalogue")
    stars = read_refcat(path)
    dataset_type = DatasetType(name, [f"htm{LEVEL}"], "ArrowAstropy", universe=butler.dimensions)
    butler.registry.registerDatasetType(dataset_type)
    butler.collections.register(collections.REFCATS, CollectionType.CHAINED)
    known = _known(butler, dataset_type)
    changed: dict[int, Table] = {}
    unchanged: list[int] = []
    for trixel, shard in shards(stars).items():
        merged = _merge(known[trixel], shard) if trixel in known else shard
        if merged is None:
            unchanged.append(trixel)
        else:
            changed[trixel] = merged
    run = ""
    if changed:
        run = _run(butler, name, dataset_type, changed)
        if run not in butler.collections.get_info(collections.REFCATS).children:
            butler.collections.prepend_chain(collections.REFCATS, run)
        for trixel, shard in changed.items():
            butler.put(shard, dataset_type, {f"htm{LEVEL}": trixel}, run=run)
    return RefcatReport(len(stars), tuple(changed), tuple(unchanged), run)


class _Known:
    """The shards that a repository has, read when asked for."""

    def __init__(self, butler: Butler, refs: dict[int, Any]) -> None:
        self._butler, self._refs = butler, refs

    def __contains__(self, trixel: int) -> bool:
        return trixel in self._refs

    def __getitem__(self, trixel: int) -> Table:
        return self._butler.get(self._refs[trixel])


def _known(butler: Butler, dataset_type: DatasetType) -> _Known:
    refs = butler.query_datasets(
        dataset_type, collections=collections.REFCATS, find_first=True, limit=None, explain=False
    )
    return _Known(butler, {int(ref.dataId[f"htm{LEVEL}"]): ref for ref in refs})


def _merge(old: Table, new: Table) -> Table | None:
    """Return old and new stars together, or `None` where the old ones hold the new."""
    kept = old[~np.isin(old["id"], new["id"])]
    merged = vstack([new, kept], metadata_conflicts="silent") if len(kept) else new
    merged = merged[np.argsort(merged["id"])]
    before = old[np.argsort(old["id"])]
    same = len(before) == len(merged) and set(before.colnames) == set(merged.colnames)
    if same and all(
        np.array_equal(before[c], merged[c], equal_nan=merged[c].dtype.kind == "f") for c in merged.colnames
    ):
        return None
    return merged


def _run(butler: Butler, name: str, dataset_type: DatasetType, changed: Iterable[int]) -> str:
    """Register and return the first RUN of the catalogue that holds none of the shards yet."""
    run, version = f"{collections.REFCATS}/{name}", 1
    while True:
        butler.collections.register(run)
        refs = butler.query_datasets(dataset_type, run, limit=None, explain=False)
        if not {int(ref.dataId[f"htm{LEVEL}"]) for ref in refs} & set(changed):
            return run
        version += 1
        run = f"{collections.REFCATS}/{name}/v{version}"


def _files(root: Path) -> Iterator[Path]:
    if not root.exists():
        raise BadInputError(
            "The reference catalogue does not exist", str(root), "name a table or a folder of tables"
        )
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    tables = [file for file in files if file.is_file() and file.name.endswith(_SUFFIXES)]
    if not tables:
        raise BadInputError(
            "There is no reference catalogue", str(root), f"give files ending in {', '.join(_SUFFIXES)}"
        )
    yield from tables


def _load(file: Path) -> Table:
    try:
        if file.name.endswith((".parquet", ".parq")):
            from pyarrow import parquet

            columns = parquet.read_table(file)
            return Table({name: columns[name].to_numpy() for name in columns.column_names})
        if file.name.endswith(".ecsv"):
            return Table.read(file, format="ascii.ecsv")
        return _load_fits(file)
    except BadInputError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInputError(
            f"The table cannot be read: {first}", str(file), "fetch the file again"
        ) from error


def _load_fits(file: Path) -> Table:
    from astropy.io import fits

    with fits.open(file, memmap=False) as hdus:
        hdu = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), None)
        if hdu is None:
            raise BadInputError("The FITS file holds no table", str(file), "give a table of stars")
        rows = hdu.data
        columns = {name: np.asarray(rows[name]) for name in rows.names if name != "flags"}
        table = Table({n: c.astype(c.dtype.newbyteorder("=")) for n, c in columns.items()})
        table.meta["lsst"] = "REFCAT_FORMAT_VERSION" in hdu.header
        return table


def _standard(table: Table, file: Path) -> Table:
    """Bring a table into the columns of a shard."""
    if set(_GAIA) <= set(table.colnames):
        standard = _from_gaia(table)
    elif set(_LSST) <= set(table.colnames) and any(_FLUX.fullmatch(name) for name in table.colnames):
        standard = _from_lsst(table)
    else:
        raise BadInputError(
            "The table is not a reference catalogue in a known form",
            f"{file}, columns {', '.join(table.colnames[:8]) or 'none'}",
            f"give the columns of Gaia ({', '.join(_GAIA)}, ...) or of LSST ({', '.join(_LSST)}, *_flux)",
        )
    ra, dec = np.asarray(standard["coord_ra"]), np.asarray(standard["coord_dec"])
    bad = ~(np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= np.pi / 2) & (ra >= 0) & (ra <= 2 * np.pi))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise BadInputError(
            f"{bad.sum()} of {len(bad)} stars have impossible positions",
            f"{file}, row {row}: ra {np.degrees(ra[row])}, dec {np.degrees(dec[row])} degrees",
            "give ra from 0 to 360 and dec from -90 to 90 degrees",
        )
    return standard


def _from_gaia(table: Table) -> Table:
    number = len(table)
    column = {name: np.ma.filled(np.ma.asarray(table[name])) for name in table.colnames}

    def get(name: str, default: float) -> NDArray[np.float64]:
        return np.asarray(column.get(name, np.full(number, default)), dtype=float)

    measured = np.isfinite(get("pmra", np.nan)) & np.isfinite(get("pmdec", np.nan))
    epoch = get("ref_epoch", 2015.5)
    standard: dict[str, Any] = {
        "id": np.asarray(column["source_id"], dtype=np.int64),
        "coord_ra": np.radians(get("ra", np.nan)),
        "coord_dec": np.radians(get("dec", np.nan)),
        "coord_raErr": get("ra_error", np.nan) * MILLIARCSECOND,
        "coord_decErr": get("dec_error", np.nan) * MILLIARCSECOND,
        "epoch": np.asarray(Time(epoch, format="jyear", scale="tcb").tai.mjd) if number else epoch,
        "pm_ra": np.where(measured, get("pmra", np.nan), 0.0) * MILLIARCSECOND,
        "pm_dec": np.where(measured, get("pmdec", np.nan), 0.0) * MILLIARCSECOND,
        "pm_raErr": get("pmra_error", np.nan) * MILLIARCSECOND,
        "pm_decErr": get("pmdec_error", np.nan) * MILLIARCSECOND,
        "parallax": np.nan_to_num(get("parallax", 0.0)) * MILLIARCSECOND,
    }
    for band in sorted(GAIA_BANDS):
        magnitude = get(f"phot_{band}_mean_mag", np.nan)
        # Extracts of the Legacy Surveys write 0 where Gaia has no magnitude.
        flux = 10 ** ((31.4 - np.where(magnitude > 0, magnitude, np.nan)) / 2.5)
        signal = get(f"phot_{band}_mean_flux_over_error", np.nan)
        standard[f"phot_{band}_mean_flux"] = flux
        standard[f"phot_{band}_mean_fluxErr"] = flux / np.where(signal > 0, signal, np.nan)
    return Table(standard)


def _from_lsst(table: Table) -> Table:
    column = {name: np.asarray(table[name]) for name in table.colnames}
    fluxes = {name: value.astype(float) for name, value in column.items() if _FLUX.fullmatch(name)}
    if table.meta.get("lsst"):
        for band in GAIA_BANDS:
            if (flux := fluxes.get(f"phot_{band}_mean_flux")) is not None:
                flux[flux <= 0] = np.nan  # LSST writes 0 where Gaia has no magnitude
            for name in {f"phot_{band}_mean_flux", f"phot_{band}_mean_fluxErr"} & set(fluxes):
                fluxes[name] = fluxes[name] * 10 ** (_AB_MINUS_VEGA[band] / 2.5)
    # Only Gaia's shards carry proper motions with a unit; those of others (PS1) mean nothing.
    astrometric = "phot_g_mean_flux" in fluxes
    empty = np.full(len(table), np.nan)

    def get(name: str, default: float) -> NDArray[np.float64]:
        values = np.asarray(column.get(name, empty) if astrometric else empty, dtype=float)
        return np.where(np.isfinite(values), values, default)

    epoch = np.asarray(column.get("epoch", empty), dtype=float)
    seconds = epoch > 1e8  # PS1's shards count seconds since 1970
    standard = {
        "id": column["id"].astype(np.int64),
        "coord_ra": column["coord_ra"].astype(float) % (2 * np.pi),
        "coord_dec": column["coord_dec"].astype(float),
        "coord_raErr": get("coord_raErr", np.nan),
        "coord_decErr": get("coord_decErr", np.nan),
        "epoch": np.where(seconds, epoch / 86400 + 40587, epoch),
        "pm_ra": get("pm_ra", 0.0),
        "pm_dec": get("pm_dec", 0.0),
        "pm_raErr": get("pm_raErr", np.nan),
        "pm_decErr": get("pm_decErr", np.nan),
        "parallax": get("parallax", 0.0),
    }
    return Table(standard | dict(sorted(fluxes.items())))
