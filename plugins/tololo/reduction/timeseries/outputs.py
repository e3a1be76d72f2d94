"""The files of a dataset's photometry: all stars as one Parquet table, the target's light curve as text."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Table

from tololo.reduction.timeseries.series import FACTS, Series
from tololo.reduction.timeseries.stars import Stars

PHOTOMETRY = "photometry.parquet"
"""All stars on all frames, one row each."""

COLUMNS = ("time", "filter", "magnitude", "error", "limit", "telescope", "instrument", "zero_point", "image")
"""Of the light curve as ``.csv``, which a TOM reads; the time is the MJD (UTC) of mid-exposure."""


def write_photometry(folder: Path, series: Series, stars: Stars) -> Path:
    """Write one row for each star on each frame, the rows of one frame together, in the order of time.

    Columns: ``image_id``; of the frame its begin (``start``, UTC), the middle of the exposure as MJD in UTC
    and TDB, as HJD (UTC) and BJD (TDB), exposure time (s), filter, telescope, instrument, site, airmass; of
    the star its number (0: target), ``ra``, ``dec`` (ICRS deg), ``x``, ``y`` (pixels from 0), ``flux`` and
    ``flux_err`` (counts a second), ``magnitude`` and ``error``, ``limit`` (3 sigma, where it is not seen),
    ``zero_point`` and ``zero_point_err`` (mag of one count a second on the frame), ``flags``.
    """
    path = folder / PHOTOMETRY
    part = _beside(path)
    n_stars = len(stars.ra)
    limit = series.limit
    writer: pq.ParquetWriter | None = None
    try:
        for n, item in enumerate(series.measurements):
            columns: dict[str, Any] = {"image_id": pa.array([item.image_id] * n_stars)}
            columns |= {name: pa.array([item.facts[name]] * n_stars) for name in FACTS}
            columns |= {"star": np.arange(n_stars, dtype=np.int32), "ra": stars.ra, "dec": stars.dec}
            columns |= {name: item.stars[name] for name in ("x", "y")}
            columns |= {name: getattr(series, name)[n] for name in ("flux", "flux_err", "magnitude", "error")}
            columns["limit"] = limit[n]
            columns["zero_point"] = np.full(n_stars, series.scale[n])
            columns["zero_point_err"] = np.full(n_stars, series.scale_err[n])
            columns["flags"] = series.flags[n]
            table = pa.table(columns)
            if writer is None:
                writer = pq.ParquetWriter(part, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    os.replace(part, path)
    return path


def read_light_curve(folder: Path, star: int = 0) -> Table:
    """Return the rows of one star, the target by default, from ``photometry.parquet``."""
    found = pq.read_table(folder / PHOTOMETRY, filters=[("star", "=", star)])
    return Table({name: found[name].to_numpy(zero_copy_only=False) for name in found.column_names})


def write_light_curve(folder: Path, target: str, label: str, curve: Table) -> tuple[Path, Path]:
    """Write the target's light curve as ``.csv`` for a TOM and as ``.dat``; flagged points are left out.

    Parameters
    ----------
    folder : `pathlib.Path`
    target, label : `str`
        Its name, and what goes before the filter's name in the ``.csv``.
    curve : `astropy.table.Table`
        As `Series.light_curve` returns it.

    Returns
    -------
    csv, dat : `pathlib.Path`
        ``<target>_<filter>_lc``; blanks and slashes of the name become underscores.
    """
    band = str(curve["filter"][0])
    stem = f"{target}_{band}_lc".replace(" ", "_").replace("/", "_")
    good = curve[(curve["flags"] == 0) & np.isfinite(curve["flux"])]
    shown = f"{label}_{band}" if label else band
    csv = [",".join(COLUMNS)]
    dat = ["# HJD flux err_flux mag err_mag file"]
    for row in good:
        value = f"{row['magnitude']:.5f},{row['error']:.5f}," if row["detected"] else f",,{row['limit']:.4f}"
        csv.append(
            f"{row['mjd_utc']:.8f},{shown},{value},{row['telescope']},{row['instrument']},"
            f"{row['zero_point']:.4f},{row['image_id']}"
        )
        dat.append(
            f"{row['hjd_utc']:.8f} {row['flux']:.4f} {row['flux_err']:.4f} "
            f"{row['magnitude']:.5f} {row['error']:.5f} {row['image_id']}"
        )
    return write_lines(folder / f"{stem}.csv", csv), write_lines(folder / f"{stem}.dat", dat)


def write_lines(path: Path, rows: Iterable[str]) -> Path:
    """Write a text file: whole or not at all."""
    part = _beside(path)
    part.write_text("\n".join(rows) + "\n")
    os.replace(part, path)
    return path


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
