"""Scales of frames from an ensemble of stars that do not vary: relative photometry of a whole series at once.

Every star has a mean magnitude and every frame an offset; both are found together by weighted least squares
(Honeycutt 1992, PASP 104, 435), with what varies and what is out of line weighed down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tololo.facility.errors import NothingToDoError

Floats = NDArray[np.float64]

MAX_ERROR = 0.1
"""Mag; what is measured worse tells nothing of a frame."""

FLOOR = 0.001
"""Mag; no measurement is believed to be better."""

HUBER = 2.5
"""Standard deviations beyond which a measurement is weighed down."""

ROUNDS = 30
CONVERGED = 1e-6


@dataclass(frozen=True)
class Ensemble:
    """What the stars say of the frames.

    Attributes
    ----------
    offset, offset_error : `numpy.ndarray`, (n_frames,)
        Mag to be taken off the magnitudes of a frame, 0 for the clearest frames in the weighted mean of all;
        NaN where too few stars tell it.
    mean : `numpy.ndarray`, (n_stars,)
        Mean magnitude of each star on the common scale; NaN where it was never measured.
    excess : `numpy.ndarray`, (n_stars,)
        Scatter of each star beyond its errors, mag.
    frame_excess : `numpy.ndarray`, (n_frames,)
        Scatter of the stars of a frame beyond their errors, mag: patchy clouds, a bad flat.
    n_stars : `numpy.ndarray`, (n_frames,)
        How many stars told the offset.
    """

    offset: Floats
    offset_error: Floats
    mean: Floats
    excess: Floats
    frame_excess: Floats
    n_stars: NDArray[np.int64]


def solve_ensemble(
    magnitude: Floats, error: Floats, constant: NDArray[np.bool_], *, min_stars: int = 3
) -> Ensemble:
    """Find the offsets of frames and the mean magnitudes of stars.

    Parameters
    ----------
    magnitude, error : `numpy.ndarray`, (n_frames, n_stars)
        Instrumental magnitudes and their errors; NaN where a star is not measured.
    constant : `numpy.ndarray`, (n_stars,), bool
        Stars that may tell the offsets: not the target, no known variable.
    min_stars : `int`, optional
        A frame with fewer of them gets no offset.

    Returns
    -------
    ensemble : `Ensemble`
        The order of frames and stars does not matter. Frames that share no star with most others have no
        offset: nothing ties them to the common scale.

    Raises
    ------
    NothingToDoError
        No frame has enough stars.
    """
    usable = np.isfinite(magnitude) & np.isfinite(error) & (error < MAX_ERROR) & constant
    usable &= _joined(usable, min_stars)
    if not usable.any():
        raise NothingToDoError(
            f"No frame has {min_stars} constant stars that are measured well",
            "ensemble of the dataset",
            "look at the frames that were set aside, and at the aperture",
        )
    variance = np.where(usable, np.maximum(error, FLOOR) ** 2, 1.0)
    value = np.where(usable, magnitude, 0.0)
    excess, frame_excess = np.zeros(magnitude.shape[1]), np.zeros(magnitude.shape[0])
    trust = usable.astype(float)
    offset = np.zeros(magnitude.shape[0])
    for _ in range(ROUNDS):
        weight = trust / (variance + excess**2 + frame_excess[:, None] ** 2)
        before = offset
        offset, mean = _least_squares(value, weight)
        residual = np.where(usable, value - offset[:, None] - mean, 0.0)
        sigma = np.sqrt(variance + excess**2 + frame_excess[:, None] ** 2)
        pull = np.abs(residual) / sigma
        trust = np.where(usable, np.minimum(1.0, HUBER / np.maximum(pull, HUBER)), 0.0)
        excess = _excess(residual, variance + frame_excess[:, None] ** 2, usable)
        frame_excess = _excess(residual.T, (variance + excess**2).T, usable.T)
        if np.abs(offset - before).max() < CONVERGED:
            break
    weight = trust / (variance + excess**2 + frame_excess[:, None] ** 2)
    total = weight.sum(axis=1)
    told = total > 0
    offset = offset - np.average(offset[told], weights=total[told])
    offset[~told] = np.nan
    with np.errstate(divide="ignore"):
        offset_error = np.where(told, 1.0 / np.sqrt(total), np.nan)
    level = magnitude - offset[:, None]
    mean = _means(level, error)
    seen = np.isfinite(level) & np.isfinite(error)
    return Ensemble(
        offset,
        offset_error,
        mean=mean,
        excess=_excess(level - mean, error**2 + offset_error[:, None] ** 2, seen),
        frame_excess=frame_excess,
        n_stars=usable.sum(axis=1),
    )


def _joined(usable: NDArray[np.bool_], min_stars: int) -> NDArray[np.bool_]:
    """Tell which measurements belong to frames that hang together through common stars; the largest group."""
    usable = usable & (usable.sum(axis=1) >= min_stars)[:, None]
    n_frames, n_stars = usable.shape
    frame, star = np.nonzero(usable)
    links = coo_matrix((np.ones(len(frame)), (frame, star + n_frames)), shape=(n_frames + n_stars,) * 2)
    _, group = connected_components(links, directed=False)
    largest = np.bincount(group[frame]).argmax() if len(frame) else -1
    return np.asarray(usable & (group[:n_frames] == largest)[:, None])


def _least_squares(value: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Minimise sum w (value - offset_j - mean_i)^2, with the mean offset 0; stars are eliminated first."""
    of_star = weight.sum(axis=0)
    known = of_star > 0
    share = weight[:, known] / of_star[known]
    centred = value[:, known] - (share * value[:, known]).sum(axis=0)
    matrix = np.diag(weight.sum(axis=1)) - weight[:, known] @ share.T
    right = (weight[:, known] * centred).sum(axis=1)
    told = np.diag(matrix) > 0
    told &= weight.sum(axis=1) > 0
    # The offsets are free by a constant: a row that asks for a sum of 0 takes that freedom away.
    inner = matrix[np.ix_(told, told)]
    inner = inner + np.trace(inner) / max(1, len(inner)) ** 2
    offset = np.zeros(len(value))
    offset[told] = np.linalg.solve(inner, right[told])
    mean = np.zeros(value.shape[1])
    mean[known] = (share * (value[:, known] - offset[:, None])).sum(axis=0)
    return offset, mean


