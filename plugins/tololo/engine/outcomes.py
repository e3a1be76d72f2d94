"""What came of earlier attempts: one ``run_outcome`` dataset in each RUN, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lsst.daf.butler import (  # type: ignore[attr-defined]
    CollectionType,
    DataCoordinate,
    DatasetType,
    InvalidQueryError,
    MissingDatasetTypeError,
)

from tololo.engine.repositories import find_collection
from tololo.facility.collections import run_time
from tololo.facility.run import RunOutcome, RunRequest

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef
    from lsst.daf.butler.queries import Query
    from lsst.pipe.base.pipeline_graph import PipelineGraph

DATASET = "run_outcome"

type DataId = Mapping[str, int | str]
type Key = tuple[tuple[str, int | str], ...]
type History = dict[str, dict[Key, Past]]


@dataclass(frozen=True)
class Past:
    """The newest that is known of a quantum.

    Attributes
    ----------
    kind : `str`
        ``done``, ``no_data``, ``failed_permanent``, ``failed_retriable`` or ``blocked``.
    run : `str`
        The RUN in which that happened.
    reason : `str`
        Why, where it is not done.
    own : `bool`
        Whether it failed itself; otherwise it was not run because of others.
    """

    kind: str
    run: str
    reason: str = ""
    own: bool = True

    @property
    def good(self) -> bool:
        """Whether there is nothing left to do."""
        return self.kind in ("done", "no_data")

    @property
    def failed_for_good(self) -> bool:
        """Whether it failed itself, and would again."""
        return self.kind == "failed_permanent" and self.own


def key_of(data_id: DataId) -> Key:
    """Return the required values of a data ID as something that can be looked up."""
    return tuple(sorted(data_id.items()))


def describe(data_id: DataId) -> str:
    """Write a data ID for people, without what is the same everywhere."""
    return ", ".join(
        f"{key}={value}" for key, value in data_id.items() if key not in ("instrument", "skymap")
    )


def write_outcome(butler: Butler, outcome: RunOutcome) -> None:
    """Record an outcome in its RUN, in the place of one that is there.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable.
    outcome : `RunOutcome`
        What came of ``outcome.run``; the RUN is made if it does not exist.
    """
    kind = DatasetType(DATASET, (), "StructuredDataDict", universe=butler.dimensions)
    butler.registry.registerDatasetType(kind)
    butler.collections.register(outcome.run, CollectionType.RUN)
    content = asdict(outcome)
    if (ref := butler.find_dataset(kind, collections=outcome.run)) is not None:
        if butler.stored(ref) and butler.get(ref) == content:
            return
        butler.pruneDatasets([ref], disassociate=True, unstore=True, purge=True)
    butler.put(content, kind, run=outcome.run)


def read_outcomes(butler: Butler, parent: str, pipeline_name: str = "*") -> list[RunOutcome]:
    """Return what is recorded of the RUNs of a chain, oldest first.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        The repository.
    parent : `str`
        The chain; RUNs below its name count also where they are not in it.
    pipeline_name : `str`, optional
        Take only RUNs of this pipeline of those that are not in the chain.
    """
    runs = [*existing(butler, parent), *unchained(butler, parent, pipeline_name)]
    if not runs:
        return []
    try:
        refs = butler.query_datasets(DATASET, runs, find_first=False, explain=False, limit=None)
    except MissingDatasetTypeError:
        return []
    newest_last = sorted(refs, key=lambda ref: age_of(ref.run))
    return [RunOutcome(**butler.get(ref)) for ref in newest_last if butler.stored(ref)]


def permanent_failures(
    butler: Butler, request: RunRequest, pipeline: PipelineGraph | None = None
) -> dict[str, dict[Key, str]]:
    """Return the reasons of what failed permanently, and has not succeeded since, by task label and data ID.

    Parameters are those of `history`.
    """
    return {
        label: {key: past.reason for key, past in quanta.items() if past.failed_for_good}
        for label, quanta in history(butler, request, pipeline).items()
    }


def history(
    butler: Butler, request: RunRequest, pipeline: PipelineGraph | None = None, run: str = ""
) -> History:
    """Return the newest that is known of each quantum of a request from its earlier attempts.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        The repository.
    request : `RunRequest`
        Its pipeline's labels and its data query choose the quanta.
    pipeline : `lsst.pipe.base.pipeline_graph.PipelineGraph`, optional
        The request's pipeline, if it is at hand; it is read otherwise.
    run : `str`, optional
        The RUN of the present attempt, which is not looked at.

    Returns
    -------
    history : `dict` [`str`, `dict` [`tuple`, `Past`]]
        By task label, then by data ID as `key_of` gives it. A quantum is done where its metadata is.
    """
    from tololo.engine.graph import read_pipeline

    pipeline = pipeline or read_pipeline(request)
    pipeline.resolve(butler.registry)
    there = [*existing(butler, request.parent), *unchained(butler, request.parent, request.pipeline_name)]
    found: History = {label: {} for label in pipeline.tasks}
    if not there:
        return found
    for label, quanta in found.items():
        for ref in sorted(_metadata(butler, request, pipeline, label, there), key=lambda r: age_of(r.run)):
            if ref.run != run:
                quanta[key_of(ref.dataId.required)] = Past("done", ref.run)
    for outcome in read_outcomes(butler, request.parent, request.pipeline_name):
        if outcome.run != run:
            _add_record(found, outcome)
    for label, quanta in found.items():
        # Metadata was searched with the data query already; a record was not.
        unsure = {key for key, past in quanta.items() if past.kind not in ("done", "no_data")}
        for key in unsure - _matching(butler, request, pipeline, label, unsure):
            del quanta[key]
    return found


def existing(butler: Butler, *names: str) -> list[str]:
    """Return those of some collections that are in the repository."""
    return [name for name in names if find_collection(butler, name)]


def unchained(butler: Butler, parent: str, pipeline_name: str = "*") -> list[str]:
    """Return the RUNs below a chain's name that are not in it, newest first: a dead attempt leaves them."""
    below = butler.collections.query(f"{parent}/{pipeline_name}/*", collection_types=CollectionType.RUN)
    chained = butler.collections.query(existing(butler, parent), flatten_chains=True) if below else ()
    return sorted(set(below) - set(chained), key=age_of, reverse=True)


