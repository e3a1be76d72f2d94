"""From light to the counts of a raw: photons, bleeding, crosstalk, gain, bias, overscan, read noise."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from tololo.simulation.detector import SATURATED, Defects, bleed, draw_track, is_spared
from tololo.simulation.raw_camera import Chip

type Floats = NDArray[np.float64]
type Floats32 = NDArray[np.float32]

_FEW = 100.0
"""Electrons below which their number is drawn from Poisson's law instead of the normal one."""

_CHARGE = 4.0
"""Electrons of a cosmic ray's ADU."""


@dataclass(frozen=True)
class Events:
    """What happened to single pixels of one CCD in one exposure.

    Attributes
    ----------
    cosmic_rays : `numpy.ndarray`, (n, 2), int16
        (y, x) on the assembled CCD.
    charge : `numpy.ndarray`, (n,), float32
        What a cosmic ray left at each of them, e-.
    saturated, bled : `numpy.ndarray`, (n, 2), int16
        Pixels that were full, and those that what they could not hold ran into.
    levels : `numpy.ndarray`, (2, ny), float32
        Level of the overscan of amplifiers A and B in each row of the raw, ADU.
    """

    cosmic_rays: NDArray[np.int16]
    charge: Floats32
    saturated: NDArray[np.int16]
    bled: NDArray[np.int16]
    levels: Floats32


def collect(light: Floats32, response: Floats32, random: np.random.Generator) -> Floats32:
    """Turn light into electrons.

    Parameters
    ----------
    light : `numpy.ndarray`, (ny, nx)
        Expected electrons of a perfect pixel.
    response : `numpy.ndarray`, (ny, nx)
    random : `numpy.random.Generator`

    Returns
    -------
    electrons : `numpy.ndarray`, (ny, nx), float32
    """
    electrons = random.standard_normal(light.shape, dtype=np.float32)
    if _photons(light, response, electrons):
        rows, columns = np.nonzero(light * response < _FEW)
        electrons[rows, columns] = random.poisson(light[rows, columns] * response[rows, columns])
    return electrons


def strike(
    electrons: Floats32, number: int, spared: Floats, random: np.random.Generator
) -> tuple[NDArray[np.int16], Floats32]:
    """Add cosmic rays, away from the spared places (x, y); return their pixels (y, x) and charge (e-)."""
    ny, nx = electrons.shape
    flat: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    charges: list[Floats] = [np.empty(0)]
    for _ in range(number):
        rows, columns, charge = draw_track((ny, nx), random)
        if not is_spared(rows, columns, spared):
            flat.append(rows * nx + columns)
            charges.append(charge * _CHARGE)
    index, inverse = np.unique(np.concatenate(flat), return_inverse=True)
    total = np.bincount(inverse, np.concatenate(charges), len(index)).astype(np.float32)
    electrons.ravel()[index] += total
    return np.stack([index // nx, index % nx], 1).astype(np.int16), total


def fill_wells(electrons: Floats32, chip: Chip) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Let full pixels spill along their columns; return the full ones and those they ran into, (y, x)."""
    found: list[NDArray[np.int64]] = []
    for amplifier in chip.amplifiers:
        first = amplifier.target[1].start
        half = electrons[amplifier.target]
        columns = np.flatnonzero(half.max(axis=0) > amplifier.full_well)
        some = half[:, columns]
        state = np.zeros(some.shape, np.int32)
        bleed(some, state, amplifier.full_well)
        half[:, columns] = some
        rows, place = np.nonzero(state)
        found.append(np.stack([rows, columns[place] + first, state[rows, place]], 1))
    pixels = np.concatenate(found)
    full = pixels[:, 2] == SATURATED
    return pixels[full, :2].astype(np.int16), pixels[~full, :2].astype(np.int16)


def draw_levels(chip: Chip, random: np.random.Generator) -> Floats32:
    """Draw how the level of the overscan of A and B wanders while the CCD is read, (2, rows of the raw), ADU.

    A settling after the first rows, a slope, and a slow random walk, mostly common to both amplifiers.
    """
    ny = chip.raw_shape[0]
    order = np.arange(ny)[::-1] if chip.ccd.side == "S" else np.arange(ny)
    memory = np.exp(-1 / 150)
    steps = random.normal(0, np.sqrt(1 - memory**2), (3, ny))
    walk = lfilter([1.0], [1.0, -memory], steps, axis=1)
    levels = [
        amplifier.level
        + random.normal(0, 4)
        + random.uniform(3, 8) * np.exp(-order / 60)
        + random.normal(0, 1.5) * (order / ny - 0.5)
        + 1.2 * walk[2]
        + 0.5 * walk[number]
        for number, amplifier in enumerate(chip.amplifiers)
    ]
    return np.asarray(levels, np.float32)


def read_out(
    electrons: Floats32,
    chip: Chip,
    bias: Floats32,
    defects: Defects,
    levels: Floats32,
    random: np.random.Generator,
) -> NDArray[np.uint16]:
    """Read a CCD out.

    Parameters
    ----------
    electrons : `numpy.ndarray`, (ny, nx)
    chip : `Chip`
    bias : `numpy.ndarray`, (ny, nx)
        ADU above the overscan.
    defects : `Defects`
    levels : `numpy.ndarray`, (2, raw ny)
        As `draw_levels` returns.
    random : `numpy.random.Generator`

    Returns
    -------
    raw : `numpy.ndarray`, (raw ny, raw nx), uint16
        ADU. Both amplifiers are read at the same time from the outer edges inward, so that each gets the
        crosstalk of the pixel that mirrors its own.
    """
    left, right = sorted(chip.amplifiers, key=lambda amplifier: amplifier.target[1].start)
    ordered = levels if left is chip.amplifiers[0] else levels[::-1]
    electrons = electrons * defects.response
    noise = random.standard_normal(chip.raw_shape, dtype=np.float32)
    raw = np.empty(chip.raw_shape, np.uint16)
    pair = [
        np.array([getattr(left, name), getattr(right, name)], np.float32)
        for name in ("gain", "read_noise", "crosstalk")
    ]
    _digitise(electrons, bias, ordered, noise, *pair, left.data[0].start, left.data[1].start, raw)
    return raw


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _photons(light: Floats32, response: Floats32, electrons: Floats32) -> int:
    """Turn normal deviates into electrons; return how many pixels have too few for that."""
    few = 0
    ny, nx = light.shape
    for y in range(ny):
        for x in range(nx):
            expected = light[y, x] * response[y, x]
            if expected < _FEW:
                few += 1
            electrons[y, x] = expected + np.sqrt(max(expected, np.float32(0))) * electrons[y, x]
    return few


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _digitise(
    electrons: Floats32,
    bias: Floats32,
    levels: Floats32,
    noise: Floats32,
    gain: Floats32,
    read_noise: Floats32,
    crosstalk: Floats32,
    first_row: int,
    first_column: int,
    raw: NDArray[np.uint16],
) -> None:
    rows, columns = raw.shape
    ny, nx = electrons.shape
    for r in range(rows):
        y = r - first_row
        for c in range(columns):
            side = 0 if c < columns // 2 else 1
            value = levels[side, r] + read_noise[side] / gain[side] * noise[r, c]
            x = c - first_column
            if 0 <= y < ny and 0 <= x < nx:
                mirrored = electrons[y, nx - 1 - x] / gain[1 - side]
                value += electrons[y, x] / gain[side] + crosstalk[side] * mirrored + bias[y, x]
            raw[r, c] = np.uint16(min(max(value + np.float32(0.5), np.float32(0)), np.float32(65535)))
