"""Writing down what becomes of the versions of a template; `tololo.engine.template_versions` reads it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import find_collection
from tololo.engine.template_versions import DATASET, STATE, Record
from tololo.facility import collections
from tololo.hooks.calibration_candidates import runs_below
from tololo.hooks.dataset_types import register_dataset_type

if TYPE_CHECKING:
    from lsst.daf.butler import Butler


def register_run(butler: Butler, version: str) -> str:
    """Return a RUN for the next record of a version: one that a killed process left empty, else a new one."""
    register_dataset_type(butler, DATASET, (), "StructuredDataDict")
    return free_run(butler, version, STATE, DATASET)


def put_record(butler: Butler, run: str, record: Record) -> None:
    """Write a record into the RUN that `register_run` gave."""
    when = collections.run_time(run) or datetime.now(UTC)
    butler.put(asdict(record) | {"when": when.isoformat()}, DATASET, run=run)


def free_run(butler: Butler, version: str, step: str, dataset_type: str, **data_id: Any) -> str:
    """Return an empty RUN ``{version}/{step}/{time}`` that is newer than those that hold a dataset."""
    runs = runs_below(butler, f"{version}/{step}")
    if runs and butler.find_dataset(dataset_type, data_id, collections=runs[0]) is None:
        return runs[0]
    parent, _, number = version.rpartition("/")
    when = datetime.now(UTC)
    if runs and (last := collections.run_time(runs[0])):
        when = max(when, last + timedelta(seconds=1))
    while find_collection(butler, run := collections.run(parent, number, step, when)) is not None:
        when += timedelta(seconds=1)
    butler.collections.register(run)
    return run
