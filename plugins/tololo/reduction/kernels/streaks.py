"""Trails of satellites and aeroplanes: straight streaks that cross a CCD.

Blocks that are brighter than the sky around them vote for the lines that run through them (Hough, U.S. patent
3,069,654, 1962). A line that has more votes than chance gives it is looked at on the pixels themselves: the
median across it, taken in pieces along it, knows nothing of the stars on its way, and says whether something
narrow goes on from piece to piece, where exactly, how wide, and from where to where.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tololo.reduction.formats.masks import BIT
from tololo.reduction.kernels.blocks import block_medians
from tololo.reduction.kernels.compiled import compiled

BLOCK = 8
"""Side of the blocks, pixels."""
AROUND = 16
"""Blocks on a side over which the sky is taken."""
LIT = 4.0
"""Standard deviations above the sky of a block that votes."""
MOST_VOTERS = 12_000
ANGLES = 720
CHANCE = 6.0
"""A line is looked at if it has so many standard deviations more votes than chance gives it."""
MOST_LOOKS = 12
SHORTEST = 400.0
"""Pixels; shorter streaks are left to the search for cosmic rays and to the template."""
PIECE = 64
"""Length of the pieces in which a line is looked at, pixels."""
REACH, FAR = 40, 26
"""Pixels to either side of a line that are looked at, and beyond which they are sky."""
NARROW = 14
"""Pixels; a line whose middle is farther from where it was expected is another one."""
CLEAR = 4.0
"""Standard deviations of its median by which a piece is above the sky at its sides."""
LIT_PIECES = 0.7
"""Part of the pieces between a streak's ends that must be clear."""
EDGE = 0.4
"""Noises of a pixel above which the profile still belongs to the streak."""
MARGIN = 1.5
"""Pixels that are masked beyond that."""