def _add_record(found: History, outcome: RunOutcome) -> None:
    for quantum in outcome.quanta:
        quanta = found.get(quantum["label"])
        if quanta is None:
            continue
        key = key_of(quantum["data_id"])
        before = quanta.get(key)
        past = Past(quantum["kind"], outcome.run, quantum["reason"], quantum["own"])
        if past.kind == "no_data":
            # It has metadata, so it was found already unless the data query leaves it out.
            if before is not None and before.run == past.run:
                quanta[key] = past
        elif before is None or age_of(before.run) < age_of(past.run):
            quanta[key] = past


def _metadata(
    butler: Butler, request: RunRequest, pipeline: PipelineGraph, label: str, there: list[str]
) -> list[DatasetRef]:
    kind = f"{label}_metadata"

    def ask(query: Query) -> list[DatasetRef]:
        return list(query.where(request.where).datasets(kind, there, find_first=False))

    try:
        return _answer(butler, pipeline, ask)
    except MissingDatasetTypeError:
        return []


def _matching(
    butler: Butler, request: RunRequest, pipeline: PipelineGraph, label: str, keys: Collection[Key]
) -> set[Key]:
    """Return the data IDs that a request's data query selects."""
    dimensions = pipeline.tasks[label].dimensions
    data_ids = [DataCoordinate.standardize(dict(key), dimensions=dimensions) for key in keys]

    def ask(query: Query) -> set[Key]:
        chosen = query.where(request.where).join_data_coordinates(data_ids).data_ids(dimensions)
        return {key_of(data_id.required) for data_id in chosen}

    return _answer(butler, pipeline, ask) if keys and request.where else set(keys)


def _answer[T](butler: Butler, pipeline: PipelineGraph, ask: Callable[[Query], T]) -> T:
    """Ask the registry; where a data query names what one task's dimensions lack, with those of all tasks."""
    try:
        with butler.query() as query:
            return ask(query)
    except InvalidQueryError:
        with butler.query() as query:
            return ask(query.join_dimensions(pipeline.get_all_dimensions()))


def age_of(run: str) -> tuple[datetime, str]:
    """Return what sorts RUNs by when they were begun, the oldest first."""
    return run_time(run) or datetime.min.replace(tzinfo=UTC), run


def as_record(label: str, data_id: DataId, kind: str, reason: str, own: bool) -> dict[str, Any]:
    """Return one entry of `RunOutcome.quanta`."""
    return {"label": label, "data_id": dict(data_id), "kind": kind, "reason": reason, "own": own}
