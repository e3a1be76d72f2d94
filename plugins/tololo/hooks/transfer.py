"""Datasets and calibrations from one repository to another: copied, verified, then certified."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import batched
from typing import TYPE_CHECKING

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.hooks.artifacts import artifacts, check_copies, known_copies, refuse_missing
from tololo.hooks.calibrations import certifications, certify_pairs
from tololo.hooks.chains import write_chain
from tololo.hooks.selection import (
    data_id,
    find_collection,
    known_collections,
    known_types,
    new_collection,
    query,
    select,
)

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, CollectionInfo, DatasetRef, Timespan

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


@dataclass(frozen=True)
class CalibrationSet:
    """What CALIBRATION collections hold.

    Attributes
    ----------
    pairs : `dict` [`str`, `list`]
        Datasets and their validity ranges, by collection.
    chains : `dict` [`str`, `tuple` [`str`, ...]]
        Children of the chains that lead to them.
    """

    pairs: dict[str, list[tuple[DatasetRef, Timespan]]]
    chains: dict[str, tuple[str, ...]]

    @property
    def refs(self) -> list[DatasetRef]:
        """The datasets, each once."""
        return sorted({ref for pairs in self.pairs.values() for ref, _ in pairs})


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


def transfer_calibrations(
    source: Butler,
    target: Butler,
    names: Sequence[str],
    dataset_types: Sequence[str] = (),
    *,
    transfer: str = "copy",
    dry_run: bool = False,
) -> TransferReport:
    """Copy calibrations with their validity ranges, and the chains that lead to them.

    Parameters
    ----------
    source, target : `lsst.daf.butler.Butler`
        From where to where; the target is writeable, unless it is a dry run.
    names : sequence of `str`
        CALIBRATION collections, or chains of them.
    dataset_types : sequence of `str`, optional
        Which calibrations; all unless given.
    transfer, dry_run
        As in `transfer_datasets`.

    Returns
    -------
    report : `TransferReport`

    Raises
    ------
    BadInputError
        As `transfer_datasets`, or if a range overlaps what the target has certified: nothing is copied then.
    NothingToDoError
        If the collections hold no such calibration.
    UnavailableError
        If a copy differs from its original; it is not kept, and nothing is certified then.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    check_transfer(transfer)
    found = find_calibrations(source, names, dataset_types)
    types_here = {kind.name for kind in target.registry.queryDatasetTypes()}
    planned = {}
    for name, pairs in found.pairs.items():
        new_collection(target, name, CollectionType.CALIBRATION)
        here = [(ref, span) for ref, span in pairs if ref.datasetType.name in types_here]
        planned[name] = len(pairs) - certify_pairs(target, name, here, dry_run=True)
    report = copy_datasets(source, target, found.refs, transfer=transfer, dry_run=dry_run)
    if not dry_run:
        for name, pairs in found.pairs.items():
            planned[name] = len(pairs) - certify_pairs(target, name, pairs)
    return replace(report, certified=planned, chains=write_chains(target, found.chains, dry_run=dry_run))


def find_calibrations(
    butler: Butler, names: Sequence[str], dataset_types: Sequence[str] = ()
) -> CalibrationSet:
    """List what CALIBRATION collections, or chains of them, hold.

    Raises
    ------
    BadInputError
        If a name is wrong, or a collection is neither.
    NothingToDoError
        If they hold no such calibration.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    if not names:
        raise BadInputError("No collection is named", "collections", "name CALIBRATION collections")
    kinds = known_types(butler, dataset_types) if dataset_types else butler.registry.queryDatasetTypes()
    wanted = [kind.name for kind in kinds if kind.isCalibration()]
    known_collections(butler, names, CollectionType.CALIBRATION, CollectionType.CHAINED)
    infos: dict[str, CollectionInfo] = {
        info.name: info
        for info in butler.collections.query_info(list(names), flatten_chains=True, include_chains=True)
    }
    pairs: dict[str, list[tuple[DatasetRef, Timespan]]] = {}
    for name, info in infos.items():
        if info.type is CollectionType.CALIBRATION:
            items = [item for kind in wanted for item in certifications(butler, name, kind)]
            pairs[name] = sorted((item.ref, item.timespan) for item in items if item.timespan is not None)
    found = CalibrationSet(
        pairs,
        {name: info.children for name, info in infos.items() if info.type is CollectionType.CHAINED},
    )
    if not found.refs:
        raise NothingToDoError(
            "Nothing is certified" + (f" of {', '.join(dataset_types)}" if dataset_types else ""),
            ", ".join(names),
            "certify calibrations there first",
        )
    return found


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


def write_chains(butler: Butler, chains: Mapping[str, Sequence[str]], *, dry_run: bool) -> tuple[str, ...]:
    """Add the children of chains of another repository to those of the same names here; say what was done."""
    if dry_run:
        return tuple(f"{name}: {', '.join(children)}" for name, children in chains.items())
    return tuple(str(write_chain(butler, name, (), children)) for name, children in chains.items())


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
