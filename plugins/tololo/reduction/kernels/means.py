"""The weighted mean of aligned inputs, a piece of a row of one input at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled


class Means(NamedTuple):
    """Where a mean goes, and what it is made of beside images and variances."""

    bits: NDArray[Any]
    """Mask of each input, (n, ny, nx)."""

    weights: NDArray[np.float64]
    """Of each input, (n,)."""

    image: NDArray[np.float32]
    """Is filled with the mean; NaN where no input is usable."""

    variance: NDArray[np.float32]
    """Is filled with its variance."""

    n_used: NDArray[np.int16]
    """Is filled with the number of usable inputs."""

    mask: NDArray[Any]
    """Is filled with the bits of the usable inputs."""


@compiled
def add(
    own: NDArray[np.float32],
    source: NDArray[np.float32],
    found: NDArray[Any],
    w: np.float32,
    sums: NDArray[np.float32],
    flags: NDArray[Any],
) -> None:
    """Add the usable values of one input.

    Short loops, each over few arrays, are what the compiler turns into vector instructions.

    Parameters
    ----------
    own, source : `numpy.ndarray`, (pixels,)
        Values and variances.
    found : `numpy.ndarray`, (pixels,)
        Mask bits.
    w : `numpy.float32`
        Weight.
    sums : `numpy.ndarray`, (4, pixels or more)
        Of w times values, w^2 times variances, w, and ones; zero at first.
    flags : `numpy.ndarray`, (pixels,)
        Bits of all; zero at first.
    """
    total, spread, weight, number = sums[0], sums[1], sums[2], sums[3]
    zero, one = np.float32(0.0), np.float32(1.0)
    for x in range(own.size):
        usable = (own[x] - own[x]) + (source[x] - source[x]) == zero  # no NaN, no infinity
        total[x] += w * own[x] if usable else zero
        spread[x] += w * w * source[x] if usable else zero
    for x in range(own.size):
        usable = (own[x] - own[x]) + (source[x] - source[x]) == zero
        weight[x] += w if usable else zero
        number[x] += one if usable else zero
    for x in range(own.size):
        usable = (own[x] - own[x]) + (source[x] - source[x]) == zero
        flags[x] |= found[x] if usable else 0


@compiled
def divide(
    sums: NDArray[np.float32],
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    n_used: NDArray[np.int16],
) -> None:
    """Make the mean of the sums of `add`; without any input it is 0 / 0: not a number."""
    for x in range(image.size):
        image[x] = sums[0, x] / sums[2, x]
        variance[x] = sums[1, x] / (sums[2, x] * sums[2, x])
        n_used[x] = sums[3, x]
