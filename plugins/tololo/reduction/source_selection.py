"""The diaSources of a detector as they are taken for association: checked, completed, selected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tololo.facility.errors import BadInputError
from tololo.reduction.dia_objects import HISTORY, Columns

if TYPE_CHECKING:
    from tololo.reduction.association import VisitInfo

REQUIRED = ("diaSourceId", "ra", "dec", "x", "y", "psfFlux", "psfFluxErr")


@dataclass(frozen=True)
class SourceSelection:
    """Which diaSources may enter the APDB.

    Parameters
    ----------
    minimum_reliability : `float`, optional
        Sources below it, or without a reliability, stay out. No cut where it is `None`.
    minimum_snr : `float`, optional
        Cut on the absolute signal-to-noise ratio.
    rejected_flags : sequence of `str`, optional
        Boolean columns; a source with one of them set stays out.
    """

    minimum_reliability: float | None = None
    minimum_snr: float | None = None
    rejected_flags: tuple[str, ...] = ()

    def mask(self, sources: Columns) -> npt.NDArray[np.bool_]:
        """Tell which sources pass; shape ``(n,)``.

        Raises
        ------
        BadInputError
            If a column that a cut needs is missing.
        """
        cuts = {"reliability": self.minimum_reliability, "snr": self.minimum_snr}
        needed = [*(name for name, limit in cuts.items() if limit is not None), *self.rejected_flags]
        if missing := [name for name in needed if name not in sources]:
            raise BadInputError(
                f"The diaSources have no column {', '.join(missing)}",
                "selection of diaSources",
                "drop that cut",
            )
        keep = np.ones(len(sources["diaSourceId"]), dtype=bool)
        for name, limit in cuts.items():
            if limit is not None:
                keep &= np.abs(sources[name]) >= limit
        for name in self.rejected_flags:
            keep &= ~sources[name].astype(bool)
        return keep


def checked_sources(sources: Any, info: VisitInfo) -> dict[str, npt.NDArray[Any]]:
    """Turn a table of diaSources into plain arrays that belong to a visit, masked values into NaN or false.

    Raises
    ------
    BadInputError
        If a column is missing, ids repeat, a position is not a number, or rows are of another visit.
    """
    where = str(info)
    names = list(sources.colnames if hasattr(sources, "colnames") else sources)
    if missing := [name for name in REQUIRED if name not in names]:
        raise BadInputError(
            f"The diaSources have no column {', '.join(missing)}", where, "measure them first"
        )
    columns = {name: plain(sources[name]) for name in names}
    n = len(columns["diaSourceId"])
    own = {"visit": info.visit, "detector": info.detector, "midpointMjdTai": info.midpoint, "band": info.band}
    for name, value in own.items():
        given = columns.get(name, np.full(n, value))
        same = given.astype(str) == value if isinstance(value, str) else np.abs(given - value) < 1e-6
        if not np.all(same):
            raise BadInputError(
                f"{np.count_nonzero(~same)} diaSources have another {name} than {value}", where
            )
        columns[name] = np.full(n, value)
    columns["exposureTime"] = np.full(n, info.exposure_time)
    columns["diaSourceId"] = columns["diaSourceId"].astype(np.int64)
    if len(np.unique(columns["diaSourceId"])) != n:
        raise BadInputError("Some diaSources share an id", where, "number them uniquely")
    for name in ("ra", "dec", "x", "y"):
        if bad := int(np.count_nonzero(~np.isfinite(columns[name]))):
            raise BadInputError(f"{bad} diaSources have no {name}", where, "leave out what was not measured")
    for name in HISTORY:
        columns.setdefault(name, np.full(n, np.nan))
    return columns


def plain(column: Any) -> npt.NDArray[Any]:
    """Return a column as a plain array: masked floats become NaN, masked integers and flags 0, no units."""
    values = np.ma.asarray(getattr(column, "value", column))
    if values.dtype.kind == "f":
        return np.asarray(values.filled(np.nan))
    return np.asarray(np.ma.filled(values, "" if values.dtype.kind in "US" else 0))
