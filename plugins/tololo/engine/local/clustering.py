"""How quanta become jobs on the site ``local``: a detector's consecutive tasks are one job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from lsst.ctrl.bps import ClusteredQuantumGraph
from lsst.ctrl.bps.quantum_clustering_funcs import single_quantum_clustering
from networkx import DiGraph, topological_sort

if TYPE_CHECKING:
    from lsst.ctrl.bps import BpsConfig, QuantaCluster
    from lsst.pipe.base.quantum_graph import PredictedQuantumGraph


def consecutive_clustering(
    config: BpsConfig, qgraph: PredictedQuantumGraph, name: str
) -> ClusteredQuantumGraph:
    """Put a quantum into the job of the one before it when both are about the same data.

    A quantum joins the one that it waits for when there is just one such, of its own data ID, and whatever
    else waits for that one waits for this quantum too: then nothing could run any earlier, or without it, if
    they were apart; and the second finds in the page cache what the first has written. Tasks that may be
    retried a different number of times stay apart, since a job is tried again as a whole.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        The bps configuration.
    qgraph : `lsst.pipe.base.quantum_graph.PredictedQuantumGraph`
        The quantum graph.
    name : `str`
        Name of the result.

    Returns
    -------
    clustered : `lsst.ctrl.bps.ClusteredQuantumGraph`
        The jobs and what each waits for.
    """
    single = single_quantum_clustering(config, qgraph, name)
    of_quantum = {quantum: cluster for cluster in single.clusters() for quantum in cluster.qgraph_node_ids}
    graph = single.qxgraph
    retries = {label: _retries(config, label) for _, label in graph.nodes(data="task_label")}
    joined: dict[Any, QuantaCluster] = {}
    for quantum in topological_sort(graph):
        home, label = of_quantum[quantum], graph.nodes[quantum]["task_label"]
        before = _one_before(graph, quantum)
        if before is not None and retries[label] == retries[graph.nodes[before]["task_label"]]:
            home = joined[before]
            home.add_quantum(quantum, label)
        joined[quantum] = home
    clustered = ClusteredQuantumGraph(name, qgraph, config[".bps_defined.runQgraphFile"])
    clustered.add_cluster({cluster.name: cluster for cluster in joined.values()}.values())
    edges = {(joined[a].name, joined[b].name) for a, b in graph.edges if joined[a].name != joined[b].name}
    for parent, child in sorted(edges):
        clustered.add_dependency(parent, child)
    return clustered


def _retries(config: BpsConfig, label: str) -> int:
    opt = {"curvals": {"curr_site": config["computeSite"], "curr_pipetask": label}, "default": 0}
    return int(config.search("numberOfRetries", opt=opt)[1])


def _one_before(graph: DiGraph, quantum: UUID) -> UUID | None:
    """Return the quantum whose job a quantum joins, if there is one."""
    before = list(graph.predecessors(quantum))
    if len(before) != 1 or graph.nodes[before[0]]["data_id"] != graph.nodes[quantum]["data_id"]:
        return None
    others = (other for other in graph.successors(before[0]) if other != quantum)
    return before[0] if all(graph.has_edge(quantum, other) for other in others) else None
