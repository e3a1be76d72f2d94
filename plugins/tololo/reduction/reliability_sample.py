"""Detections to learn the reliability of diaSources from: injected sources, and whatever else is found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.injection_recovery import matched
from tololo.reduction.reliability_features import features, missing_columns

DOUBTFUL = 8.0
"""Pixels around an injected source within which another detection is neither real nor an artefact."""

LEAST_SNR = 3.0
"""Injected sources that are fainter are not seen: a detection there is noise as likely as not."""


@dataclass(frozen=True)
class Sample:
    """Detections to learn from.

    Attributes
    ----------
    table : `numpy.ndarray`, (n, len(FEATURES))
    real, unrejected : `numpy.ndarray` of `bool`, (n,)
    group : `numpy.ndarray` of `int`, (n,)
        The detector of a visit that it is from.
    detectors, visits, injected : `int`
        How many of each; injected sources that could be seen.
    """

    table: NDArray[np.float64]
    real: NDArray[np.bool_]
    unrejected: NDArray[np.bool_]
    group: NDArray[np.int64]
    detectors: int
    visits: int
    injected: int


type Key = tuple[str, int, int]
"""Repository, visit, detector."""


def read_sample(repositories: Sequence[str], collections: Sequence[str]) -> Sample:
    """Read what was injected and detected.

    Raises
    ------
    NothingToDoError
        There are no injected sources with diaSources in the collections.
    BadInputError
        A repository cannot be read, or its diaSources have not the columns that are needed.
    """
    where = f"repository {', '.join(repositories)}, collections {', '.join(collections)}"
    return sample_of((item for name in repositories for item in _pairs(name, collections)), where)


def _pairs(repository: str, collections: Sequence[str]) -> Iterator[tuple[Key, Table, Table]]:
    """Walk over the detectors of a repository: injected sources, and diaSources."""
    from lsst.daf.butler import Butler, MissingCollectionError, MissingDatasetTypeError

    where = f"repository {repository}, collections {', '.join(collections)}"
    try:
        opened = Butler.from_config(repository, collections=list(collections))
    except Exception as error:  # what a Butler raises depends on its database
        raise BadInputError(f"The repository cannot be opened: {error}", where) from error
    with opened as butler:
        try:
            refs = butler.query_datasets("injected_source", explain=False, limit=None)
        except (MissingCollectionError, MissingDatasetTypeError) as error:
            raise BadInputError(f"There are no injected sources: {error}", where) from error
        for ref in sorted(refs, key=lambda ref: (ref.dataId["visit"], ref.dataId["detector"])):
            found = butler.find_dataset("dia_source_unfiltered", ref.dataId)
            if found is not None:
                key = repository, int(ref.dataId["visit"]), int(ref.dataId["detector"])
                yield key, butler.get(ref), butler.get(found)


def sample_of(pairs: Iterator[tuple[Key, Table, Table]], where: str) -> Sample:
    """Label the detections of detectors: see `read_sample`."""
    tables, real, unrejected, groups = [], [], [], []
    keys: list[Key] = []
    injected = 0
    for key, truth, sources in pairs:
        if missing := missing_columns(sources.colnames):
            raise BadInputError(
                f"The diaSources have no columns {', '.join(missing)}",
                f"repository {key[0]}, visit {key[1]}, detector {key[2]}",
                "run difference imaging again with this version",
            )
        is_real, known = labels(truth, sources)
        tables.append(features(sources)[known])
        real.append(is_real[known])
        unrejected.append((np.asarray(sources["rejection"]) == "")[known])
        groups.append(np.full(int(known.sum()), len(keys), np.int64))
        injected += int(np.count_nonzero(_visible(truth)))
        keys.append(key)
    if not keys:
        raise NothingToDoError(
            "There is no detector with injected sources and diaSources",
            where,
            "inject sources and difference",
        )
    return Sample(
        np.concatenate(tables),
        np.concatenate(real),
        np.concatenate(unrejected),
        np.concatenate(groups),
        len(keys),
        len({key[:2] for key in keys}),
        injected,
    )


def _visible(truth: Table) -> NDArray[np.bool_]:
    usable = truth["inside"] & ~truth["masked"] & ~truth["saturated"] & (truth["snr"] >= LEAST_SNR)
    return np.asarray(usable, dtype=bool)


def labels(truth: Table, sources: Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say which diaSources are injected ones, and of which it is known whether they are; (n,) each."""
    from scipy.spatial import cKDTree

    real, known = np.zeros(len(sources), bool), np.ones(len(sources), bool)
    if not (len(truth) and len(sources)):
        return real, known
    finite = np.isfinite(sources["x"]) & np.isfinite(sources["y"])
    rows = np.flatnonzero(finite)
    injected = cKDTree(np.column_stack([truth["x"], truth["y"]]))
    distance, _ = injected.query(np.column_stack([sources["x"], sources["y"]])[rows])
    known[rows] = distance > DOUBTFUL
    own = matched(truth, sources[rows])
    real[rows[own[(own >= 0) & _visible(truth)]]] = True
    return real, known | real
