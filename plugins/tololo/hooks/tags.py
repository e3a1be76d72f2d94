"""TAGGED collections: datasets put together by hand or by query, at most one for each type and data ID."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tololo.facility.errors import BadInputError
from tololo.hooks.selection import data_id, known_collections, known_types, new_collection, query, select

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

SHOWN = 5
"""How many datasets a message names."""


@dataclass(frozen=True)
class TagReport:
    """What became of a TAGGED collection.

    Attributes
    ----------
    collection : `str`
    added, known : `int`
        Datasets that are new in it, and that were in it before.
    replaced : `tuple` [`str`, ...]
        Those of ``added`` that took the place of another dataset with the same data ID.
    removed : `int` or `None`
        Datasets that were taken out of it, if that was asked for; they stay in their RUNs.
    """

    collection: str
    added: int = 0
    known: int = 0
    replaced: tuple[str, ...] = ()
    removed: int | None = None

    def __str__(self) -> str:
        if self.removed is not None:
            return f"{self.collection}: datasets taken out {self.removed}"
        return f"{self.collection}: datasets added {self.added}, known {self.known}" + (
            f"; replaced: {', '.join(self.replaced)}" if self.replaced else ""
        )


def associate(
    butler: Butler,
    tag: str,
    dataset_types: Sequence[str],
    sources: Sequence[str],
    where: str = "",
    *,
    replace: bool = False,
    dry_run: bool = False,
) -> TagReport:
    """Put datasets into a TAGGED collection, as ``butler associate`` does.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    tag : `str`
        The collection; it is made if it does not exist.
    dataset_types, sources, where
        Which datasets, from which collections; see `tololo.hooks.selection.select`.
    replace : `bool`, optional
        Let a dataset take the place of another one with the same data ID; otherwise that is refused.
    dry_run : `bool`, optional
        Write nothing.

    Returns
    -------
    report : `TagReport`

    Raises
    ------
    BadInputError
        If a name or the condition is wrong, or another dataset with the same data ID is in the way.
    NothingToDoError
        If there is no such dataset; the collection is not made then.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    is_there = new_collection(butler, tag, CollectionType.TAGGED)
    refs = select(butler, dataset_types, sources, where)
    present = {
        (kind, ref.dataId): ref
        for kind in dataset_types
        for ref in (query(butler, kind, [tag]) if is_there else ())
    }
    pairs = [(ref, present.get((ref.datasetType.name, ref.dataId))) for ref in refs]
    new = [ref for ref, old in pairs if old is None or old.id != ref.id]
    old_ones = [old for ref, old in pairs if old is not None and old.id != ref.id]
    replaced = tuple(f"{old.datasetType.name} of {data_id(old)} from {old.run}" for old in old_ones)
    if replaced and not replace:
        raise BadInputError(
            f"The place of {len(replaced)} datasets is taken: {'; '.join(replaced[:SHOWN])}",
            tag,
            "take those out first, or say that they shall be replaced",
        )
    if not dry_run:
        butler.collections.register(tag, CollectionType.TAGGED)
        with butler.transaction():
            butler.registry.disassociate(tag, old_ones)
            butler.registry.associate(tag, new)
    return TagReport(tag, added=len(new), known=len(pairs) - len(new), replaced=replaced)


def disassociate(
    butler: Butler, tag: str, dataset_types: Sequence[str], where: str = "", *, dry_run: bool = False
) -> TagReport:
    """Take datasets out of a TAGGED collection; they stay in their RUNs.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    tag : `str`
        The collection.
    dataset_types, where
        Which of its datasets; see `tololo.hooks.selection.select`.
    dry_run : `bool`, optional
        Write nothing.

    Returns
    -------
    report : `TagReport`
        ``removed`` is zero where nothing of this is in it (any more).

    Raises
    ------
    BadInputError
        If a name or the condition is wrong.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    known_types(butler, dataset_types)
    known_collections(butler, [tag], CollectionType.TAGGED)
    refs = [ref for kind in dataset_types for ref in query(butler, kind, [tag], where)]
    if refs and not dry_run:
        butler.registry.disassociate(tag, refs)
    return TagReport(tag, removed=len(refs))
