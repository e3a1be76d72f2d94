"""Instrument signature removal on arrays: the overscan of each row, and one pass over the pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled

EDGE_COLUMNS = 5
"""Overscan columns that are left out at either side: charge of the last pixel trails into the first."""
CLIP = 4.0
MAX_SATURATED = 0.1
MAX_NOISE = 100.0
"""ADU; what is noisier has lost its amplifier: working ones have a few."""
MIN_FLAT = 0.05
"""Where the flat is lower, dividing by it says nothing about the sky."""
AGREEMENT = 1.25
"""Means over more rows are taken as long as they agree with those over fewer, in standard errors."""
LONGEST = 512
"""Most rows on either side that are averaged."""
LOWEST_VARIANCE = 0.5
"""No pixel's variance is below this part of the read noise squared, however far below zero its signal is."""


class Levels(NamedTuple):
    """The overscan of one amplifier."""

    rows: NDArray[np.float32]
    """Smoothed level of each row, ADU."""

    noise: float
    """Standard deviation of a pixel within its row, ADU."""

    slope: float
    """Of a straight line through the levels, from the first row to the last, ADU."""

    smoothing: float
    """Rows that are averaged, median over the rows."""

    problem: str
    """Why the levels mean nothing; empty if they do."""


def measure_overscan(pixels: NDArray[np.integer], saturation: float) -> Levels:
    """Measure the level of every row and the noise.

    The level of a row is the mean of its columns, without those that are 4 sigma from their median. It is
    then averaged with its neighbours, with as many as agree within the noise (see `smooth`).

    Parameters
    ----------
    pixels : `numpy.ndarray`, (height, width)
        Overscan columns, ADU.
    saturation : `float`
        ADU.

    Returns
    -------
    levels : `Levels`
    """
    height, width = pixels.shape
    nothing = np.zeros(height, np.float32)
    edge = min(EDGE_COLUMNS, width // 8)
    kept = np.sort(pixels[:, edge : width - edge], axis=1)
    n = kept.shape[1]
    if n < 4 or height < 2:
        return Levels(nothing, 0.0, 0.0, 1.0, f"its overscan has {height} x {n} usable pixels, too few")
    if np.count_nonzero(kept >= saturation) > MAX_SATURATED * kept.size:
        return Levels(nothing, 0.0, 0.0, 1.0, "its overscan is saturated")
    values = kept.astype(np.float32)
    middle = 0.5 * (values[:, (n - 1) // 2] + values[:, n // 2])
    width_of_row = values[:, n - 1 - n // 4] - values[:, n // 4]
    rough = max(0.5, float(np.mean(np.sort(width_of_row)[: -(height // 10) or None])) / 1.35)
    deviation = values - middle[:, None]
    used = np.abs(deviation) <= CLIP * rough
    number = used.sum(axis=1)
    mean = np.where(used, deviation, 0).sum(axis=1) / np.maximum(number, 1)
    squares = np.where(used, (deviation - mean[:, None]) ** 2, 0).sum(axis=1)
    good = number >= max(2, (3 * n) // 4)
    if np.count_nonzero(good) < height // 2:
        return Levels(nothing, 0.0, 0.0, 1.0, "its overscan differs within most rows")
    noise = float(np.sqrt(squares[good].sum() / (number[good] - 1).sum()))
    if noise > MAX_NOISE:
        return Levels(nothing, noise, 0.0, 1.0, f"its overscan differs by {noise:.0f} ADU within rows")
    if noise == 0.0:
        return Levels(nothing, 0.0, 0.0, 1.0, "its overscan is constant")
    y = np.arange(height)
    raw = np.interp(y, y[good], (middle + mean)[good].astype(np.float64))
    error = noise / np.sqrt(np.where(good, np.maximum(number, 1), 1))
    rows, averaged = smooth(raw, error)
    slope = float(np.polyfit(y, raw, 1)[0] * (height - 1))
    return Levels(rows.astype(np.float32), noise, slope, float(np.median(averaged)), "")


def smooth(
    values: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average a sequence over as many neighbours as agree within the noise.

    Around each value, and on either side of it, windows that double their reach up to 512 are averaged as
    long as the mean agrees with those of all smaller windows (the intervals of confidence intersect). The
    window around the value is taken, or the two sides together where they reach farther: so a flat stretch or
    an even slope is averaged over many rows, a quick drift over few, and nothing across a jump.

    Parameters
    ----------
    values, error : `numpy.ndarray`, (n,)
        The sequence, and the standard deviation of each value.

    Returns
    -------
    smoothed, number : `numpy.ndarray`, (n,)
        The averages, and over how many values each was taken.
    """
    mean, weight, number = _averages(values, error, 1, 1)
    behind, weight_behind, number_behind = _averages(values, error, 1, 0)
    ahead, weight_ahead, number_ahead = _averages(values, error, 0, 1)
    own = 1.0 / error**2
    # Both sides hold the value itself: it counts once.
    total = weight_behind + weight_ahead - own
    sides = (behind * weight_behind + ahead * weight_ahead - values * own) / total
    farther = total > weight
    return np.where(farther, sides, mean), np.where(farther, number_behind + number_ahead - 1, number)


def _averages(
    values: NDArray[np.float64], error: NDArray[np.float64], behind: int, ahead: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean, weight and number of the windows that reach behind or ahead or, evenly, both."""
    n = values.size
    weight = 1.0 / error**2
    sums = np.concatenate([[0.0], np.cumsum(weight * (values - values[0]))])
    weights = np.concatenate([[0.0], np.cumsum(weight)])
    y = np.arange(n)
    low, high = np.full(n, -np.inf), np.full(n, np.inf)
    mean, total, number = values.copy(), weight.copy(), np.ones(n)
    agrees = np.ones(n, dtype=bool)
    reach = 0
    while reach <= LONGEST:
        first, last = y - behind * reach, y + ahead * reach + 1
        if behind and ahead:
            agrees &= (first >= 0) & (last <= n)
        first, last = np.maximum(first, 0), np.minimum(last, n)
        w = weights[last] - weights[first]
        m = (sums[last] - sums[first]) / w + values[0]
        low, high = np.maximum(low, m - AGREEMENT / np.sqrt(w)), np.minimum(high, m + AGREEMENT / np.sqrt(w))
        agrees &= low <= high
        mean, total = np.where(agrees, m, mean), np.where(agrees, w, total)
        number = np.where(agrees, last - first, number)
        reach = max(1, 2 * reach)
    return mean, total, number


@compiled
def correct_amplifier(
    pixels: NDArray[np.uint16],
    corner: tuple[int, int],
    shape: tuple[int, int],
    levels: NDArray[np.float32],
    other_corner: tuple[int, int],
    other_levels: NDArray[np.float32],
    share: tuple[float, float, float, float, float],
    gain: float,
    read_noise: float,
    saturation: float,
    bias: NDArray[np.float32],
    bias_variance: NDArray[np.float32],
    flat: NDArray[np.float32],
    defects: NDArray[np.bool_],
    bad_bit: int,
    saturated_bit: int,
    target: tuple[int, int],
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    bits: NDArray[np.int32],
) -> int:
    """Fill one amplifier's part of image, variance and mask bits; return how many pixels are saturated.

    Parameters
    ----------
    pixels
        The whole raw array, ADU.
    corner, shape
        First (y, x) of the amplifier's data in it, and their size.
    levels, other_levels
        Overscan level per row, ADU, of this amplifier and of the other one.
    other_corner
        First (y, x) of the other amplifier's data. The two are read at the same time from opposite sides, so
        that a pixel's crosstalk comes from its mirror image.
    share
        What of the other's signal arrives here, ADU: a part of it, an onset, and beyond that three
        coefficients of a polynomial of the excess.
    gain, read_noise, saturation
        e-/ADU, e-, ADU.
    bias, bias_variance, flat, defects
        Of the assembled CCD (ADU, ADU², 1, bool); an array without rows means none.
    bad_bit, saturated_bit
        Mask values.
    target
        First (y, x) on the assembled CCD.
    image, variance, bits
        Of the assembled CCD (e-, e-², bits), overwritten in the amplifier's part.
    """
    height, width = shape
    read = read_noise * read_noise
    line = np.empty(width, np.float32)
    n_saturated = 0
    x0, x1 = target[1], target[1] + width
    for y in range(height):
        row = target[0] + y
        source = pixels[corner[0] + y, corner[1] : corner[1] + width]
        other = pixels[other_corner[0] + y, other_corner[1] : other_corner[1] + width]
        light, noise, flags = image[row, x0:x1], variance[row, x0:x1], bits[row, x0:x1]
        n_saturated += _open_row(source, levels[y], saturation, saturated_bit, line, flags)
        if share[0] != 0.0:
            _subtract_crosstalk(other, other_levels[y], share, line)
        if bias.shape[0] > 0:
            _subtract_bias(bias[row, x0:x1], bad_bit, line, flags)
        _to_electrons(line, gain, read, light, noise)
        if bias_variance.shape[0] > 0:
            _add_variance(bias_variance[row, x0:x1], gain * gain, bad_bit, noise, flags)
        if flat.shape[0] > 0:
            _divide(flat[row, x0:x1], bad_bit, light, noise, flags)
        if defects.shape[0] > 0:
            _mark(defects[row, x0:x1], bad_bit, flags)
    return n_saturated


@compiled
def _open_row(
    source: NDArray[np.uint16],
    level: float,
    saturation: float,
    saturated_bit: int,
    line: NDArray[np.float32],
    flags: NDArray[np.int32],
) -> int:
    """Subtract the overscan from a row and flag what is full; return how many pixels are."""
    offset, full, bit, none = np.float32(level), np.float32(saturation), np.int32(saturated_bit), np.int32(0)
    number = 0
    for x in range(line.size):
        value = np.float32(source[x])
        line[x] = value - offset
        flags[x] = bit if value >= full else none
        number += int(value >= full)
    return number


@compiled
def _subtract_crosstalk(
    other: NDArray[np.uint16],
    level: float,
    share: tuple[float, float, float, float, float],
    line: NDArray[np.float32],
) -> None:
    """Subtract what comes from the mirrored pixels of the other amplifier."""
    part, offset, last = np.float32(share[0]), np.float32(level), line.size - 1
    for x in range(line.size):
        line[x] -= part * (np.float32(other[np.uintp(last - x)]) - offset)
    if not _brightest(other) - level > share[1]:
        return
    for x in range(line.size):
        signal = np.float32(other[np.uintp(last - x)]) - offset
        if signal > share[1]:
            line[x] += np.float32(part * signal - leaked(float(signal), share))


@compiled
def leaked(signal: float, share: tuple[float, float, float, float, float]) -> float:
    """Return what arrives of a signal, ADU; see `correct_amplifier`."""
    excess = signal - share[1]
    if not excess > 0.0:
        return share[0] * signal
    return share[0] * share[1] + excess * (share[2] + excess * (share[3] + excess * share[4]))


@compiled
def _brightest(line: NDArray[np.uint16]) -> int:
    most = np.uint16(0)
    for x in range(line.size):
        most = max(most, line[x])
    return int(most)


@compiled
def subtract_ghosts(
    pixels: NDArray[np.uint16],
    corner: tuple[int, int],
    shape: tuple[int, int],
    levels: NDArray[np.float32],
    mirrored: bool,
    share: tuple[float, float, float, float, float],
    least: float,
    gain: float,
    read_noise: float,
    flat: NDArray[np.float32],
    target: tuple[int, int],
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
) -> int:
    """Subtract from one amplifier what it gets of an amplifier of another CCD; return from how many pixels.

    Parameters
    ----------
    pixels
        The whole raw array of the other CCD, ADU.
    corner, shape
        First (y, x) of the source's data in it, and their size, which is that of the victim's.
    levels
        Overscan level per row of the source, ADU.
    mirrored
        Whether the two are read from opposite sides.
    share
        See `correct_amplifier`.
    least
        ADU; what arrives of a pixel that is less is left where it is.
    gain, read_noise
        Of the victim, e-/ADU and e-.
    flat
        By which the victim has been divided; an array without rows means none.
    target
        First (y, x) of the victim on its assembled CCD.
    image, variance
        Of that CCD, e- and e-², changed in place.
    """
    height, width = shape
    lowest = LOWEST_VARIANCE * read_noise * read_noise
    faintest = min(least / abs(share[0]), share[1])
    number = 0
    for y in range(height):
        line = pixels[corner[0] + y, corner[1] : corner[1] + width]
        if _brightest(line) - levels[y] < faintest:
            continue
        for x in range(width):
            ghost = leaked(float(line[x]) - levels[y], share)
            if abs(ghost) < least:
                continue
            row, column = target[0] + y, target[1] + (width - 1 - x if mirrored else x)
            factor = 1.0
            if flat.shape[0] > 0 and MIN_FLAT < flat[row, column] < np.inf:
                factor = 1.0 / flat[row, column]
            image[row, column] -= gain * ghost * factor
            left = variance[row, column] - gain * ghost * factor * factor
            variance[row, column] = max(left, lowest * factor * factor)
            number += 1
    return number


@compiled
def _subtract_bias(
    bias: NDArray[np.float32], bad_bit: int, line: NDArray[np.float32], flags: NDArray[np.int32]
) -> None:
    """Subtract the bias where it is a number."""
    bit, none, nothing, largest = np.int32(bad_bit), np.int32(0), np.float32(0.0), np.float32(np.inf)
    for x in range(line.size):
        usable = (bias[x] > -largest) & (bias[x] < largest)
        line[x] -= bias[x] if usable else nothing
        flags[x] |= none if usable else bit


@compiled
def _to_electrons(
    line: NDArray[np.float32],
    gain: float,
    read_variance: float,
    light: NDArray[np.float32],
    noise: NDArray[np.float32],
) -> None:
    """Apply the gain; the variance is that of the signal and of the read noise."""
    factor, read = np.float32(gain), np.float32(read_variance)
    lowest = np.float32((LOWEST_VARIANCE - 1.0) * read_variance)
    for x in range(line.size):
        signal = factor * line[x]
        light[x] = signal
        noise[x] = read + (signal if signal > lowest else lowest)


@compiled
def _add_variance(
    uncertainty: NDArray[np.float32],
    factor: float,
    bad_bit: int,
    noise: NDArray[np.float32],
    flags: NDArray[np.int32],
) -> None:
    """Add the bias's own variance where it is a number."""
    scale, bit, none, nothing = np.float32(factor), np.int32(bad_bit), np.int32(0), np.float32(0.0)
    for x in range(noise.size):
        usable = (uncertainty[x] >= 0.0) & (uncertainty[x] < np.inf)
        noise[x] += scale * uncertainty[x] if usable else nothing
        flags[x] |= none if usable else bit


@compiled
def _divide(
    flat: NDArray[np.float32],
    bad_bit: int,
    light: NDArray[np.float32],
    noise: NDArray[np.float32],
    flags: NDArray[np.int32],
) -> None:
    """Divide by the flat where that says something."""
    least, largest, one = np.float32(MIN_FLAT), np.float32(np.inf), np.float32(1.0)
    bit, none = np.int32(bad_bit), np.int32(0)
    for x in range(light.size):
        usable = (flat[x] > least) & (flat[x] < largest)
        factor = one / (flat[x] if usable else one)
        light[x] *= factor
        noise[x] *= factor * factor
        flags[x] |= none if usable else bit


@compiled
def _mark(known: NDArray[np.bool_], bit: int, flags: NDArray[np.int32]) -> None:
    """Set a bit where something is known."""
    value, none = np.int32(bit), np.int32(0)
    for x in range(flags.size):
        flags[x] |= value if known[x] else none
