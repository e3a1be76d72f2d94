"""What a run finds out and records as a whole: several datasets in a RUN of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import find_collection
from tololo.facility import collections
from tololo.hooks.dataset_types import register_dataset_type

if TYPE_CHECKING:
    from lsst.daf.butler import Butler


def record(
    butler: Butler,
    parent: str,
    step: str,
    runs: Sequence[str],
    products: Mapping[str, Any],
    storage_classes: Mapping[str, str],
    **data_id: Any,
) -> str:
    """Write results into a RUN ``{parent}/{step}/{time}``: all of them, in one transaction, or none.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    parent, step : `str`
    runs : sequence of `str`
        RUNs of this step that there are, the newest first; one that a killed process left empty is taken.
    products, storage_classes : mapping
        By dataset type; the types are registered, with the dimensions of ``data_id``.
    **data_id
        Of each product.

    Returns
    -------
    run : `str`
    """
    for kind, storage_class in storage_classes.items():
        register_dataset_type(butler, kind, tuple(data_id), storage_class)
    run = free_run(butler, parent, step, runs, next(iter(storage_classes)), **data_id)
    with butler.transaction():
        for kind in storage_classes:
            butler.put(products[kind], kind, data_id, run=run)
    return run


def free_run(
    butler: Butler, parent: str, step: str, runs: Sequence[str], dataset_type: str, **data_id: Any
) -> str:
    """Return an empty RUN ``{parent}/{step}/{time}`` that is newer than those that hold a dataset.

    Of ``runs``, the newest first, the first one is taken if it has no dataset of the type.
    """
    if runs and butler.find_dataset(dataset_type, data_id, collections=runs[0]) is None:
        return runs[0]
    above, _, last = parent.rpartition("/")
    when = datetime.now(UTC)
    if runs and (newest := collections.run_time(runs[0])):
        when = max(when, newest + timedelta(seconds=1))
    while find_collection(butler, run := collections.run(above, last, step, when)) is not None:
        when += timedelta(seconds=1)
    butler.collections.register(run)
    return run


def plain(content: Any) -> Any:
    """Return what JSON makes of a content, as it comes back from a file."""
    return json.loads(json.dumps(content))
