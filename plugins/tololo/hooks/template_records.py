"""Writing down what becomes of the versions of a template; `tololo.engine.template_versions` reads it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tololo.engine.template_versions import DATASET, STATE, Record
from tololo.facility import collections
from tololo.hooks.calibration_candidates import runs_below
from tololo.hooks.dataset_types import register_dataset_type
from tololo.hooks.results import free_run

if TYPE_CHECKING:
    from lsst.daf.butler import Butler


def register_run(butler: Butler, version: str) -> str:
    """Return a RUN for the next record of a version: one that a killed process left empty, else a new one."""
    register_dataset_type(butler, DATASET, (), "StructuredDataDict")
    return free_run(butler, version, STATE, runs_below(butler, f"{version}/{STATE}"), DATASET)


def put_record(butler: Butler, run: str, record: Record) -> None:
    """Write a record into the RUN that `register_run` gave."""
    when = collections.run_time(run) or datetime.now(UTC)
    butler.put(asdict(record) | {"when": when.isoformat()}, DATASET, run=run)
