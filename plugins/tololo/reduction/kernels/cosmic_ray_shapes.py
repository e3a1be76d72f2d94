"""What cosmic rays look like among a few pixels, and how far stars are from that."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

type Points = tuple[tuple[int, int], ...]
"""Pixels as (dy, dx) from the one that is looked at."""

LINES = (
    ((0, 1), (1, 0)),
    ((1, 0), (0, 1)),
    ((1, 1), (-1, 1)),
    ((1, -1), (1, 1)),
    ((1, 2), (-1, 1)),
    ((1, -2), (1, 1)),
    ((2, 1), (-1, 1)),
    ((2, -1), (1, 1)),
)
"""Directions of tracks, each with the step to the nearest pixels beside it that a thin track leaves dark."""


def _times(factor: int, step: tuple[int, int]) -> tuple[int, int]:
    return factor * step[0], factor * step[1]


def _moved(points: Points, *steps: tuple[int, int]) -> Points:
    return tuple((y + dy, x + dx) for dy, dx in steps for y, x in points)


def _shapes() -> tuple[tuple[Points, Points], ...]:
    """Return the pixels that a cosmic ray fills and those beside them that it leaves dark, many ways."""
    pixel = ((0, 0),)
    sides = tuple((step, _times(-1, step)) for step in ((0, 1), (1, 0), (1, 1), (1, -1)))
    cross = (*sides[0], *sides[1])
    shapes: list[tuple[Points, Points]] = [(pixel, pair) for pair in sides]
    shapes += [(pixel, cross), (pixel, (*cross, *sides[2], *sides[3]))]
    for along, beside in LINES:
        line = ((0, 0), along, _times(-1, along))
        shapes.append((line, _moved(line, beside, _times(-1, beside))))
    # Tracks of two pixels' width, alone and three pixels long.
    for beside in cross:
        pair, dark = ((0, 0), beside), (_times(-1, beside), _times(2, beside))
        length = (0, 0), beside[::-1], _times(-1, beside[::-1])
        shapes += [(pair, dark), (_moved(pair, *length), _moved(dark, *length))]
    for dy, dx in sides[2] + sides[3]:
        square = ((0, 0), (dy, 0), (0, dx), (dy, dx))
        rows = tuple((y, x) for y in (-dy, 2 * dy) for x in (0, dx))
        columns = tuple((y, x) for y in (0, dy) for x in (-dx, 2 * dx))
        shapes.append((square, rows + columns))
    return tuple(shapes)


SHAPES = _shapes()


def shape_tables() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return `SHAPES` as arrays.

    Returns
    -------
    points : `numpy.ndarray`, (shape, point, 2)
        (dy, dx) of the filled pixels and then the dark ones; the rest is not used.
    n_own, n_dark : `numpy.ndarray`, (shape,)
        How many there are of either.
    """
    longest = max(len(own) + len(dark) for own, dark in SHAPES)
    points = np.zeros((len(SHAPES), longest, 2), np.int64)
    for k, (own, dark) in enumerate(SHAPES):
        points[k, : len(own) + len(dark)] = (*own, *dark)
    return points, np.array([len(own) for own, _ in SHAPES]), np.array([len(dark) for _, dark in SHAPES])


@lru_cache(maxsize=64)
def star_ratios(fwhm: float) -> NDArray[np.float64]:
    """Return, for each of `SHAPES`, the least light in the dark pixels relative to the filled ones.

    It is the least of all stars and of all straight lines as wide as the PSF (trails of satellites, spikes,
    galaxies seen edge-on), wherever they lie and run.

    Parameters
    ----------
    fwhm : `float`
        Of the sharpest star, pixels.
    """
    scale = 4 * math.log(2) / fwhm**2
    offsets = np.linspace(-1, 1, 21)
    cy, cx = (axis.ravel() for axis in np.meshgrid(offsets, offsets))
    directions = np.meshgrid(np.linspace(0, np.pi, 49), np.linspace(-1.5, 1.5, 31))
    angle, shift = (axis.ravel() for axis in directions)

    def light(points: Points) -> NDArray[np.float64]:
        stars = [np.exp(-scale * ((y - cy) ** 2 + (x - cx) ** 2)) for y, x in points]
        lines = [np.exp(-scale * (y * np.cos(angle) - x * np.sin(angle) - shift) ** 2) for y, x in points]
        return np.concatenate([np.mean(stars, axis=0), np.mean(lines, axis=0)])

    return np.array([(light(dark) / light(own)).min() for own, dark in SHAPES])
