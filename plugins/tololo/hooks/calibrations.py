"""CALIBRATION collections: which dataset is valid when.

For one data ID the ranges of a collection never overlap: certifying over what is certified is refused, with
what is in the way. The database itself guards this too, when two processes certify at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tololo.facility.errors import BadInputError
from tololo.hooks.selection import (
    data_id,
    known_collections,
    known_types,
    new_collection,
    qualified,
    query,
    select,
)
from tololo.hooks.validity import describe_validity, parse_validity

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetAssociation, DatasetRef, Timespan

SHOWN = 5
"""How many conflicts a message names."""


@dataclass(frozen=True)
class CertifyReport:
    """What became of a CALIBRATION collection.

    Attributes
    ----------
    collection : `str`
    validity : `str`
        The range, as `~tololo.hooks.validity.parse_validity` reads it.
    certified, known : `int`
        Datasets that are new in it for this range, and that were certified for it before.
    """

    collection: str
    validity: str
    certified: int
    known: int

    def __str__(self) -> str:
        return (
            f"{self.collection}: datasets certified for {self.validity} {self.certified}, known {self.known}"
        )


@dataclass(frozen=True)
class DecertifyReport:
    """What was taken out of a CALIBRATION collection.

    Attributes
    ----------
    collection, dataset_type : `str`
    validity : `str`
        The range that holds no such dataset any more.
    touched : `int`
        Certifications that were shortened, split or removed.
    remaining : `dict` [`str`, `int`]
        What is certified now: datasets by validity range.
    """

    collection: str
    dataset_type: str
    validity: str
    touched: int
    remaining: dict[str, int]

    def __str__(self) -> str:
        left = ", ".join(f"{count} for {validity}" for validity, count in self.remaining.items())
        return (
            f"{self.collection}: certifications of {self.dataset_type} cut by {self.validity}: "
            f"{self.touched}; left: {left or 'none'}"
        )


def certify(
    butler: Butler,
    collection: str,
    dataset_types: Sequence[str],
    sources: Sequence[str],
    validity: str,
    where: str = "",
    *,
    dry_run: bool = False,
) -> CertifyReport:
    """Certify calibrations, as ``butler certify-calibrations`` does.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    collection : `str`
        The CALIBRATION collection; it is made if it does not exist.
    dataset_types, sources, where
        Which datasets, from which collections; see `tololo.hooks.selection.select`.
    validity : `str`
        As `~tololo.hooks.validity.parse_validity` reads it.
    dry_run : `bool`, optional
        Check everything; write nothing.

    Returns
    -------
    report : `CertifyReport`

    Raises
    ------
    BadInputError
        If a name, the condition or the range is wrong, a dataset type is no calibration, or a range overlaps
        what is certified already; nothing is written then.
    NothingToDoError
        If there is no such dataset.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    timespan = parse_validity(validity)
    _refuse_other_types(butler, dataset_types)
    new_collection(butler, collection, CollectionType.CALIBRATION)
    refs = select(butler, dataset_types, sources, where)
    pairs = [(ref, timespan) for ref in refs]
    known = certify_pairs(butler, collection, pairs, dry_run=dry_run)
    return CertifyReport(collection, describe_validity(timespan), len(refs) - known, known)


