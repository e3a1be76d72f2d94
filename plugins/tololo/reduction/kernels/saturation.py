"""Saturated pixels: the charge that bleeds from them along their columns, and their rims."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled

MIN_RUN = 3
"""Saturated pixels above one another from which a trail can bleed, if they are more than those beside."""
EXCESS = 2.0
"""A trail goes on as long as its column is this many sigma above the columns at its sides."""
PATIENCE = 3
"""Pixels without an excess after which a trail ends."""
SIDE = 4
"""Distance in pixels of the first of the three columns at each side that a trail is compared with."""


@compiled
def follow(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    bits: NDArray[np.int32],
    saturated_bit: int,
    x: int,
    y: int,
    step: int,
) -> int:
    """Return the last row of the trail that leaves (x, y) upwards (step 1) or downwards (-1)."""
    height, width = image.shape
    last, missed = y, 0
    j = y + step
    while 0 <= j < height and missed < PATIENCE:
        side = np.inf
        for sign in (-1, 1):
            total, number = 0.0, 0
            for k in range(SIDE, SIDE + 3):
                i = x + sign * k
                if 0 <= i < width and bits[j, i] == 0:  # a cold column is no measure of the sky
                    total += image[j, i]
                    number += 1
            if number > 0 and total / number < side:
                side = total / number
        if bits[j, x] & saturated_bit != 0 or image[j, x] - side > EXCESS * math.sqrt(variance[j, x]):
            last, missed = j, 0
        else:
            missed += 1
        j += step
    return last


@compiled
def grow_saturation(
    image: NDArray[np.float32], variance: NDArray[np.float32], bits: NDArray[np.int32], saturated_bit: int
) -> int:
    """Mask what bleeds from saturated pixels, and one pixel around; return how many there are before that.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, (height, width)
        Any unit, with columns along y: charge bleeds along them.
    bits : `numpy.ndarray`, (height, width), int32
        Mask; ``saturated_bit`` is set where the raw value says so, and is added to in place. Pixels with any
        bit are not compared with.
    saturated_bit : `int`
        Value of the mask plane.
    """
    height, width = image.shape
    for index in flagged(bits, saturated_bit):
        y, x = index // width, index % width
        if y > 0 and bits[y - 1, x] & saturated_bit != 0:
            continue  # not the lowest of its run
        end = y
        while end + 1 < height and bits[end + 1, x] & saturated_bit != 0:
            end += 1
        if end - y + 1 < max(MIN_RUN, _breadth(bits, saturated_bit, x, (y + end) // 2) + 2):
            continue
        bottom = follow(image, variance, bits, saturated_bit, x, y, -1)
        top = follow(image, variance, bits, saturated_bit, x, end, 1)
        for j in range(bottom, top + 1):
            bits[j, x] |= saturated_bit
    pixels = flagged(bits, saturated_bit)
    for index in pixels:
        y, x = index // width, index % width
        for j in range(max(0, y - 1), min(height, y + 2)):
            for i in range(max(0, x - 1), min(width, x + 2)):
                bits[j, i] |= saturated_bit
    return pixels.size


@compiled
def flagged(bits: NDArray[np.int32], bit: int) -> NDArray[np.int64]:
    """Return the flat indices of the pixels that have a bit."""
    height, width = bits.shape
    found = np.empty(1024, np.int64)
    number = 0
    for y in range(height):
        row = bits[y]
        union = np.int32(0)
        for x in range(width):
            union |= row[x]
        if union & bit == 0:
            continue
        if number + width > found.size:
            longer = np.empty(2 * (number + width), np.int64)
            longer[:number] = found[:number]
            found = longer
        for x in range(width):
            if row[x] & bit != 0:
                found[number] = y * width + x
                number += 1
    return found[:number]


@compiled
def _breadth(bits: NDArray[np.int32], bit: int, x: int, y: int) -> int:
    """Return how many pixels beside one another have a bit."""
    first, last = x, x
    while first > 0 and bits[y, first - 1] & bit != 0:
        first -= 1
    while last + 1 < bits.shape[1] and bits[y, last + 1] & bit != 0:
        last += 1
    return last - first + 1
