"""What a CCD makes of the light that falls on it: noise, bleeding, cosmic rays, defects, masks, weights."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from tololo.simulation.plan import Plan
from tololo.simulation.sky import Ccd

type Floats = NDArray[np.float64]

BAD, SATURATED, BLEED, COSMIC_RAY = 1, 3, 4, 5
"""Codes of the Community Pipeline's data-quality map."""


@dataclass(frozen=True)
class Defects:
    """Bad pixels of a CCD and the share of the light that each still records."""

    mask: NDArray[np.bool_]
    response: NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """Three planes of a detector, (ny, nx): image in ADU, inverse variance, data-quality codes."""

    image: NDArray[np.float32]
    weight: NDArray[np.float32]
    dq: NDArray[np.int32]


def draw_defects(plan: Plan, random: np.random.Generator) -> Defects:
    """Draw the defects of a CCD: part columns and single pixels, dead or hot."""
    ny, nx = plan.shape
    mask = np.zeros(plan.shape, bool)
    response = np.ones(plan.shape, np.float32)
    for x in random.integers(0, nx, plan.bad_columns):
        rows = slice(0, int(random.integers(ny // 4, ny)))
        mask[rows, x] = True
        response[rows, x] = random.choice([0.0, 0.4, 1.6])
    y, x = random.integers(0, ny, plan.bad_pixels), random.integers(0, nx, plan.bad_pixels)
    mask[y, x] = True
    response[y, x] = random.choice([0.0, 0.3, 4.0], plan.bad_pixels)
    return Defects(mask, response)


def expose(
    model: Floats,
    chip: Ccd,
    defects: Defects,
    plan: Plan,
    exptime: float,
    spared: Floats,
    random: np.random.Generator,
) -> Frame:
    """Turn a noiseless image into what the pipeline delivers.

    Parameters
    ----------
    model : `numpy.ndarray`, (ny, nx)
        Sky and sources, ADU.
    chip : `Ccd`
    defects : `Defects`
    plan : `Plan`
    exptime : `float`
        Seconds; sets the number of cosmic rays.
    spared : `numpy.ndarray`, (n, 2)
        Places (x, y) that cosmic rays keep away from by 8 pixels.
    random : `numpy.random.Generator`

    Returns
    -------
    frame : `Frame`
        Weight: 1 / (image/gain + (read noise/gain)^2) of the pixel's own value, zero where the map is not, as
        in real files.
    """
    electrons = random.poisson(model * chip.gain) + random.normal(0, chip.read_noise, model.shape)
    image = electrons / chip.gain
    dq = np.zeros(model.shape, np.int32)
    bleed(image, dq, chip.saturation)
    number = random.poisson(plan.cosmic_rays * image.size / 1e6 * exptime / 100)
    _hit(image, dq, spared, number, random)
    image = np.where(defects.mask, image * defects.response, image)
    dq[defects.mask] = BAD
    variance = np.maximum(image, 0) / chip.gain + (chip.read_noise / chip.gain) ** 2
    weight = np.where(dq == 0, 1 / variance, 0)
    return Frame(image.astype(np.float32), weight.astype(np.float32), dq)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def bleed(image: NDArray[np.floating], dq: NDArray[np.int32], saturation: float) -> None:
    """Spill what a pixel cannot hold along its column, half up and half down; mark it in ``dq``."""
    ny, nx = image.shape
    for x in range(nx):
        up, down = 0.0, 0.0
        for y in range(ny):
            if image[y, x] > saturation:
                dq[y, x] = SATURATED
        for y in range(ny):
            room = saturation - image[y, x]
            if room < 0:
                up -= room / 2
                image[y, x] = saturation - room / 2
            elif up > 0:
                taken = min(room, up)
                image[y, x] += taken
                up -= taken
                dq[y, x] = BLEED
        for y in range(ny - 1, -1, -1):
            room = saturation - image[y, x]
            if room < 0:
                down -= room
                image[y, x] = saturation
            elif down > 0:
                taken = min(room, down)
                image[y, x] += taken
                down -= taken
                if dq[y, x] == 0:
                    dq[y, x] = BLEED


def draw_track(
    shape: tuple[int, int], random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Draw the track of a cosmic ray: rows, columns (some twice) and the charge left at each, ADU."""
    ny, nx = shape
    x, y, angle = random.uniform(0, nx), random.uniform(0, ny), random.uniform(0, np.pi)
    length = 1 + random.exponential(6)
    charge = 10 ** random.uniform(2.2, 3.6)
    steps = np.arange(0, length, 0.5)
    columns = np.clip(np.round(x + steps * np.cos(angle)).astype(int), 0, nx - 1)
    rows = np.clip(np.round(y + steps * np.sin(angle)).astype(int), 0, ny - 1)
    return rows, columns, charge / 2 * random.uniform(0.4, 1.6, len(steps))


def is_spared(rows: NDArray[np.int64], columns: NDArray[np.int64], spared: Floats) -> bool:
    """Tell whether a track comes within 8 pixels of one of the places (x, y)."""
    if not len(spared):
        return False
    return bool(np.hypot(*(spared[:, None] - np.stack([columns, rows], 1)).transpose(2, 0, 1)).min() < 8)


def _hit(
    image: Floats, dq: NDArray[np.int32], spared: Floats, number: int, random: np.random.Generator
) -> None:
    """Add tracks of cosmic rays; the mask reaches one pixel further, as the pipeline's does."""
    ny, nx = image.shape
    for _ in range(number):
        rows, columns, charge = draw_track((ny, nx), random)
        if is_spared(rows, columns, spared):
            continue
        np.add.at(image, (rows, columns), charge)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                near = np.clip(rows + dy, 0, ny - 1), np.clip(columns + dx, 0, nx - 1)
                dq[near] = np.where(dq[near] == 0, COSMIC_RAY, dq[near])
