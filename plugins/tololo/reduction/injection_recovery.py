"""Which of the injected sources are found again, and how well they are measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

EDGES = (2.0, 3.0, 5.0, 7.0, 10.0, 20.0, 50.0, 100.0, 1000.0)
"""Signal to noise at which the bins of `recovery` meet."""

RADIUS = 2.0
"""Pixels within which a measured source is the injected one."""


def matched(truth: Table, sources: Table, radius: float = RADIUS) -> NDArray[np.int64]:
    """Find injected sources among measured ones: those that are each other's nearest.

    Parameters
    ----------
    truth : `astropy.table.Table`
        ``injected_source`` of a detector.
    sources : `astropy.table.Table`
        What was measured on it, with ``x`` and ``y``.
    radius : `float`, optional
        Pixels.

    Returns
    -------
    rows : `numpy.ndarray`, (len(truth),), int64
        In ``sources``; -1 where there is none.
    """
    rows = np.full(len(truth), -1, np.int64)
    if not (len(truth) and len(sources)):
        return rows
    injected = np.column_stack([truth["x"], truth["y"]])
    measured = np.column_stack([sources["x"], sources["y"]])
    distance, nearest = cKDTree(measured).query(injected)
    _, back = cKDTree(injected).query(measured)
    own = (distance < radius) & (back[nearest] == np.arange(len(truth)))
    rows[own] = nearest[own]
    return rows


def recovery(
    truth: Table,
    sources: Table,
    *,
    flux: str = "psfFlux",
    edges: Sequence[float] = EDGES,
    radius: float = RADIUS,
) -> Table:
    """Return completeness and flux of the injected sources by signal to noise.

    Parameters
    ----------
    truth : `astropy.table.Table`
        ``injected_source`` of a detector. Sources beside it, on bad pixels or saturated do not count.
    sources : `astropy.table.Table`
        What was measured on it: ``single_visit_star``, or ``dia_source_unfiltered`` of the difference image.
    flux : `str`, optional
        Column of the measured flux, nJy.
    edges : sequence of `float`, optional
        Of the bins in ``snr``.
    radius : `float`, optional
        As in `matched`.

    Returns
    -------
    bins : `astropy.table.Table`
        ``snr_from, snr_to, injected, recovered, fraction`` (NaN of none), ``flux_ratio`` (median of measured
        over injected flux) and ``flux_ratio_error`` (of the median).
    """
    usable = np.asarray(truth["inside"] & ~truth["masked"] & ~truth["saturated"], dtype=bool)
    rows = matched(truth, sources, radius)
    ratio = np.full(len(truth), np.nan)
    found = rows >= 0
    ratio[found] = np.asarray(sources[flux])[rows[found]] / np.asarray(truth["flux"])[found]
    bins = []
    for low, high in pairwise(edges):
        inside = usable & np.asarray((truth["snr"] >= low) & (truth["snr"] < high))
        ratios = ratio[inside & found & np.isfinite(ratio)]
        injected, recovered = int(inside.sum()), int((inside & found).sum())
        middle = float(np.median(ratios)) if len(ratios) else np.nan
        spread = 1.4826 * float(np.median(np.abs(ratios - middle))) if len(ratios) else np.nan
        bins.append(
            {
                "snr_from": float(low),
                "snr_to": float(high),
                "injected": injected,
                "recovered": recovered,
                "fraction": recovered / injected if injected else np.nan,
                "flux_ratio": middle,
                # The median's error is 1.25 times that of the mean of normal values.
                "flux_ratio_error": 1.2533 * spread / np.sqrt(max(1, len(ratios))),
            }
        )
    return Table(rows=bins)
