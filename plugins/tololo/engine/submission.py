"""Submission of a ready quantum graph to bps."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from lsst.ctrl.bps.drivers import submit_driver

from tololo.facility.configuration import INCLUDE
from tololo.facility.errors import BadInputError
from tololo.facility.run import RunRequest


def submit(request: RunRequest, run: str, graph: Path, submit_path: Path) -> Path:
    """Run a quantum graph on the request's compute site and wait until bps's final job has ended.

    Parameters
    ----------
    request : `RunRequest`
        What to run; its ``site`` names ``include/pipelines/bps/<site>.yaml``.
    run : `str`
        Output RUN, as in the graph.
    graph : `pathlib.Path`
        The quantum graph.
    submit_path : `pathlib.Path`
        Folder for the files of bps; it must not exist.

    Returns
    -------
    provenance : `pathlib.Path`
        Where the final job writes its provenance graph.

    Raises
    ------
    BadInputError
        There is no such site.
    """
    site = INCLUDE / "pipelines" / "bps" / f"{request.site}.yaml"
    if not site.exists():
        known = ", ".join(sorted(path.stem for path in site.parent.glob("*.yaml") if path.stem != "common"))
        raise BadInputError(f"There is no compute site {request.site!r}", str(site), f"name one of: {known}")
    provenance = submit_path / "provenance.qg"
    config = {
        "includeConfigs": [str(site)],
        "computeSite": request.site,
        "submitPath": str(submit_path),
        "qgraphFile": str(graph),
        "cores": request.cores,
        "payload": {
            "payloadName": request.step,
            "butlerConfig": request.repository,
            "inCollection": ",".join(request.inputs),
            "output": "",
            "outputRun": run,
            "dataQuery": request.where,
        },
        "extraAggregateOptions": f"--output {provenance}",
    }
    path = submit_path.parent / "bps.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    # Parsl leaves its own folder in the current one.
    os.chdir(submit_path.parent)
    submit_driver(str(path))
    return provenance
