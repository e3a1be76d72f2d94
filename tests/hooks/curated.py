"""A small repository to curate: biases of three detectors in two RUNs, and a type that is no calibration."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lsst.daf.butler import Butler, CollectionType, DatasetType

from tololo.hooks.bootstrap import BootstrapPlan, bootstrap

OLD = "20190401/bias/bias/combine/20260101T000000Z"
NEW = "20190401/bias/bias/combine/20260102T000000Z"
CALIB = "20190401/calib/bias"
STORAGE = "StructuredDataDict"
DETECTORS = (1, 2, 3)


def build(folder: Path, **plan: Any) -> Path:
    """Make the repository; an empty one with an instrument is left by ``build_empty``."""
    build_empty(folder, **plan)
    with Butler.from_config(str(folder), writeable=True) as butler:
        for name, dimensions, calibration in (
            ("bias", ("instrument", "detector"), True),
            ("flat", ("instrument", "detector", "physical_filter"), True),
            ("notes", ("instrument", "detector"), False),
        ):
            kind = DatasetType(
                name, dimensions, STORAGE, universe=butler.dimensions, isCalibration=calibration
            )
            butler.registry.registerDatasetType(kind)
        for run in (OLD, NEW):
            butler.collections.register(run)
            for detector in DETECTORS:
                butler.put(
                    {"level": detector, "run": run}, "bias", instrument="DECam", detector=detector, run=run
                )
        butler.put({"text": "dark"}, "notes", instrument="DECam", detector=1, run=OLD)
    return folder


def build_empty(folder: Path, **plan: Any) -> Path:
    bootstrap(BootstrapPlan(str(folder), **plan), ["create", "instrument", "chains"])
    return folder


def content(repository: Path | str) -> dict[str, Any]:
    """Everything that work done twice could double, or work refused could leave behind."""
    with Butler.from_config(str(repository)) as butler:
        refs = butler.registry.queryDatasets(..., collections="*")
        kinds = sorted(kind.name for kind in butler.registry.queryDatasetTypes())
        collections = butler.collections.query_info("*", include_summary=False)
        marked = {CollectionType.TAGGED, CollectionType.CALIBRATION}
        return {
            "datasets": sorted({(str(ref.id), ref.run) for ref in refs}),
            "types": kinds,
            "collections": {info.name: (info.type.name, info.children) for info in collections},
            "associations": sorted(
                (item.collection, str(item.ref.id), item.timespan and item.timespan.nsec)
                for kind in kinds
                for item in butler.registry.queryDatasetAssociations(kind, ..., collectionTypes=marked)
            ),
            "visits": len(butler.query_dimension_records("visit", explain=False, limit=None)),
        }


def snapshot(*folders: Path | str) -> dict[str, str]:
    """Every file below folders, the registry's too, with its checksum: what is left alone keeps it."""
    found = (path for folder in folders for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def files(folder: Path) -> list[tuple[str, int]]:
    """All files below a folder but the registry's, with their sizes."""
    found = (path for path in folder.rglob("*") if path.is_file() and "sqlite3" not in path.name)
    return sorted((str(path.relative_to(folder)), path.stat().st_size) for path in found)


def in_process(work: Callable[..., Any], *arguments: Any) -> multiprocessing.Process:
    """Start a process; the caller joins or kills it."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def die(*_: Any, **__: Any) -> None:
    """Die as a process does that is killed: without a word, and without tidying up."""
    os._exit(9)
