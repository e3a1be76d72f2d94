"""Datasets from one repository to another: copied, and every copy compared with its original."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import batched
from typing import TYPE_CHECKING

from tololo.engine.repositories import find_collection
from tololo.facility.errors import BadInputError
from tololo.hooks.artifacts import artifacts, check_copies, known_copies, refuse_missing
from tololo.hooks.selection import (
    data_id,
    query,
    select,
)

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

TRANSFERS = ("copy", "hardlink", "symlink")
BATCH = 100
"""Datasets that are copied and verified in one transaction."""


@dataclass(frozen=True)
class TransferReport:
    """What a transfer did.

    Attributes
    ----------
    copied, known : `int`
        Datasets that are new in the repository, and that were there before.
    files, bytes : `int`
        Files of the new ones, and their size; each was compared with its original.
    certified : `dict` [`str`, `int`]
        New certifications by CALIBRATION collection.
    chains : `tuple` [`str`, ...]
        What became of the chains that lead to them.
    """

    copied: int
    known: int
    files: int = 0
    bytes: int = 0
    certified: dict[str, int] | None = None
    chains: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"Datasets copied and verified {self.copied} (files {self.files}, bytes {self.bytes}), "
            f"known {self.known}"
        ]
        parts += [f"certified in {name} {count}" for name, count in (self.certified or {}).items()]
        return "; ".join([*parts, *self.chains])


def transfer_datasets(
    source: Butler,
    target: Butler,
    dataset_types: Sequence[str],
    names: Sequence[str],
    where: str = "",
    *,
    transfer: str = "copy",
    dry_run: bool = False,
) -> TransferReport:
    """Copy datasets, as ``butler transfer-datasets`` does, and verify them.

    Parameters
    ----------
    source, target : `lsst.daf.butler.Butler`
        From where to where; the target is writeable, unless it is a dry run.
    dataset_types, names, where
        Which datasets, from which collections; see `tololo.hooks.selection.select`. They go into RUNs of the
        same names.
    transfer : `str`, optional
        ``copy``, ``hardlink`` or ``symlink``.
    dry_run : `bool`, optional
        Say what would be copied; write nothing.

    Returns
    -------
    report : `TransferReport`

    Raises
    ------
    BadInputError
        If a name or the condition is wrong, a file is missing, or the repositories do not fit together.
    NothingToDoError
        If there is no such dataset.
    UnavailableError
        If a copy differs from its original; it is not kept.
    """
    check_transfer(transfer)
    refs = select(source, dataset_types, names, where)
    return copy_datasets(source, target, refs, transfer=transfer, dry_run=dry_run)


def copy_datasets(
    source: Butler,
    target: Butler,
    refs: Sequence[DatasetRef],
    *,
    transfer: str = "copy",
    dry_run: bool = False,
) -> TransferReport:
    """Copy datasets and verify them, some at a time; those that a killed run copied are not copied again.

    Raises
    ------
    BadInputError
        If a file is missing at the source, one that was copied before is spoilt, or the target lacks the
        instrument.
    UnavailableError
        If a copy differs from its original; it is not kept.
    """
    originals = artifacts(source, refs)
    refuse_missing(refs, originals)
    refuse_strangers(target, refs)
    known = known_copies(target, originals)
    new = [ref for ref in refs if ref not in known]
    if not dry_run:
        for kind in sorted({ref.datasetType for ref in new}):
            target.registry.registerDatasetType(kind)
        for batch in batched(new, BATCH):
            with target.transaction():
                target.transfer_from(
                    source, batch, transfer=transfer, skip_missing=False, transfer_dimensions=True
                )
                check_copies(target, {ref: originals[ref] for ref in batch})
    files = {file for ref in new for file in originals[ref]}
    return TransferReport(len(new), len(known), len(files), sum(file.size() for file in files))


def refuse_strangers(butler: Butler, refs: Collection[DatasetRef]) -> None:
    """Refuse datasets of an instrument that the repository does not have, or whose place is taken.

    Raises
    ------
    BadInputError
        If there are such; they are named.
    """
    here = {record.name for record in butler.query_dimension_records("instrument", explain=False)}
    named = {str(ref.dataId["instrument"]) for ref in refs if "instrument" in ref.dataId.dimensions}
    if unknown := sorted(named - here):
        raise BadInputError(
            f"The repository has no instrument {', '.join(unknown)}, which the datasets are of",
            f"instruments {', '.join(sorted(here)) or 'none'}",
            "name another repository, or run repo_bootstrap there",
        )
    types_here = {kind.name for kind in butler.registry.queryDatasetTypes()}
    for kind, run in sorted({(ref.datasetType.name, ref.run) for ref in refs}):
        if kind not in types_here or find_collection(butler, run) is None:
            continue
        there = {ref.dataId: ref.id for ref in query(butler, kind, [run])}
        for ref in refs:
            if (ref.datasetType.name, ref.run) == (kind, run) and there.get(ref.dataId, ref.id) != ref.id:
                raise BadInputError(
                    f"The repository has another dataset {kind} of {data_id(ref)} in that RUN",
                    f"RUN {run}: {there[ref.dataId]}, not {ref.id}",
                    "prune that RUN, or leave these datasets out",
                )


def check_transfer(transfer: str, *more: str) -> None:
    """Refuse an unknown way to copy.

    Raises
    ------
    BadInputError
        If it is none.
    """
    allowed = (*TRANSFERS, *more)
    if transfer not in allowed:
        raise BadInputError(f"{transfer!r} is not a way to copy", "transfer", f"use {', '.join(allowed)}")
