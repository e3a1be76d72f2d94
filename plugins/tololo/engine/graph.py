"""Quantum graphs, built in the process that already holds the stack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lsst.daf.butler import InvalidQueryError, MissingCollectionError
from lsst.pipe.base import Pipeline
from lsst.pipe.base.all_dimensions_quantum_graph_builder import AllDimensionsQuantumGraphBuilder
from lsst.pipe.base.pipeline_graph import PipelineGraph
from lsst.pipe.base.quantum_graph_builder import QuantumGraphBuilderError

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.run import RunRequest

if TYPE_CHECKING:
    from lsst.daf.butler import Butler


def build_graph(request: RunRequest, butler: Butler, run: str, path: Path) -> dict[str, int]:
    """Build the graph of what is still to be done and write it.

    Parameters
    ----------
    request : `RunRequest`
        What to run.
    butler : `lsst.daf.butler.Butler`
        The repository.
    run : `str`
        Output RUN collection.
    path : `pathlib.Path`
        Where to write the ``.qg`` file.

    Returns
    -------
    expected : `dict` [`str`, `int`]
        Number of quanta for each task label.

    Raises
    ------
    NothingToDoError
        The graph is empty: everything is done already, or no input matches.
    BadInputError
        The pipeline or the data query is wrong.
    """
    existing = [request.parent] if request.parent in butler.collections.query("*") else []
    pipeline = _read_pipeline(request)
    try:
        builder = AllDimensionsQuantumGraphBuilder(
            pipeline,
            butler,
            where=request.where,
            input_collections=list(dict.fromkeys([*existing, *request.inputs])),
            skip_existing_in=existing,
            output_run=run,
        )
        components = builder.finish(attach_datastore_records=True)
    except InvalidQueryError as error:
        raise BadInputError(
            f"The data query cannot be understood: {error}",
            where=repr(request.where),
            remedy="correct it; see Butler's dimension expressions",
        ) from error
    except MissingCollectionError as error:
        raise BadInputError(
            str(error), where=_where(request), remedy="run the step that makes it first"
        ) from error
    except QuantumGraphBuilderError as error:
        raise NothingToDoError(
            f"No quantum can be built: {error}", where=_where(request), remedy="ingest the inputs first"
        ) from error
    graph = components.assemble()
    expected = {label: len(quanta) for label, quanta in graph.quanta_by_task.items() if quanta}
    if not expected:
        raise NothingToDoError(
            "There is nothing to do: either everything is done already, or no input matches",
            where=_where(request),
            remedy="look at the inputs' collections and the data query",
        )
    components.write(str(path))
    return expected


def count_done(request: RunRequest, butler: Butler) -> int:
    """Count the quanta of this request that earlier attempts did, by their metadata in the chain."""
    if request.parent not in butler.collections.query("*"):
        return 0
    kinds = [f"{label}_metadata" for label in _read_pipeline(request).tasks]
    known = {kind.name for kind in butler.registry.queryDatasetTypes(kinds)}
    return sum(
        len(
            butler.query_datasets(
                kind, request.parent, where=request.where, find_first=True, explain=False, limit=None
            )
        )
        for kind in sorted(known)
    )


def _read_pipeline(request: RunRequest) -> PipelineGraph:
    try:
        pipeline = Pipeline.from_uri(request.pipeline)
        for key, value in request.config.items():
            label, _, name = key.partition(":")
            pipeline.addConfigOverride(label, name, value)
        return pipeline.to_graph()
    except FileNotFoundError as error:
        raise BadInputError(
            "The pipeline file is not there",
            where=request.pipeline,
            remedy=f"name an existing file ({error})",
        ) from error
    except (ValueError, LookupError, AttributeError) as error:
        raise BadInputError(
            f"The pipeline or its configuration is wrong: {error}",
            where=f"{request.pipeline}, configuration {request.config}",
            remedy="name labels, subsets and fields that the pipeline has",
        ) from error


def _where(request: RunRequest) -> str:
    query = f", data query {request.where!r}" if request.where else ""
    return f"pipeline {request.pipeline}, inputs {', '.join(request.inputs)}{query}"
