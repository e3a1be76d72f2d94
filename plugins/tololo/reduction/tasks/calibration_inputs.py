"""What is read to take the instrument's signature off: raws one at a time, and what is valid for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lsst.daf.butler import CalibrationLookupError, MissingDatasetTypeError
from lsst.pipe.base import connectionTypes as ct

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.raw import RawDetector, raw_detector
from tololo.reduction.master_frames import Load

if TYPE_CHECKING:
    from lsst.daf.butler import DataCoordinate, DatasetRef, DatasetType, DeferredDatasetHandle, Timespan
    from lsst.daf.butler.registry import Registry


def loads_of(handles: Iterable[DeferredDatasetHandle]) -> list[tuple[int, Load]]:
    """Return exposure numbers, and what reads the raw of each, in order."""
    ordered = sorted(handles, key=lambda handle: int(handle.dataId["exposure"]))
    return [(int(handle.dataId["exposure"]), partial(read_raw, handle)) for handle in ordered]


def read_raw(handle: DeferredDatasetHandle) -> RawDetector:
    """Read a raw.

    Raises
    ------
    BadInputError
        If the file is damaged. A disk that is away is no property of the file, and raises as it does.
    """
    where = f"exposure {handle.dataId['exposure']}, detector {handle.dataId['detector']}"
    try:
        return raw_detector(handle.get(), where)
    except ValueError as error:
        # The Butler wraps what a formatter raises.
        if isinstance(error.__cause__, BadInputError):
            raise error.__cause__ from None
        raise


def valid_for_raws(
    dataset_type: DatasetType, registry: Registry, data_id: DataCoordinate, collections: Sequence[str]
) -> list[DatasetRef]:
    """Find the calibration that is valid for the raws of a quantum; if it changes, for the first of them.

    The middleware looks validity up by the time of the quantum's own data ID, and one that combines exposures
    has none. A dataset type that the repository does not know has no datasets.
    """
    for timespan in _timespans(registry, data_id, collections):
        try:
            found = registry.findDataset(
                dataset_type,
                data_id.subset(dataset_type.dimensions),
                collections=collections,
                timespan=timespan,
            )
        except MissingDatasetTypeError:
            return []
        except CalibrationLookupError:  # it changes between the raws
            continue
        return [] if found is None else [found]
    return []


_TIMESPANS: WeakKeyDictionary[Registry, dict[Any, list[Timespan]]] = WeakKeyDictionary()
"""What `_timespans` has found: a graph asks once for each CCD and calibration, and the times are the same."""


def _timespans(registry: Registry, data_id: DataCoordinate, collections: Sequence[str]) -> list[Timespan]:
    """Return the time of all raws of any CCD, then that of the first of them; empty without raws."""
    values = {name: value for name, value in data_id.required.items() if name != "detector"}
    found = _TIMESPANS.setdefault(registry, {})
    key = (*collections, *sorted(values.items()))
    if key not in found:
        records = registry.queryDimensionRecords(
            "exposure", datasets="raw", collections=collections, dataId=values, check=False
        )
        timespans = sorted(record.timespan for record in records if record.timespan is not None)
        if not timespans:
            return []
        whole = type(timespans[0])(timespans[0].begin, max(timespan.end for timespan in timespans))
        found[key] = [whole, timespans[0]]
    return found[key]


def curated_input(name: str, doc: str, *, for_raws: bool = False) -> ct.PrerequisiteInput:
    """Return a connection to a curated calibration of the CCD, which the repository may be without.

    Parameters
    ----------
    name : `str`
        ``crosstalk`` or ``defects``.
    doc : `str`
        What it is for.
    for_raws : `bool`, optional
        It shall be valid for all raws of a quantum that combines exposures.
    """
    return ct.PrerequisiteInput(
        doc=doc,
        name=name,
        storageClass="StructuredDataDict",
        dimensions=("instrument", "detector"),
        isCalibration=True,
        minimum=0,
        lookupFunction=valid_for_raws if for_raws else None,
    )


def optional(butlerQC: Any, inputRefs: Any, name: str) -> Any:
    """Return a dataset of a connection that may have none, `None` then."""
    ref = getattr(inputRefs, name, None)
    return None if ref is None else butlerQC.get(ref)


def run_of(inputRefs: Any, name: str) -> str:
    """Return the RUN of a dataset of a connection that may have none, empty then."""
    ref = getattr(inputRefs, name, None)
    return "" if ref is None else str(ref.run)


def header_of(metrics: Any, **further: Any) -> dict[str, Any]:
    """Return where a master comes from, for the header of its image."""
    return {"INPUTS": metrics["inputs"][0], "REFUSED": metrics["refused"][0], **further}
