"""How injected sources come into the pixels of the archive's files: the counts of raws, InstCal's planes.

Photons arrive at random, from a seed that visit, detector and source fix: a source is the same in every run,
whatever others there are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from lsst.images import Image
from numpy.typing import NDArray

from tololo.reduction.formats.dqmask import has_codes
from tololo.reduction.formats.instcal import InstcalPixels
from tololo.reduction.formats.raw import RawDetector
from tololo.reduction.injection import Added, Placed, Scene
from tololo.reduction.kernels.isr import MIN_FLAT

_BEYOND_FULL = 1 << 20
"""ADU; more than any pixel holds, and less than would not fit into a count when sources overlap."""


def add_to_raw(
    raw: RawDetector, response: NDArray[np.float32], scene: Scene, placed: Placed
) -> tuple[NDArray[np.uint16], Added]:
    """Add sources to the pixels of a raw as light would: through the flat field, the gain and the full well.

    Parameters
    ----------
    raw : `RawDetector`
        Left as it is.
    response : `numpy.ndarray`, (ny, nx)
        The flat field.
    scene : `Scene`
    placed : `Placed`

    Returns
    -------
    pixels : `numpy.ndarray`, uint16
        ADU; a full pixel has the amplifier's limit, at which it is masked. It bleeds into none.
    added : `Added`

    Notes
    -----
    Counts are whole numbers. They are rounded up or down at random, with the probability that keeps their
    mean, since rounding would take away the wings of faint sources; this adds up to 0.25 ADU² to a pixel's
    variance.
    """
    ny, nx = raw.shape
    counts, before = np.empty((ny, nx), np.int32), np.empty((ny, nx), np.uint16)
    gain, limit = np.empty(nx), np.empty(nx, np.int32)
    for amplifier in raw.amplifiers:
        columns = amplifier.target[1]
        before[amplifier.target] = raw.pixels[amplifier.data]
        gain[columns] = amplifier.gain
        limit[columns] = min(math.ceil(amplifier.saturation), np.iinfo(np.uint16).max)
    counts[:] = before
    # As in the visit image's calibration: an ADU is what it is on the average of both amplifiers.
    njy_per_electron = scene.njy_per_adu / float(np.mean([a.gain for a in raw.amplifiers]))
    flux = np.zeros(len(placed))
    for stamp in placed.stamps:
        random = _random(scene, placed.table[stamp.row])
        flat = response[stamp.box]
        flat = np.where((flat > MIN_FLAT) & np.isfinite(flat), flat, 1.0)
        electrons = _arrive(stamp.light / njy_per_electron * flat, random)
        arrived = np.floor(electrons / gain[stamp.box[1]] + random.random(electrons.shape))
        counts[stamp.box] += np.minimum(arrived, _BEYOND_FULL).astype(np.int32)
        flux[stamp.row] = float((electrons / flat).sum()) * njy_per_electron
    full = counts >= limit
    counts = np.where(full, np.maximum(limit, before), np.maximum(counts, 0))
    pixels = raw.pixels.copy()
    for amplifier in raw.amplifiers:
        pixels[amplifier.data] = counts[amplifier.target].astype(np.uint16)
    return pixels, Added(flux, _saturated(full, placed))


def add_to_instcal(
    pixels: InstcalPixels, planes: tuple[Image, Image, Image], scene: Scene, placed: Placed
) -> tuple[tuple[Image, Image, Image], Added]:
    """Add sources to the planes of an InstCal detector, whose weights and mask follow.

    Parameters
    ----------
    pixels : `InstcalPixels`
        What the planes say.
    planes : `tuple` [`lsst.images.Image`, `lsst.images.Image`, `lsst.images.Image`]
        Image (ADU), weight and mask as the archive has them; left as they are.
    scene : `Scene`
    placed : `Placed`
    """
    image, weight, mask = (plane.copy() for plane in planes)
    flux = np.zeros(len(placed))
    light = np.zeros(scene.shape)
    for stamp in placed.stamps:
        electrons = _arrive(
            stamp.light / scene.njy_per_adu * pixels.gain, _random(scene, placed.table[stamp.row])
        )
        light[stamp.box] += electrons / pixels.gain
        flux[stamp.row] = float(electrons.sum()) / pixels.gain * scene.njy_per_adu
    touched = light != 0
    with np.errstate(invalid="ignore"):
        full = touched & (image.array + light >= pixels.saturation)
    image.array[touched] += light[touched]
    image.array[full] = pixels.saturation
    weighed = touched & np.isfinite(weight.array) & (weight.array > 0)
    variance = 1 / weight.array[weighed] + np.maximum(light[weighed], 0) / pixels.gain
    weight.array[weighed] = 1 / variance
    if has_codes(str(mask.metadata.get("PLVER", ""))):
        mask.array[full & (mask.array == 0)] = 3
    else:
        mask.array[full] |= 2
    return (image, weight, mask), Added(flux, _saturated(full, placed))


def _random(scene: Scene, source: Any) -> np.random.Generator:
    return np.random.default_rng([scene.visit, scene.detector, int(source["injection_id"])])


def _arrive(expected: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Return how many photons arrive where some are expected; where a model is negative, it stays so."""
    return random.poisson(np.maximum(expected, 0)).astype(np.float64) + np.minimum(expected, 0)


def _saturated(full: NDArray[np.bool_], placed: Placed) -> NDArray[np.bool_]:
    cores = [placed.core(row, (full.shape[0], full.shape[1])) for row in range(len(placed))]
    return np.array([full[core].any() for core in cores], dtype=bool)