def _excess(residual: Floats, variance: Floats, usable: NDArray[np.bool_]) -> Floats:
    """Return the scatter beyond the errors of each column, robustly; 0 of fewer than 5 values.

    What chance alone can make (twice the standard error of the estimate) counts as none.
    """
    count = usable.sum(axis=0)
    pulls = np.where(usable, residual**2 - 0.4549 * variance, np.nan)
    enough = count >= 5
    found = np.zeros(residual.shape[1])
    if enough.any():
        # The median of a squared normal value is 0.4549 of its variance; 2.3 / sqrt(n) of that is its error.
        squares = np.nanmedian(pulls[:, enough], axis=0) / 0.4549
        expected = np.nanmedian(np.where(usable, variance, np.nan)[:, enough], axis=0)
        chance = 2 * 2.3 * expected / np.sqrt(count[enough])
        found[enough] = np.where(squares > chance, np.sqrt(np.maximum(0.0, squares)), 0.0)
    return found


def _means(magnitude: Floats, error: Floats) -> Floats:
    """Return the weighted mean of each column, outliers weighed down; NaN of none."""
    good = np.isfinite(magnitude) & np.isfinite(error)
    sigma = np.maximum(np.where(good, error, 1.0), FLOOR)
    value = np.where(good, magnitude, np.nan)
    known = good.any(axis=0)
    mean = np.full(magnitude.shape[1], math.nan)
    mean[known] = np.nanmedian(value[:, known], axis=0)
    scale = np.maximum(sigma, 1.4826 * _median(np.abs(value - mean), known))
    for _ in range(5):
        pull = np.abs(np.where(good, value - mean, 0.0)) / scale
        weight = np.where(good, np.minimum(1.0, HUBER / np.maximum(pull, HUBER)) / sigma**2, 0.0)
        mean[known] = (
            (weight * np.where(good, magnitude, 0.0)).sum(axis=0) / weight.sum(axis=0).clip(1e-300)
        )[known]
    return mean


def _median(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Return the median of each column that has values, 0 of the others."""
    found = np.zeros(values.shape[1])
    found[known] = np.nanmedian(values[:, known], axis=0)
    return found
