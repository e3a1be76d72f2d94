"""Quantum graphs, built in the process that already holds the stack."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lsst.daf.butler import InvalidQueryError, MissingCollectionError, MissingDatasetTypeError
from lsst.pipe.base import Pipeline
from lsst.pipe.base.all_dimensions_quantum_graph_builder import AllDimensionsQuantumGraphBuilder
from lsst.pipe.base.pipeline_graph import PipelineGraph
from lsst.pipe.base.quantum_graph_builder import OutputExistsError, QuantumGraphBuilderError

from tololo.engine.empty import explain_empty
from tololo.engine.outcomes import History, existing, history, key_of, unchained
from tololo.engine.summaries import add_all_there_is, has_grown, sums_up
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.run import RunRequest

if TYPE_CHECKING:
    from lsst.daf.butler import Butler
    from lsst.pipe.base.pipeline_graph import TaskNode
    from lsst.pipe.base.quantum_graph_skeleton import DatasetKey, QuantumGraphSkeleton, QuantumKey

_log = logging.getLogger("tololo.graph")


def build_graph(request: RunRequest, butler: Butler, run: str, path: Path) -> dict[str, int]:
    """Build the graph of what is still to be done and write it.

    What is done is left out, and what failed permanently in an earlier attempt, unless the request is to
    retry it; what failed for a passing reason is not. Quanta that then have no inputs vanish, and those
    that gather many inputs run on what there is; summaries (`tololo.engine.summaries`) are made again where
    there is more of it by now.

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
        Number of quanta for each task label; empty, and no file, if earlier attempts left nothing to do.

    Raises
    ------
    NothingToDoError
        Nothing has been done and nothing can be; the message says what is missing.
    BadInputError
        The pipeline or the data query is wrong.
    """
    pipeline = read_pipeline(request)
    there = [*existing(butler, request.parent), *unchained(butler, request.parent, request.pipeline_name)]
    try:
        past = history(butler, request, pipeline)
        builder = AttemptGraphBuilder(
            pipeline,
            butler,
            where=request.where,
            input_collections=list(dict.fromkeys([*there, *request.inputs])),
            skip_existing_in=there,
            output_run=run,
            past=past,
            retry_failed=request.retry_failed,
        )
        components = builder.finish(attach_datastore_records=True)
    except InvalidQueryError as error:
        raise BadInputError(
            f"The data query cannot be understood: {error}",
            where=repr(request.where),
            remedy="correct it; see Butler's dimension expressions",
        ) from error
    except MissingCollectionError as error:
        # A dry run cannot look further than what the steps before it have made.
        kind = NothingToDoError if request.dry_run else BadInputError
        raise kind(str(error), where=request.described, remedy="run the step that makes it first") from error
    except OutputExistsError as error:
        raise BadInputError(str(error), where=f"run {run}", remedy="write into a new RUN") from error
    except (QuantumGraphBuilderError, MissingDatasetTypeError, FileNotFoundError) as error:
        raise explain_empty(request, butler, pipeline, str(error)) from error
    graph = components.assemble()
    expected = {label: len(quanta) for label, quanta in graph.quanta_by_task.items() if quanta}
    if expected:
        components.write(str(path))
    elif not any(past.values()):
        raise explain_empty(request, butler, pipeline)
    return expected


class AttemptGraphBuilder(AllDimensionsQuantumGraphBuilder):  # type: ignore[misc]
    """Builder of the graph of one attempt, which knows what became of each quantum in the earlier ones.

    `QuantumGraphBuilder` is made to be derived from at this very method; that the one builder which is of
    use is marked as final is a hint to type checkers only.

    Parameters
    ----------
    *args, **kwargs
        As for the base class.
    past : `dict`
        What `tololo.engine.outcomes.history` returns.
    retry_failed : `bool`
        Run again what failed permanently, and what depends on it, though that may be done without.
    """

    def __init__(self, *args: Any, past: History, retry_failed: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._past = past
        self._retry_failed = retry_failed

    def process_subgraph(self, subgraph: PipelineGraph) -> QuantumGraphSkeleton:
        """Build the rough graph without what is not to run; the base class drops what then lacks inputs."""
        skeleton: QuantumGraphSkeleton = super().process_subgraph(subgraph)
        renewed: set[DatasetKey] = set()
        for label, task in subgraph.tasks.items():  # producers come before consumers
            if sums_up(task):
                add_all_there_is(skeleton, subgraph, task, self.butler, self.skip_existing_in)
            for quantum in list(skeleton.get_quanta(label)):
                past = self._past[label].get(key_of(skeleton.get_data_id(quantum).required))
                failed_for_good = past is not None and past.failed_for_good
                if failed_for_good and not self._retry_failed:
                    skeleton.remove_quantum_node(quantum, remove_outputs=True)
                elif failed_for_good or not renewed.isdisjoint(skeleton.iter_inputs_of(quantum)):
                    renewed.update(_run_again(skeleton, quantum))
                elif past is not None and not past.good:
                    _run_again(skeleton, quantum)
        return skeleton

    def _compute_skip_decision(
        self, task_node: TaskNode, quantum_key: QuantumKey, skeleton: QuantumGraphSkeleton
    ) -> bool:
        """Skip what is done, but no summary of what has grown since; what comes before is resolved."""
        skip: bool = super()._compute_skip_decision(task_node, quantum_key, skeleton)
        if skip and sums_up(task_node):
            if not has_grown(skeleton, self._pipeline_graph, task_node, quantum_key):
                return True
            _run_again(skeleton, quantum_key)
            return False
        return skip


def _run_again(skeleton: QuantumGraphSkeleton, quantum: QuantumKey) -> list[DatasetKey]:
    """Forget that an older RUN holds outputs of a quantum, so that it is not skipped; returns its outputs."""
    outputs = list(skeleton.iter_outputs_of(quantum))
    for output in outputs:
        skeleton[output].pop("output_for_skip", None)
    return outputs


def read_pipeline(request: RunRequest) -> PipelineGraph:
    """Read the pipeline of a request, with the request's configuration.

    Raises
    ------
    BadInputError
        If the pipeline or its configuration is wrong.
    """
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
    except (ValueError, LookupError, AttributeError, yaml.YAMLError) as error:
        raise BadInputError(
            f"The pipeline or its configuration is wrong: {error}",
            where=f"{request.pipeline}, configuration {request.config}",
            remedy="name labels, subsets and fields that the pipeline has",
        ) from error
