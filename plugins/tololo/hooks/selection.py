"""Datasets and collections by name and data query, with a clear word where there is no such."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import existing, find_collection
from tololo.engine.repositories import known_types as registered
from tololo.facility import collections
from tololo.facility.errors import BadInputError, NothingToDoError

if TYPE_CHECKING:
    from lsst.daf.butler import (  # type: ignore[attr-defined]
        Butler,
        CollectionInfo,
        CollectionType,
        DatasetRef,
        DatasetType,
    )

INSTRUMENT = "DECam"


def select(
    butler: Butler,
    dataset_types: Sequence[str],
    names: Sequence[str],
    where: str = "",
    *,
    find_first: bool = True,
) -> list[DatasetRef]:
    """Find datasets.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    dataset_types : sequence of `str`
        Names of dataset types.
    names : sequence of `str`
        Collections, in search order.
    where : `str`, optional
        Condition in the Butler's query language; where it does not name the instrument, DECam is meant.
    find_first : `bool`, optional
        Of several datasets with the same data ID take that of the first collection.

    Returns
    -------
    refs : `list` [`lsst.daf.butler.DatasetRef`]
        Sorted, so that two processes that write them lock rows in the same order.

    Raises
    ------
    BadInputError
        If a name does not exist, the condition cannot be understood, or one CALIBRATION collection holds
        several datasets with the same data ID.
    NothingToDoError
        If nothing is found.
    """
    if not names:
        raise BadInputError("No collection is named", "collections", "name where to search")
    known_types(butler, dataset_types)
    known_collections(butler, names)
    refs = {ref for kind in dataset_types for ref in query(butler, kind, names, where, find_first=find_first)}
    if not refs:
        raise NothingToDoError(
            f"There are no datasets {', '.join(dataset_types)}" + (f" where {where}" if where else ""),
            ", ".join(names),
            "look at the data query, or run the step that makes them",
        )
    if find_first:
        _refuse_twins(refs)
    return sorted(refs)


def query(
    butler: Butler, dataset_type: str, names: Sequence[str], where: str = "", *, find_first: bool = True
) -> list[DatasetRef]:
    """Query for datasets of one known type; where there are none, the list is empty.

    Raises
    ------
    BadInputError
        If the condition cannot be understood, or a CALIBRATION collection holds several for one data ID.
    """
    from lsst.daf.butler import CalibrationLookupError, InvalidQueryError
    from lsst.daf.butler.registry import UserExpressionError

    try:
        return butler.query_datasets(
            dataset_type,
            names,
            where=qualified(where),
            find_first=find_first,
            with_dimension_records=True,
            limit=None,
            explain=False,
        )
    except (InvalidQueryError, UserExpressionError) as error:
        raise _unreadable(error, where, dataset_type) from error
    except CalibrationLookupError as error:
        raise BadInputError(
            f"Several datasets {dataset_type} are valid, each at its own time",
            ", ".join(names),
            "name the RUN whose datasets are meant",
        ) from error


def data_ids(
    butler: Butler, dataset_type: str, names: Iterable[str], dimensions: Sequence[str], where: str = ""
) -> list[dict[str, Any]]:
    """Return the values of some dimensions for which there are datasets, in whichever of the collections.

    Empty where there is no such collection or dataset type yet.

    Raises
    ------
    BadInputError
        If the condition cannot be understood.
    """
    from lsst.daf.butler import InvalidQueryError

    there, _ = existing(butler, names)
    if not there or not registered(butler, [dataset_type]):
        return []
    try:
        with butler.query() as query:
            rows = query.join_dataset_search(dataset_type, there)
            if where.strip():
                rows = rows.where(qualified(where))
            return [dict(row) for row in rows.general(tuple(dimensions), find_first=False)]
    except InvalidQueryError as error:
        raise _unreadable(error, where, dataset_type) from error


def qualified(where: str) -> str:
    """Return a condition that names its instrument, as the Butler demands."""
    if not where.strip() or "instrument" in where:
        return where
    return f"instrument = '{INSTRUMENT}' AND ({where})"


def known_types(butler: Butler, names: Sequence[str]) -> list[DatasetType]:
    """Return dataset types by name.

    Raises
    ------
    BadInputError
        If none is named, or one does not exist; those with a similar name are told.
    """
    if not names:
        raise BadInputError("No dataset type is named", "dataset types", "name one")
    there = {kind.name: kind for kind in butler.registry.queryDatasetTypes()}
    if missing := [name for name in names if name not in there]:
        raise BadInputError(
            f"There is no dataset type {missing[0]!r}", "repository", _instead(missing[0], there)
        )
    return [there[name] for name in names]


def known_collections(butler: Butler, names: Sequence[str], *kinds: CollectionType) -> list[CollectionInfo]:
    """Return collections by name.

    Raises
    ------
    BadInputError
        If one does not exist (those with a similar name are told), or is of another kind than was asked for.
    """
    found = []
    for name in names:
        info = find_collection(butler, name)
        if info is None:
            collections.check_name(name, "collection")
            raise BadInputError(
                f"There is no collection {name!r}",
                "repository",
                _instead(name, butler.collections.query("*")),
            )
        if kinds and info.type not in kinds:
            wanted = " or ".join(kind.name for kind in kinds)
            raise BadInputError(
                f"The collection {name!r} is a {info.type.name}, not a {wanted}",
                "repository",
                f"name a {wanted} collection",
            )
        found.append(info)
    return found


def new_collection(butler: Butler, name: str, kind: CollectionType) -> bool:
    """Check that a collection exists with this kind or may be made; tell whether it exists.

    Raises
    ------
    BadInputError
        If the name is bad or belongs to a collection of another kind.
    """
    collections.check_name(name, f"{kind.name} collection")
    info = find_collection(butler, name)
    if info is not None:
        known_collections(butler, [name], kind)
    return info is not None


def data_id(ref: DatasetRef) -> str:
    """Write a data ID for people: ``detector 3, band r``, without the instrument."""
    values = {key: value for key, value in _values(ref).items() if key != "instrument"} or _values(ref)
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _unreadable(error: Exception, where: str, dataset_type: str) -> BadInputError:
    return BadInputError(
        f"The data query cannot be understood: {error}",
        f"where {where!r} on {dataset_type}",
        "write it as the Butler does: detector IN (25, 34) AND band = 'r'",
    )


def _refuse_twins(refs: Iterable[DatasetRef]) -> None:
    seen: dict[Any, DatasetRef] = {}
    for ref in refs:
        twin = seen.setdefault((ref.datasetType.name, ref.dataId), ref)
        if twin is not ref:
            raise BadInputError(
                f"There are several datasets {ref.datasetType.name} of {data_id(ref)}",
                f"{twin.run} and {ref.run}",
                "name the RUN whose datasets are meant",
            )


def _values(ref: DatasetRef) -> dict[str, Any]:
    return dict(ref.dataId.required)


def _instead(name: str, there: Iterable[str]) -> str:
    names = sorted(there)
    near = get_close_matches(name, names, n=5, cutoff=0.5) or names[:10]
    return f"did you mean {', '.join(near)}" if near else "make it first"
