"""Calibrations from one repository to another: the datasets, when they are valid, the chains to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.hooks.calibrations import certifications, certify_pairs
from tololo.hooks.chains import write_chain
from tololo.hooks.selection import known_collections, known_types, new_collection
from tololo.hooks.transfer import TransferReport, check_transfer, copy_datasets

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, CollectionInfo, DatasetRef, Timespan


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
        As in `~tololo.hooks.transfer.transfer_datasets`.

    Returns
    -------
    report : `TransferReport`

    Raises
    ------
    BadInputError
        As there, or if a range overlaps what the target has certified: nothing is copied then.
    NothingToDoError
        If the collections hold no such calibration.
    UnavailableError
        If a copy differs from its original; it is not kept, and nothing is certified then.
    """
    check_transfer(transfer)
    found = find_calibrations(source, names, dataset_types)
    planned = plan_certifications(target, found.pairs, found.chains)
    report = copy_datasets(source, target, found.refs, transfer=transfer, dry_run=dry_run)
    if not dry_run:
        for name, pairs in found.pairs.items():
            planned[name] = len(pairs) - certify_pairs(target, name, pairs)
    return replace(report, certified=planned, chains=write_chains(target, found.chains, dry_run=dry_run))


def plan_certifications(
    butler: Butler, wanted: Mapping[str, Sequence[tuple[DatasetRef, Timespan]]], chains: Iterable[str]
) -> dict[str, int]:
    """Count the certifications that are new, by collection, before anything is written.

    Raises
    ------
    BadInputError
        If a collection has a bad name or is here of another kind, or a range overlaps what is certified.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    types_here = {kind.name for kind in butler.registry.queryDatasetTypes()}
    planned = {}
    for name, pairs in wanted.items():
        new_collection(butler, name, CollectionType.CALIBRATION)
        here = [(ref, span) for ref, span in pairs if ref.datasetType.name in types_here]
        planned[name] = len(pairs) - certify_pairs(butler, name, here, dry_run=True)
    for name in chains:
        new_collection(butler, name, CollectionType.CHAINED)
    return planned


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


def write_chains(butler: Butler, chains: Mapping[str, Sequence[str]], *, dry_run: bool) -> tuple[str, ...]:
    """Add the children of chains of another repository to those of the same names here; say what was done."""
    order: list[str] = []

    def visit(name: str) -> None:  # a chain that is in another one is written before that
        for child in chains[name]:
            if child in chains:
                visit(child)
        if name not in order:
            order.append(name)

    for name in chains:
        visit(name)
    if dry_run:
        return tuple(f"{name}: {', '.join(chains[name])}" for name in order)
    return tuple(str(write_chain(butler, name, (), chains[name])) for name in order)
