"""Ingest of files that a table lists: which file is which dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import find_collection
from tololo.facility.errors import BadInputError
from tololo.hooks.artifacts import difference
from tololo.hooks.selection import INSTRUMENT, data_id, known_types, new_collection, query

if TYPE_CHECKING:
    from astropy.table import Row, Table
    from lsst.daf.butler import Butler, DataCoordinate, DatasetRef, DatasetType

TRANSFERS = ("direct", "symlink", "hardlink", "copy")
"""Ways to ingest; ``move`` is none of them: a facility's files stay where they are."""


@dataclass(frozen=True)
class IngestFilesReport:
    """What an ingest of files did.

    Attributes
    ----------
    run, dataset_type : `str`
    ingested, known : `int`
        Datasets that are new, and that were there before.
    files : `int`
        Files of the new ones.
    """

    run: str
    dataset_type: str
    ingested: int
    known: int
    files: int

    def __str__(self) -> str:
        return (
            f"{self.run}: datasets {self.dataset_type} ingested {self.ingested}, known {self.known}; "
            f"new files {self.files}"
        )


def ingest_files(
    butler: Butler,
    dataset_type: str,
    run: str,
    table: str | Path,
    *,
    common: Mapping[str, Any] | None = None,
    transfer: str = "direct",
    formatter: str | None = None,
    dry_run: bool = False,
) -> IngestFilesReport:
    """Ingest the files that a table lists, as ``butler ingest-files`` does.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    dataset_type : `str`
        What they are; it has been registered.
    run : `str`
        RUN that they go into; it is made if it does not exist.
    table : `str` or `pathlib.Path`
        Anything that astropy reads. Its first column is the file (relative to the table), the others are the
        dimensions of the data ID. Several rows may name one file.
    common : mapping, optional
        Dimensions that are the same for all; the instrument is DECam unless it or the table says otherwise.
    transfer : `str`, optional
        ``direct`` (files stay where they are and are referred to), ``symlink``, ``hardlink`` or ``copy``.
    formatter : `str`, optional
        Class that reads the files; that of the dataset type unless given.
    dry_run : `bool`, optional
        Check everything; ingest nothing.

    Returns
    -------
    report : `IngestFilesReport`

    Raises
    ------
    BadInputError
        If a name, the table or one of its rows is wrong: the row is named. Nothing is ingested then.
    """
    from lsst.daf.butler import CollectionType, DatasetRef, FileDataset  # type: ignore[attr-defined]

    if transfer not in TRANSFERS:
        raise BadInputError(f"{transfer!r} is not a way to ingest", "transfer", f"use {', '.join(TRANSFERS)}")
    new_collection(butler, run, CollectionType.RUN)
    (kind,) = known_types(butler, [dataset_type])
    if formatter:
        _check_formatter(formatter)
    listed = _read(butler, kind, Path(table), dict(common or {}))
    known = (
        {ref.dataId: ref for ref in query(butler, dataset_type, [run])}
        if find_collection(butler, run)
        else {}
    )
    groups: dict[Path, list[DatasetRef]] = {}
    for key, path in listed.items():
        if (ref := known.get(key)) is not None:
            _refuse_other_file(butler, ref, path, transfer)
        else:
            groups.setdefault(path, []).append(DatasetRef(kind, key, run=run))
    count = sum(map(len, groups.values()))
    if groups and not dry_run:
        butler.collections.register(run)
        butler.ingest(
            *(FileDataset(str(path), refs, formatter=formatter) for path, refs in groups.items()),
            transfer=transfer,
        )
    return IngestFilesReport(run, dataset_type, count, len(listed) - count, len(groups))


def _read(
    butler: Butler, kind: DatasetType, path: Path, common: dict[str, Any]
) -> dict[DataCoordinate, Path]:
    """Read the table: the file of each data ID."""
    table = _table(path)
    file_column, *dimensions = table.colnames
    needed = kind.dimensions.required
    if "instrument" in needed and "instrument" not in dimensions:
        common.setdefault("instrument", INSTRUMENT)
    if unknown := [name for name in [*dimensions, *common] if name not in kind.dimensions.names]:
        raise BadInputError(
            f"{unknown[0]!r} is no dimension of {kind.name}",
            f"{path}, column {unknown[0]}",
            f"the first column is the file, the others are of {', '.join(kind.dimensions.names)}",
        )
    if missing := [name for name in needed if name not in dimensions and name not in common]:
        raise BadInputError(
            f"The dimension {missing[0]!r} of {kind.name} is missing",
            str(path),
            "add a column, or give it for all",
        )
    files: dict[DataCoordinate, Path] = {}
    rows: dict[DataCoordinate, int] = {}
    for number, row in enumerate(table, 1):
        where = f"{path}, row {number}"
        file = path.parent / str(row[file_column]).strip()
        if not file.is_file():
            raise BadInputError(f"The file {row[file_column]} does not exist", where, "correct the row")
        key = _data_id(butler, kind, {name: _plain(row, name) for name in dimensions} | common, where)
        if key in files:
            raise BadInputError(
                f"Rows {rows[key]} and {number} are the same dataset ({dict(key.required)})",
                str(path),
                "leave one out",
            )
        files[key], rows[key] = file.resolve(), number
    return files


def _table(path: Path) -> Table:
    from astropy.io.registry import IORegistryError
    from astropy.table import Table

    if not path.is_file():
        raise BadInputError("There is no such table", str(path), "name a file that astropy can read")
    try:
        table = Table.read(path)
    except (OSError, ValueError, TypeError, IORegistryError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInputError(
            f"The table cannot be read: {reason}", str(path), "write it as ECSV or CSV"
        ) from error
    if not len(table) or not table.colnames:
        raise BadInputError("The table is empty", str(path), "list a file in each row")
    return table


def _plain(row: Row, name: str) -> Any:
    value = row[name]
    return value.item() if hasattr(value, "item") else value


def _data_id(butler: Butler, kind: DatasetType, values: dict[str, Any], where: str) -> DataCoordinate:
    """Return the data ID of one row, whose records the registry has."""
    from lsst.daf.butler.registry import DataIdError  # type: ignore[attr-defined]

    try:
        types = {name: butler.dimensions.dimensions[name].primaryKey.getPythonType() for name in values}
        typed = {name: types[name](value) for name, value in values.items()}
        return butler.registry.expandDataId(typed, dimensions=kind.dimensions)
    except (DataIdError, LookupError, TypeError, ValueError) as error:
        raise BadInputError(
            f"The data ID {values} is not known to the repository ({type(error).__name__})",
            where,
            "correct the row, or register the exposure or detector first",
        ) from error


def _refuse_other_file(butler: Butler, ref: DatasetRef, path: Path, transfer: str) -> None:
    """Accept a dataset that is there if it is from the same file, or one with the same content."""
    from lsst.resources import ResourcePath

    there = butler.getURI(ref)
    if there.isLocal and there.exists() and os.path.samefile(there.ospath, path):
        return
    if transfer == "copy" and not difference(ResourcePath(str(path)), there):
        return
    raise BadInputError(
        f"{ref.datasetType.name} of {data_id(ref)} is there from another file",
        f"RUN {ref.run}: {there.ospath if there.isLocal else there}, not {path}",
        "ingest it into another RUN, or prune that one first",
    )


def _check_formatter(name: str) -> None:
    from lsst.utils import doImport

    try:
        doImport(name)
    except (ImportError, TypeError, ValueError) as error:
        raise BadInputError(
            f"There is no formatter {name!r}: {error}", "formatter", "name a Python class"
        ) from error
