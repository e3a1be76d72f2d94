"""Dataset types: what kinds of data a repository knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tololo.facility.errors import BadInputError

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetType


def register_dataset_type(
    butler: Butler,
    name: str,
    dimensions: Sequence[str],
    storage_class: str,
    *,
    is_calibration: bool = False,
    dry_run: bool = False,
) -> bool:
    """Register a dataset type, as ``butler register-dataset-type`` does.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    name : `str`
        Its name.
    dimensions : sequence of `str`
        What tells its datasets apart.
    storage_class : `str`
        What they are in Python.
    is_calibration : `bool`, optional
        Whether they can be certified.
    dry_run : `bool`, optional
        Check everything; register nothing.

    Returns
    -------
    registered : `bool`
        False if it was there, just like that.

    Raises
    ------
    BadInputError
        If the name, a dimension or the storage class is wrong, or the type is there in another form.
    """
    new = _dataset_type(butler, name, dimensions, storage_class, is_calibration)
    there = {kind.name: kind for kind in butler.registry.queryDatasetTypes()}.get(name)
    if there is not None and there != new:
        raise BadInputError(
            f"The dataset type {name!r} is there in another form: {_describe(there)}, not {_describe(new)}",
            "repository",
            "use that form, or another name",
        )
    if there is None and not dry_run:
        butler.registry.registerDatasetType(new)
    return there is None


def _dataset_type(
    butler: Butler, name: str, dimensions: Sequence[str], storage_class: str, is_calibration: bool
) -> DatasetType:
    from lsst.daf.butler import DatasetType

    universe = butler.dimensions
    if unknown := [dimension for dimension in dimensions if dimension not in universe.dimensions.names]:
        raise BadInputError(
            f"There is no dimension {unknown[0]!r}",
            f"dataset type {name}",
            f"use {', '.join(sorted(name for name in universe.dimensions.names if not name[-1].isdigit()))}",
        )
    try:
        kind = DatasetType(name, dimensions, storage_class, universe=universe, isCalibration=is_calibration)
        _ = kind.storageClass
        return kind
    except KeyError as error:
        raise BadInputError(
            f"There is no storage class {storage_class!r}",
            f"dataset type {name}",
            "name one of the Butler's: ArrowAstropy, StructuredDataDict, VisitImage ...",
        ) from error
    except ValueError as error:
        raise BadInputError(str(error), "dataset type", "give it another name") from error


def _describe(kind: DatasetType) -> str:
    return f"{kind.storageClass_name} of {', '.join(kind.dimensions.required)}" + (
        " (calibration)" if kind.isCalibration() else ""
    )