def certify_pairs(
    butler: Butler, collection: str, pairs: Sequence[tuple[DatasetRef, Timespan]], *, dry_run: bool = False
) -> int:
    """Certify datasets, each for its own range, all or none.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    collection : `str`
        The CALIBRATION collection; it is made if it does not exist.
    pairs : sequence of (`lsst.daf.butler.DatasetRef`, `lsst.daf.butler.Timespan`)
        What to certify.
    dry_run : `bool`, optional
        Check everything; write nothing.

    Returns
    -------
    known : `int`
        How many were certified for just this range before.

    Raises
    ------
    BadInputError
        If a range overlaps what is certified already; nothing is written then.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]
    from lsst.daf.butler.registry import ConflictingDefinitionError

    if dry_run:
        return len(pairs) - len(_missing(butler, collection, pairs))
    butler.collections.register(collection, CollectionType.CALIBRATION)
    while True:
        missing: list[tuple[DatasetRef, Timespan]] = []
        try:
            with butler.transaction():
                missing = _missing(butler, collection, pairs)
                for timespan in dict.fromkeys(span for _, span in missing):
                    refs = [ref for ref, span in missing if span == timespan]
                    butler.registry.certify(collection, refs, timespan)
            return len(pairs) - len(missing)
        except ConflictingDefinitionError:
            # Another process was quicker: now its ranges can be seen, and either they are ours or refused.
            if len(_missing(butler, collection, pairs)) == len(missing):
                raise


def decertify(
    butler: Butler,
    collection: str,
    dataset_type: str,
    validity: str,
    where: str = "",
    *,
    dry_run: bool = False,
) -> DecertifyReport:
    """Take a range out of a CALIBRATION collection; what lies before and after it stays certified.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    collection : `str`
        The CALIBRATION collection.
    dataset_type : `str`
        Which calibration.
    validity : `str`
        As `~tololo.hooks.validity.parse_validity` reads it.
    where : `str`, optional
        Which data IDs; all unless given.
    dry_run : `bool`, optional
        Say what would be cut; write nothing.

    Returns
    -------
    report : `DecertifyReport`
        ``touched`` is zero where nothing is certified for that range (any more).

    Raises
    ------
    BadInputError
        If a name, the condition or the range is wrong.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    timespan = parse_validity(validity)
    _refuse_other_types(butler, [dataset_type])
    known_collections(butler, [collection], CollectionType.CALIBRATION)
    chosen: set[Any] | None = None
    if qualified(where):
        chosen = {ref.dataId for ref in query(butler, dataset_type, [collection], where, find_first=False)}
    there = certifications(butler, collection, dataset_type)
    cut = [
        item
        for item in there
        if _span(item).overlaps(timespan) and (chosen is None or item.ref.dataId in chosen)
    ]
    if cut and not dry_run:
        butler.registry.decertify(
            collection, dataset_type, timespan, dataIds=None if chosen is None else list(chosen)
        )
    left = [_span(item) for item in there if item not in cut]
    left += [rest for item in cut for rest in _span(item).difference(timespan)]
    counts = Counter(describe_validity(span) for span in sorted(left))
    return DecertifyReport(collection, dataset_type, describe_validity(timespan), len(cut), dict(counts))


def certifications(butler: Butler, collection: str, dataset_type: str) -> list[DatasetAssociation]:
    """List what is certified in a collection: datasets, each with its validity range (``timespan``).

    A collection that does not exist holds nothing.
    """
    from lsst.daf.butler import CollectionType, MissingCollectionError  # type: ignore[attr-defined]

    try:
        return list(
            butler.registry.queryDatasetAssociations(
                dataset_type, [collection], collectionTypes={CollectionType.CALIBRATION}, flattenChains=False
            )
        )
    except MissingCollectionError:
        return []


def _missing(
    butler: Butler, collection: str, pairs: Iterable[tuple[DatasetRef, Timespan]]
) -> list[tuple[DatasetRef, Timespan]]:
    """Return the pairs that are not certified yet; refuse those that overlap something else."""
    wanted = list(pairs)
    present: dict[Any, list[DatasetAssociation]] = {}
    for kind in sorted({ref.datasetType.name for ref, _ in wanted}):
        for item in certifications(butler, collection, kind):
            present.setdefault((kind, item.ref.dataId), []).append(item)
    missing, conflicts = [], []
    for ref, timespan in wanted:
        over = [
            item
            for item in present.get((ref.datasetType.name, ref.dataId), ())
            if _span(item).overlaps(timespan)
        ]
        if [(item.ref.id, item.timespan) for item in over] == [(ref.id, timespan)]:
            continue
        missing.append((ref, timespan))
        conflicts += [(ref, timespan, item) for item in over]
    if conflicts:
        ranges = ", ".join(dict.fromkeys(describe_validity(span) for _, span, _ in conflicts))
        raise BadInputError(
            f"{len(conflicts)} of {len(wanted)} datasets overlap what is certified already: "
            + "; ".join(_conflict(ref, item) for ref, _, item in conflicts[:SHOWN])
            + (f"; and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""),
            f"{collection}, validity {ranges}",
            "decertify the existing range first, or give a range that does not overlap it",
        )
    return missing


def _conflict(ref: DatasetRef, item: DatasetAssociation) -> str:
    which = "the same dataset" if item.ref.id == ref.id else f"{item.ref.datasetType.name} {item.ref.id}"
    return (
        f"for {data_id(ref)} {which} from {item.ref.run} is valid for {describe_validity(_span(item))} "
        f"({_span(item)} TAI)"
    )


def _span(item: DatasetAssociation) -> Timespan:
    assert item.timespan is not None, "a CALIBRATION collection keeps a range for each dataset"
    return item.timespan


def _refuse_other_types(butler: Butler, names: Sequence[str]) -> None:
    for kind in known_types(butler, names):
        if not kind.isCalibration():
            raise BadInputError(
                f"The dataset type {kind.name!r} is no calibration",
                "dataset type",
                "only these have a validity",
            )
