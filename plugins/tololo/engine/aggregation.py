"""Registration of what a run has left in its folder, whether it ran to its end or was cut off."""

from __future__ import annotations

from pathlib import Path

from lsst.pipe.base.quantum_graph.aggregator import AggregatorConfig, aggregate_graph


def aggregate(graph: Path, repository: str, provenance: Path) -> None:
    """Do what bps's final job does: ingest the outputs of every quantum that is done, write the provenance.

    What is in the registry already stays as it is, so that it can be done again.

    Parameters
    ----------
    graph : `pathlib.Path`
        The quantum graph that was run.
    repository : `str`
        The repository.
    provenance : `pathlib.Path`
        Where to write the provenance graph.
    """
    config = AggregatorConfig(
        output_path=str(provenance), defensive_ingest=True, update_output_chain=False, n_processes=1
    )
    aggregate_graph(str(graph), repository, config)
