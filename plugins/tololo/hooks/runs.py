"""RUNs that are no longer wanted: what still needs them, and their removal."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tololo.engine.repositories import find_collection
from tololo.facility.errors import BadInputError

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef
    from lsst.resources import ResourcePath


@dataclass(frozen=True)
class PruneReport:
    """What a removal of RUNs did, or would do.

    Attributes
    ----------
    runs : `tuple` [`str`, ...]
        RUNs that were there.
    absent : `tuple` [`str`, ...]
        Names that belong to nothing: removed before, or misspelt.
    datasets : `int`
        How many were in them.
    files, in_place : `int`
        Files below the repository, which go; and files that were ingested in place, which stay.
    unlinked : `dict` [`str`, `list` [`str`]]
        Collections that lose something: what, by collection.
    """

    runs: tuple[str, ...]
    absent: tuple[str, ...]
    datasets: int = 0
    files: int = 0
    in_place: int = 0
    unlinked: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [
            f"RUNs: {', '.join(self.runs) or 'none'}; their datasets {self.datasets}",
            f"files that go {self.files}, that were ingested in place and stay {self.in_place}",
        ]
        if self.unlinked:
            parts.append(f"taken out of {', '.join(self.unlinked)}")
        if self.absent:
            parts.append(f"not there: {', '.join(self.absent)}")
        return "; ".join(parts)


def prune(
    butler: Butler,
    runs: Iterable[str],
    *,
    chains: Iterable[str] = (),
    unlink: bool = False,
    dry_run: bool = False,
) -> PruneReport:
    """Remove RUNs with all their datasets, as ``butler remove-runs`` does.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    runs : iterable of `str`
        Their names.
    chains : iterable of `str`, optional
        Collections (mostly chains) that may lose them.
    unlink : `bool`, optional
        Let every collection lose them.
    dry_run : `bool`, optional
        Check everything and say what would go; remove nothing.

    Returns
    -------
    report : `PruneReport`

    Raises
    ------
    BadInputError
        If one is no RUN, or a collection that is not named needs one: a chain that it is in, a TAGGED or
        CALIBRATION collection that holds its datasets. Nothing is removed then.

    Notes
    -----
    Files that were ingested in place (``direct``) are never deleted. A removal that was killed is completed
    by the next.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    names = list(dict.fromkeys(runs))
    infos = {name: find_collection(butler, name) for name in names}
    for name, info in infos.items():
        if info is not None and info.type is not CollectionType.RUN:
            raise BadInputError(
                f"{name!r} is a {info.type.name}; only RUNs are pruned", "collections", "name RUNs"
            )
    there = [name for name, info in infos.items() if info is not None]
    refs = butler.query_all_datasets(there, find_first=False, limit=None) if there else []
    needed = _needed(butler, there, refs)
    kept = {name: why for name, why in needed.items() if name not in set(chains)}
    if kept and not unlink:
        shown = "; ".join(f"{name} needs {', '.join(why)}" for name, why in sorted(kept.items()))
        raise BadInputError(
            f"RUNs are still needed: {shown}",
            f"RUNs {', '.join(there)}",
            "keep them, or name these collections too, or ask to unlink them everywhere",
        )
    own, in_place = _files(butler, refs)
    _refuse_locked(own)
    if not dry_run:
        butler.removeRuns(there, unlink_from_chains=True)
        # A removal that was killed may have left files that the registry knows as trash, and no other way.
        butler._datastore.emptyTrash()
    return PruneReport(
        tuple(there),
        tuple(name for name in names if name not in there),
        len(refs),
        len(own),
        len(in_place),
        needed,
    )


def _needed(butler: Butler, runs: list[str], refs: list[DatasetRef]) -> dict[str, list[str]]:
    """Say which collections need the RUNs: what they need, by collection."""
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    needed: dict[str, list[str]] = {}
    for run in runs:
        for chain in butler.collections.get_info(run, include_parents=True).parents or ():
            needed.setdefault(chain, []).append(run)
    kinds = {CollectionType.TAGGED, CollectionType.CALIBRATION}
    ids = {ref.id for ref in refs}
    for kind in {ref.datasetType for ref in refs}:
        counts: dict[str, int] = {}
        for item in butler.registry.queryDatasetAssociations(kind, ..., collectionTypes=kinds):
            if item.ref.id in ids:
                counts[item.collection] = counts.get(item.collection, 0) + 1
        for collection, count in counts.items():
            needed.setdefault(collection, []).append(f"{count} datasets {kind.name}")
    return needed


def _files(butler: Butler, refs: list[DatasetRef]) -> tuple[set[ResourcePath], set[ResourcePath]]:
    """Return the files that go with datasets, and those that were ingested in place."""
    roots = [root for root in butler.get_datastore_roots().values() if root is not None]
    uris = {
        uri.replace(fragment="")
        for found in butler.get_many_uris(refs, allow_missing=True).values()
        for uri in found.iter_all()
    }
    own = {uri for uri in uris if any(uri.relative_to(root) is not None for root in roots)}
    return own, uris - own


def _refuse_locked(files: set[ResourcePath]) -> None:
    """Refuse to remove what cannot be deleted: the registry would forget files that stay on the disk."""
    for folder in sorted({os.path.dirname(file.ospath) for file in files if file.isLocal}):
        if os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK):
            raise BadInputError(
                "Files of the RUNs cannot be deleted: their folder cannot be written to",
                folder,
                "give the user that runs Airflow the right to write there",
            )
