"""Tasks that sum up what others have made: they are run again when there is more of it.

A task says so itself, by ``sums_up = True`` on its class. All others are done once they have run: who
combines flats, say, does not do so anew because another one comes in, as what was certified would change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lsst.daf.butler import MissingDatasetTypeError
from lsst.pipe.base.quantum_graph_skeleton import DatasetKey

from tololo.engine.outcomes import age_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lsst.daf.butler import Butler, DataCoordinate, DatasetRef
    from lsst.pipe.base.pipeline_graph import PipelineGraph, TaskNode
    from lsst.pipe.base.quantum_graph_skeleton import QuantumGraphSkeleton, QuantumKey


def sums_up(task: TaskNode) -> bool:
    """Tell whether a task wants to be run again when there is more than it has seen."""
    return bool(getattr(task.task_class, "sums_up", False))


def add_all_there_is(
    skeleton: QuantumGraphSkeleton,
    pipeline: PipelineGraph,
    task: TaskNode,
    butler: Butler,
    collections: Sequence[str],
) -> None:
    """Let the quanta of a task see what earlier attempts made that the data query leaves out.

    A summary of what one data query chooses would take the place of one of all.
    """
    quanta = {skeleton.get_data_id(quantum): quantum for quantum in skeleton.get_quanta(task.label)}
    if not quanta:
        return
    dimensions = next(iter(quanta)).dimensions
    for name in _made_by_others(pipeline, task):
        for ref in _existing(butler, name, list(quanta), collections):
            quantum = quanta.get(ref.dataId.subset(dimensions))
            key = DatasetKey(name, ref.dataId.required_values)
            if quantum is None or key in skeleton:
                continue
            skeleton.add_dataset_node(name, ref.dataId)
            skeleton.set_dataset_ref(ref, key)
            skeleton.add_input_edge(quantum, key)


def has_grown(
    skeleton: QuantumGraphSkeleton, pipeline: PipelineGraph, task: TaskNode, quantum: QuantumKey
) -> bool:
    """Tell whether an input of a quantum that is done is newer than that, or is about to be made.

    What comes before the task has to be resolved: producers that are done are no longer in the graph.
    """
    metadata = DatasetKey(task.metadata_output.parent_dataset_type_name, quantum.data_id_values)
    done = skeleton.get_output_for_skip(metadata)
    names = set(_made_by_others(pipeline, task))
    for key in skeleton.iter_inputs_of(quantum):
        if not isinstance(key, DatasetKey) or key.parent_dataset_type_name not in names:
            continue
        if skeleton.get_producer_of(key) is not None:
            if _is_to_be_made(skeleton, pipeline, key):
                return True
            continue
        ref = skeleton.get_dataset_ref(key)
        if done is not None and ref is not None and age_of(ref.run) > age_of(done.run):
            return True
    return False


def _is_to_be_made(skeleton: QuantumGraphSkeleton, pipeline: PipelineGraph, key: DatasetKey) -> bool:
    """Tell whether a dataset is there, or its producer has the inputs that it needs.

    The graph has quanta yet that lack inputs, for what fails for good is left out: they are dropped later.
    """
    producer = skeleton.get_producer_of(key)
    if producer is None:
        return True
    task = pipeline.tasks[producer.task_label]
    inputs = [found for found in skeleton.iter_inputs_of(producer) if isinstance(found, DatasetKey)]
    connections = task.get_connections()
    return all(
        sum(
            found.parent_dataset_type_name == edge.parent_dataset_type_name
            and _is_to_be_made(skeleton, pipeline, found)
            for found in inputs
        )
        >= getattr(connections, edge.connection_name).minimum
        for edge in task.inputs.values()
    )


def _made_by_others(pipeline: PipelineGraph, task: TaskNode) -> Iterator[str]:
    for edge in task.inputs.values():
        if pipeline.producer_of(edge.parent_dataset_type_name) is not None:
            yield edge.parent_dataset_type_name


def _existing(
    butler: Butler, name: str, data_ids: Sequence[DataCoordinate], collections: Sequence[str]
) -> list[DatasetRef]:
    try:
        with butler.query() as query:
            chosen = query.join_data_coordinates(data_ids)
            return list(chosen.datasets(name, collections, find_first=True)) if collections else []
    except MissingDatasetTypeError:
        return []
