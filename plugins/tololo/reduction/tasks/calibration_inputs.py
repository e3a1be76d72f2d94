"""What the tasks that make master calibrations read: raws one at a time, and the bias valid for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.raw import RawDetector, raw_detector
from tololo.reduction.isr import Crosstalk
from tololo.reduction.master_frames import Load

if TYPE_CHECKING:
    from lsst.daf.butler import DataCoordinate, DatasetRef, DatasetType, DeferredDatasetHandle
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
    """Find the calibration that is valid for all raws of a quantum.

    The middleware looks validity up by the time of the quantum's own data ID, and one that combines exposures
    has none.
    """
    records = registry.queryDimensionRecords(
        "exposure", datasets="raw", collections=collections, dataId=data_id, check=False
    )
    timespans = [record.timespan for record in records if record.timespan is not None]
    if not timespans:
        return []
    whole = timespans[0]
    for timespan in timespans[1:]:
        whole = type(whole)(min(whole.begin, timespan.begin), max(whole.end, timespan.end))
    found = registry.findDataset(
        dataset_type, data_id.subset(dataset_type.dimensions), collections=collections, timespan=whole
    )
    return [] if found is None else [found]


def crosstalk_of(coefficients: Mapping[str, float]) -> Crosstalk:
    """Return the crosstalk of a task's configuration, ``A`` and ``B`` being the amplifiers that receive."""
    return Crosstalk(coefficients.get("A", 0.0), coefficients.get("B", 0.0))


def header_of(metrics: Any, **further: Any) -> dict[str, Any]:
    """Return where a master comes from, for the header of its image."""
    return {"INPUTS": metrics["inputs"][0], "REFUSED": metrics["refused"][0], **further}
