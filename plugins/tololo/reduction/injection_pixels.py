"""How injected sources come into pixels: the counts of raws, InstCal's planes, calibrated visit images.

Photons arrive at random, from a seed that visit, detector and source fix: a source is the same in every run,
whatever others there are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from lsst.images import Image, VisitImage
from numpy.typing import NDArray

from tololo.facility.scorecard import GAIN
from tololo.reduction.formats.dqmask import has_codes
from tololo.reduction.formats.images import planes_of
from tololo.reduction.formats.instcal import InstcalPixels
from tololo.reduction.formats.raw import RawDetector
from tololo.reduction.injection import Added, Placed, Scene
from tololo.reduction.kernels.isr import MIN_FLAT

_BEYOND_FULL = 1 << 20
"""ADU; more than any pixel holds, and less than would not fit into a count when sources overlap."""

FULL_WELL = 35000.0
"""ADU; where a visit image is saturated at the latest, unless brighter pixels of it are not."""

BRIGHT = 30.0
"""Sigma of the sky; pixels above it tell how the variance grows with the light."""

ENOUGH = 50
"""So many of them are believed."""


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


def add_to_visit(scene: Scene, placed: Placed) -> tuple[VisitImage, Added]:
    """Add sources to a calibrated visit image, whose variance and mask follow.

    Parameters
    ----------
    scene : `Scene`
        Its image is left as it is.
    placed : `Placed`

    Returns
    -------
    image : `lsst.images.VisitImage`
        nJy.
    added : `Added`
    """
    planes, njy_per_electron = planes_of(scene.image), electron_of(scene)
    bad = planes.bad
    flux = np.zeros(len(placed))
    light, noise = np.zeros(scene.shape), np.zeros(scene.shape)
    for stamp in placed.stamps:
        arrived = _arrive(stamp.light / njy_per_electron, _random(scene, placed.table[stamp.row]))
        light[stamp.box] += arrived * njy_per_electron
        # The expected light, not that which came: a variance that knows the noise favours faint pixels.
        noise[stamp.box] += np.maximum(stamp.light, 0) * njy_per_electron
        flux[stamp.row] = float(arrived.sum()) * njy_per_electron
    sky = float(np.nan_to_num(scene.image.summary_stats.skyBg))
    brightest = float(planes.image[~bad].max()) if not bad.all() else 0.0
    limit = max(brightest, (FULL_WELL - sky) * scene.njy_per_adu)
    image = scene.image.copy()
    image.image.array[...] += light.astype(np.float32)
    image.variance.array[...] += noise.astype(np.float32)
    with np.errstate(invalid="ignore"):
        full = (light != 0) & (image.image.array > limit)
    image.mask.set("SATURATED", image.mask.get("SATURATED") | full)
    return image, Added(flux, _saturated(full, placed))


def electron_of(scene: Scene) -> float:
    """Return what one electron is in a visit image, nJy: by how much the variance grows with the light.

    Without enough bright pixels to tell, the camera's mean gain is taken.
    """
    planes = planes_of(scene.image)
    good = ~planes.bad
    if good.any():
        sky = float(np.median(planes.variance[good]))
        bright = good & (planes.image > BRIGHT * math.sqrt(sky))
        if np.count_nonzero(bright) >= ENOUGH:
            grown = np.asarray(planes.variance[bright] - sky, float) / planes.image[bright]
            if (slope := float(np.median(grown))) > 0:
                return slope
    return scene.njy_per_adu / GAIN


def _random(scene: Scene, source: Any) -> np.random.Generator:
    return np.random.default_rng([scene.visit, scene.detector, int(source["injection_id"])])


def _arrive(expected: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Return how many photons arrive where some are expected; where a model is negative, it stays so."""
    return random.poisson(np.maximum(expected, 0)).astype(np.float64) + np.minimum(expected, 0)


def _saturated(full: NDArray[np.bool_], placed: Placed) -> NDArray[np.bool_]:
    cores = [placed.core(row, (full.shape[0], full.shape[1])) for row in range(len(placed))]
    return np.array([full[core].any() for core in cores], dtype=bool)
