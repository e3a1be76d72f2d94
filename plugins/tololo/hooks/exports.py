"""Calibrations in a folder, to carry from one facility to another: an index, the files, their checksums.

The folder is what ``butler export-calibs`` writes and ``butler import`` reads; ``sha256sum -c SHA256SUMS``
verifies it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.hooks.artifacts import (
    artifacts,
    checksum,
    differences,
    refuse_missing,
)
from tololo.hooks.calibration_transfer import CalibrationSet, find_calibrations
from tololo.hooks.transfer import check_transfer

if TYPE_CHECKING:
    from lsst.daf.butler import Butler
    from lsst.daf.butler.transfers import YamlRepoImportBackend

    from tololo.hooks.artifacts import Artifacts

INDEX = "export.yaml"
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class ExportReport:
    """What an export is.

    Attributes
    ----------
    folder : `str`
    datasets, files : `int`
        How many it holds.
    certifications : `dict` [`str`, `int`]
        Validity ranges by CALIBRATION collection.
    new : `bool`
        Whether it was written now; otherwise it was there.
    """

    folder: str
    datasets: int
    files: int
    certifications: dict[str, int]
    new: bool

    def __str__(self) -> str:
        held = ", ".join(f"{count} in {name}" for name, count in self.certifications.items())
        return f"{self.folder}: datasets {self.datasets}, files {self.files}, certifications: {held}" + (
            "" if self.new else "; it was there"
        )


def export_calibrations(
    butler: Butler,
    folder: str | Path,
    names: Sequence[str],
    dataset_types: Sequence[str] = (),
    *,
    transfer: str = "copy",
    dry_run: bool = False,
) -> ExportReport:
    """Write calibrations with their validity ranges into a folder, as ``butler export-calibs`` does.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    folder : `str` or `pathlib.Path`
        New folder; one that holds this export already is verified and left alone.
    names : sequence of `str`
        CALIBRATION collections, or chains of them.
    dataset_types : sequence of `str`, optional
        Which calibrations; all unless given.
    transfer : `str`, optional
        ``copy``, ``hardlink`` or ``symlink``.
    dry_run : `bool`, optional
        Say what would be exported; write nothing.

    Returns
    -------
    report : `ExportReport`

    Raises
    ------
    BadInputError
        If a name is wrong, a file is missing, or the folder holds something else.
    NothingToDoError
        If the collections hold no such calibration.

    Notes
    -----
    It is written beside and renamed.
    """
    from lsst.resources import ResourcePath

    check_transfer(transfer)
    found = find_calibrations(butler, names, dataset_types)
    target = Path(folder).absolute()
    originals = artifacts(butler, found.refs)
    refuse_missing(found.refs, originals)
    files = len({file for group in originals.values() for file in group})
    counts = {name: len(pairs) for name, pairs in found.pairs.items()}
    if target.exists():
        _refuse_other_export(butler, target, found)
        return ExportReport(str(target), len(found.refs), files, counts, new=False)
    if not dry_run:
        new = target.with_name(f"{target.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        with butler.export(directory=str(new), format="yaml", transfer=transfer) as export:
            for name in [*found.pairs, *found.chains]:
                export.saveCollection(name)
            export.saveDatasets(ref.expanded(butler.registry.expandDataId(ref.dataId)) for ref in found.refs)
        copies = files_of(new, read_export(butler, new))
        if wrong := differences(copies, originals, content=True):
            raise UnavailableError(f"A copy is not as its original: {wrong}", str(new), "look at the disk")
        names_in = sorted({Path(file.ospath) for group in copies.values() for file in group})
        lines = [f"{checksum(ResourcePath(str(path)))}  {path.relative_to(new)}\n" for path in names_in]
        (new / SUMS).write_text("".join(lines))
        os.replace(new, target)
    return ExportReport(str(target), len(found.refs), files, counts, new=True)


def read_export(butler: Butler, folder: Path) -> YamlRepoImportBackend:
    """Read the index of an export.

    Raises
    ------
    BadInputError
        If there is none, or it cannot be read.
    """
    from lsst.daf.butler.transfers import YamlRepoImportBackend

    path = folder / INDEX
    if not path.is_file():
        raise BadInputError("The folder holds no export", str(path), "name what `butler export-calibs` wrote")
    try:
        with path.open() as stream:
            return YamlRepoImportBackend(stream, butler)
    except Exception as error:  # whatever a foreign file makes the middleware's reader raise
        reason = str(error).strip().splitlines()
        raise BadInputError(
            f"The export cannot be read: {reason[0] if reason else type(error).__name__}",
            str(path),
            "export it again",
        ) from error


def files_of(folder: Path, index: YamlRepoImportBackend) -> Artifacts:
    """Return the file of each dataset of an export."""
    from lsst.resources import ResourcePath

    root = ResourcePath(str(folder), forceDirectory=True)
    listed = [file for group in index.datasets.values() for file in group]
    return {ref: [root.join(str(file.path))] for file in listed for ref in file.refs}


def check_sums(folder: Path) -> None:
    """Compare the files of an export with its checksums, where it has them.

    Raises
    ------
    BadInputError
        If one is missing or spoilt.
    """
    from lsst.resources import ResourcePath

    path = folder / SUMS
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else (), 1):
        digest, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file() or checksum(ResourcePath(str(file))) != digest:
            raise BadInputError(
                f"The file {name} of the export is " + ("spoilt" if file.is_file() else "missing"),
                f"{path}, line {number}",
                "copy the export again",
            )


def _refuse_other_export(butler: Butler, folder: Path, found: CalibrationSet) -> None:
    """Accept a folder that holds just this export, whole."""
    index = read_export(butler, folder)
    there = {
        (name, span.nsec, key)
        for name, ranges in index.calibAssociations.items()
        for span, ids in ranges.items()
        for key in ids
    }
    wanted = {(name, span.nsec, ref.id) for name, pairs in found.pairs.items() for ref, span in pairs}
    if there != wanted:
        raise BadInputError(
            f"The folder holds another export: {len(wanted - there)} certifications are not in it, "
            f"{len(there - wanted)} are no longer certified",
            str(folder),
            "name a new folder",
        )
    refuse_missing(found.refs, files_of(folder, index))
    check_sums(folder)