@dataclass(frozen=True)
class Streak:
    """A straight streak.

    Attributes
    ----------
    start, end : `tuple` [`float`, `float`]
        (x, y) of its ends, zero-based pixels.
    half_width : `float`
        Distance from the line up to which pixels are masked.
    peak : `float`
        Brightness in the middle, the unit of the image.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    half_width: float
    peak: float


@dataclass(frozen=True)
class _Line:
    """A line through (x, y) in the direction (u, v), in pixels."""

    x: float
    y: float
    u: float
    v: float

    def moved(self, offset: float, slope: float) -> _Line:
        """Shift to the left of its direction, and turn to the left."""
        turned = math.hypot(1.0, slope)
        u, v = (self.u - slope * self.v) / turned, (self.v + slope * self.u) / turned
        return _Line(self.x - offset * self.v, self.y + offset * self.u, u, v)

    def inside(self, shape: tuple[int, int]) -> tuple[float, float]:
        """Return from where to where it is on an image; an empty range if nowhere."""
        low, high = -math.inf, math.inf
        for place, step, size in ((self.x, self.u, shape[1]), (self.y, self.v, shape[0])):
            if abs(step) < 1e-9:
                if not -0.5 <= place <= size - 0.5:
                    return 0.0, 0.0
                continue
            ends = sorted(((-0.5 - place) / step, (size - 0.5 - place) / step))
            low, high = max(low, ends[0]), min(high, ends[1])
        return (low, high) if high > low else (0.0, 0.0)

    def at(self, t: float) -> tuple[float, float]:
        return self.x + t * self.u, self.y + t * self.v


def find_streaks(
    image: NDArray[np.float32], variance: NDArray[np.float32], bits: NDArray[np.int32], most: int = 8
) -> list[Streak]:
    """Find straight streaks and mask them as STREAK.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, (ny, nx)
        Any unit, sky included.
    bits : `numpy.ndarray`, (ny, nx), int32
        Mask; pixels with any bit are not looked at. Changed in place.
    most : `int`, optional
        Where there are more, something else is wrong, and only so many are masked.

    Returns
    -------
    streaks : `list` [`Streak`]
        The strongest first.
    """
    lit = _lit_blocks(image, bits)
    noise = float(np.sqrt(np.median(variance[::37, ::11])))
    votes = np.zeros((ANGLES, 2 * _half(lit.shape) + 1), np.int32)
    voters = np.argwhere(lit).astype(np.int32)
    _vote(voters, lit.shape, votes)
    expected = _lengths(lit.shape, votes.shape) * (len(voters) / lit.size)
    found: list[Streak] = []
    for _ in range(MOST_LOOKS):
        excess = np.where(
            expected * lit.size >= SHORTEST / BLOCK * max(len(voters), 1),
            (votes - expected) / np.sqrt(expected + 4.0),
            -np.inf,
        )
        best = int(np.argmax(excess))
        if excess.flat[best] < CHANCE or len(found) == most:
            break
        line = _line_of(best // votes.shape[1], best % votes.shape[1], lit.shape)
        streak = _look_at(image, bits, line, noise)
        if streak is not None:
            _mask(bits, streak, BIT["STREAK"])
            found.append(streak)
        voters = voters[_far_from(voters, line)]
        votes[:] = 0
        _vote(voters, lit.shape, votes)
    return found


def _lit_blocks(image: NDArray[np.float32], bits: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Tell which blocks are brighter than the sky around them."""
    means = np.empty((image.shape[0] // BLOCK, image.shape[1] // BLOCK), np.float32)
    _block_means(image, bits, means)
    sky = block_medians(means, AROUND)
    known = np.isfinite(sky)
    if not known.any():
        return np.zeros(means.shape, np.bool_)
    if not known.all():
        sky = sky[tuple(ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True))]
    whole = np.repeat(np.repeat(sky, AROUND, axis=0), AROUND, axis=1)
    above = means - whole[: means.shape[0], : means.shape[1]]
    finite = above[np.isfinite(above)]
    # Stars are on the bright side: the other side shows the noise.
    dark = finite[finite < 0]
    sigma = 1.4826 * float(np.median(-dark)) if dark.size else 0.0
    if sigma == 0.0:
        return np.zeros(means.shape, np.bool_)
    level = LIT * sigma
    if np.count_nonzero(finite > level) > MOST_VOTERS:
        level = float(np.partition(finite, finite.size - MOST_VOTERS)[finite.size - MOST_VOTERS])
    with np.errstate(invalid="ignore"):
        return np.asarray(above > level)


def _half(shape: tuple[int, int]) -> int:
    return math.ceil(math.hypot(*shape) / 2) + 1


def _line_of(angle: int, distance: int, shape: tuple[int, int]) -> _Line:
    """Return the line of a cell of the votes, in pixels."""
    theta, rho = math.pi * angle / ANGLES, distance - _half(shape)
    x = (shape[1] - 1) / 2 + rho * math.cos(theta)
    y = (shape[0] - 1) / 2 + rho * math.sin(theta)
    middle = (BLOCK - 1) / 2
    return _Line(BLOCK * x + middle, BLOCK * y + middle, -math.sin(theta), math.cos(theta))


@cache
def _lengths(shape: tuple[int, int], cells: tuple[int, int]) -> NDArray[np.float64]:
    """Return how long the line of each cell is on an image, in blocks."""
    theta = np.pi * np.arange(cells[0])[:, None] / ANGLES
    rho = np.arange(cells[1])[None, :] - _half(shape)
    low, high = np.full(cells, -np.inf), np.full(cells, np.inf)
    for start, step, size in (
        (rho * np.cos(theta), -np.sin(theta), shape[1]),
        (rho * np.sin(theta), np.cos(theta), shape[0]),
    ):
        slope = np.where(np.abs(step) < 1e-9, 1e-9, step)
        one, other = (-size / 2 - start) / slope, (size / 2 - start) / slope
        low, high = np.maximum(low, np.minimum(one, other)), np.minimum(high, np.maximum(one, other))
    return np.asarray(np.maximum(high - low, 0.0))


def _far_from(voters: NDArray[np.int32], line: _Line) -> NDArray[np.bool_]:
    """Tell which blocks a line does not run through, nor beside."""
    middle = (BLOCK - 1) / 2
    x, y = BLOCK * voters[:, 1] + middle - line.x, BLOCK * voters[:, 0] + middle - line.y
    return np.asarray(np.abs(y * line.u - x * line.v) > 2 * BLOCK)


def _look_at(image: NDArray[np.float32], bits: NDArray[np.int32], line: _Line, noise: float) -> Streak | None:
    """Look at a line on the pixels; return the streak along it, if there is one."""
    for last in (False, False, False, True):
        low, high = line.inside(image.shape)
        number = int((high - low) / PIECE)
        if number * PIECE < SHORTEST:
            return None
        profiles = np.empty((number, 2 * REACH + 1), np.float32)
        _profiles(image, bits, line.x, line.y, line.u, line.v, low, (high - low) / number, profiles)
        sky = np.maximum(_side(profiles[:, : REACH - FAR]), _side(profiles[:, REACH + FAR + 1 :]))
        excess = profiles - sky[:, None]
        # The standard error of the median of a piece, at one of its pixels in the mean of three.
        error = 1.2533 * noise / math.sqrt(3 * PIECE)
        smooth = ndimage.uniform_filter1d(np.nan_to_num(excess), 3, axis=1)
        inner = np.arange(-NARROW, NARROW + 1) + REACH
        common = np.median(smooth, axis=0)
        at = int(inner[np.argmax(common[inner])])
        around = np.arange(max(0, at - 3), min(2 * REACH, at + 3) + 1)
        height = smooth[:, around].max(axis=1)
        clear = height > CLEAR * error
        first, end = _longest(clear)
        if (end - first) * PIECE < SHORTEST or clear[first:end].mean() < LIT_PIECES:
            return None
        if last:
            break
        used = clear.copy()
        used[:first] = used[end:] = False
        centre = _centres(excess[used], inner[np.argmax(smooth[used][:, inner], axis=1)])
        t = low + (np.flatnonzero(used) + 0.5) * (high - low) / number
        slope, offset = _straight(t, centre)
        line = line.moved(offset, slope)
    profile = np.median(excess[first:end][clear[first:end]], axis=0)
    half = _half_width(profile, at, noise)
    if half is None:
        return None
    step = (high - low) / number
    # A streak that ends between the borders of the CCD may do so anywhere in the next piece.
    begin = low if first <= 1 else low + (first - 1) * step
    finish = high if end >= number - 1 else low + (end + 1) * step
    return Streak(line.at(begin), line.at(finish), half, float(profile[at]))


def _side(profiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the level of one side of a line, piece by piece; NaN where most of it is not to be seen.

    A streak is brighter than both of its sides; an edge, or the border of the CCD, is not.
    """
    seen = np.isfinite(profiles).sum(axis=1)
    level = np.nanmedian(np.where(np.isfinite(profiles), profiles, np.inf), axis=1)
    return np.where(2 * seen > profiles.shape[1], level, np.float32(np.nan)).astype(np.float32)


def _longest(clear: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the longest stretch of pieces in which gaps are no longer than three."""
    places = np.flatnonzero(clear)
    if not places.size:
        return 0, 0
    parts = np.split(places, np.flatnonzero(np.diff(places) > 4) + 1)
    longest = max(parts, key=lambda part: int(part[-1] - part[0]))
    return int(longest[0]), int(longest[-1]) + 1


def _centres(excess: NDArray[np.float32], peaks: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return the centroid around the peak of each piece, pixels to the left of the line."""
    places = peaks[:, None] + np.arange(-4, 5)[None, :]
    weight = np.clip(np.nan_to_num(np.take_along_axis(excess, places, axis=1)), 0, None)
    total = weight.sum(axis=1)
    return np.asarray(
        np.where(total > 0, (weight * places).sum(axis=1) / np.where(total > 0, total, 1), peaks) - REACH
    )


def _straight(t: NDArray[np.float64], centre: NDArray[np.float64]) -> tuple[float, float]:
    """Fit a straight line, without what a star has pulled aside; return its slope and its height at 0."""
    good = np.ones(t.size, np.bool_)
    slope = offset = 0.0
    for _ in range(3):
        slope, offset = map(float, np.polyfit(t[good], centre[good], 1))
        off = np.abs(centre - slope * t - offset)
        good = off <= max(0.5, 3 * float(np.median(off)))
    return slope, offset


def _half_width(profile: NDArray[np.float32], at: int, noise: float) -> float | None:
    """Return how far from a line its streak reaches; `None` if it is not narrow."""
    faint = ~(profile > EDGE * noise)
    left, right = np.flatnonzero(faint[:at]), np.flatnonzero(faint[at + 1 :])
    if not left.size or not right.size:
        return None
    reach = max(REACH - int(left[-1]), at + 1 + int(right[0]) - REACH)
    return reach + MARGIN if reach <= FAR else None


@compiled
def _block_means(image: NDArray[np.float32], bits: NDArray[np.int32], means: NDArray[np.float32]) -> None:
    """Average the clean pixels of each block; NaN where less than half of them are."""
    rows, columns = means.shape
    total, number = np.empty(columns * BLOCK, np.float32), np.empty(columns * BLOCK, np.int32)
    for i in range(rows):
        total[:] = 0
        number[:] = 0
        for y in range(BLOCK * i, BLOCK * (i + 1)):
            line, flags = image[y], bits[y]
            for x in range(columns * BLOCK):
                clean = flags[x] == 0
                total[x] += line[x] if clean else np.float32(0)
                number[x] += np.int32(1) if clean else np.int32(0)
        for j in range(columns):
            value, count = np.float32(0), 0
            for x in range(BLOCK * j, BLOCK * (j + 1)):
                value += total[x]
                count += number[x]
            means[i, j] = value / count if 2 * count > BLOCK * BLOCK else np.nan


@compiled
def _vote(voters: NDArray[np.int32], shape: tuple[int, int], votes: NDArray[np.int32]) -> None:
    """Let each block vote for the lines through it."""
    half = votes.shape[1] // 2
    middle_y, middle_x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    for k in range(votes.shape[0]):
        theta = math.pi * k / ANGLES
        c, s = math.cos(theta), math.sin(theta)
        row = votes[k]
        for n in range(len(voters)):
            rho = (voters[n, 1] - middle_x) * c + (voters[n, 0] - middle_y) * s
            row[int(rho + half + 0.5)] += 1


@compiled
def _profiles(
    image: NDArray[np.float32],
    bits: NDArray[np.int32],
    x0: float,
    y0: float,
    u: float,
    v: float,
    low: float,
    step: float,
    profiles: NDArray[np.float32],
) -> None:
    """Take the median along each piece of a line, at each distance from it; NaN without enough pixels."""
    height, width = image.shape
    reach = profiles.shape[1] // 2
    values = np.empty(int(step) + 2, np.float32)
    for piece in range(profiles.shape[0]):
        for d in range(-reach, reach + 1):
            number = 0
            for k in range(int(step)):
                t = low + piece * step + k + 0.5
                x = math.floor(x0 + t * u - d * v + 0.5)
                y = math.floor(y0 + t * v + d * u + 0.5)
                if 0 <= x < width and 0 <= y < height and bits[y, x] == 0:
                    values[number] = image[y, x]
                    number += 1
            profiles[piece, d + reach] = np.median(values[:number]) if 4 * number > step else np.nan


def _mask(bits: NDArray[np.int32], streak: Streak, bit: int) -> None:
    """Set a bit on all pixels of a streak."""
    length = math.hypot(streak.end[0] - streak.start[0], streak.end[1] - streak.start[1])
    u, v = (streak.end[0] - streak.start[0]) / length, (streak.end[1] - streak.start[1]) / length
    _mark(bits, streak.start[0], streak.start[1], u, v, length, streak.half_width, bit)


@compiled
def _mark(
    bits: NDArray[np.int32],
    x0: float,
    y0: float,
    u: float,
    v: float,
    length: float,
    half: float,
    bit: int,
) -> None:
    height, width = bits.shape
    wide = half + 1.0
    bottom = max(0, int(min(y0, y0 + length * v) - wide))
    top = min(height - 1, int(max(y0, y0 + length * v) + wide) + 1)
    for y in range(bottom, top + 1):
        first, last = 0, width - 1
        if abs(v) > 1e-6:
            middle, spread = x0 + (y - y0) * u / v, wide / abs(v)
            first, last = (
                max(0, int(max(middle - spread, 0.0))),
                min(width - 1, int(min(middle + spread, width + 0.0)) + 1),
            )
        for x in range(first, last + 1):
            along, across = (x - x0) * u + (y - y0) * v, (y - y0) * u - (x - x0) * v
            if abs(across) <= half and -half <= along <= length + half:
                bits[y, x] |= np.int32(bit)
