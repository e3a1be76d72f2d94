"""The sky background of an image and its noise, on a mesh that leaves the sources out."""

from __future__ import annotations

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import ndimage

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.compiled import compiled

BLOCK = 4
"""Side in pixels of the blocks in which sources are looked for: a block shows fainter haloes than a pixel."""
SOURCE_THRESHOLD = 3.0
MIN_GOOD_PIXELS = 100
BLOCK_ROUNDS = 2
"""Among many stars the sky between them shows only once the brightest are left out."""
LEAST_SKY = 0.02
"""Part of the image that has to be free of sources for these to be left out."""


def estimate_background(
    image: NDArray[np.floating], bad: NDArray[np.bool_], mesh: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Estimate the sky level and the noise per pixel.

    Two passes over a sigma-clipped mesh (SExtractor's estimator, through `sep`): the first one, on the means
    of blocks of 4 x 4 pixels, finds what rises above it; the second one leaves that out, grown by one block.
    What that mask swallows of whole meshes is bridged from their neighbours.

    Parameters
    ----------
    image : `numpy.ndarray`, (height, width)
        Any unit; values at bad pixels may be anything, also not finite.
    bad : `numpy.ndarray`, (height, width), bool
        Pixels to leave out.
    mesh : `int`
        Side of a mesh in pixels. Images smaller than three meshes get smaller ones, down to 16 pixels.

    Returns
    -------
    level, rms : `numpy.ndarray`, (height, width), float32
        Sky level and standard deviation of the noise about it, in the image's unit.

    Raises
    ------
    BadInputError
        Shapes differ, or there are not enough good pixels.
    """
    sky = _sky(image, bad, mesh)
    return sky.back(), sky.rms()


def estimate_level(
    image: NDArray[np.floating], bad: NDArray[np.bool_], mesh: int = 64
) -> NDArray[np.float32]:
    """Return the sky level alone, see `estimate_background`."""
    return np.asarray(_sky(image, bad, mesh).back())


def _sky(image: NDArray[np.floating], bad: NDArray[np.bool_], mesh: int) -> sep.Background:
    if image.ndim != 2 or image.shape != bad.shape:
        raise BadInputError(f"Image {image.shape} and mask {bad.shape} do not have one two-dimensional shape")
    data, masked = np.empty(image.shape, np.float32), np.empty(image.shape, np.bool_)
    native = image if image.dtype.isnative else image.astype(np.float32)
    n_good = _copy_good(native, bad, data, masked)
    if n_good < MIN_GOOD_PIXELS:
        raise BadInputError(
            f"Only {n_good} of {data.size} pixels are good, too few for a background",
            remedy="check the mask planes that are counted as bad",
        )
    side = max(16, min(mesh, min(data.shape) // 3))
    sources = find_bright_blocks(data, masked, side)
    left_out = masked | sources
    if np.count_nonzero(~left_out) < max(MIN_GOOD_PIXELS, LEAST_SKY * data.size):
        left_out = masked
    return sep.Background(data, mask=left_out, bw=side, bh=side, fw=3, fh=3)


def find_bright_blocks(data: NDArray[np.float32], masked: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Return the pixels of blocks, grown by one, whose mean is above the threshold in its own noise.

    Above the sky of a mesh of that side in pixels, which is that of the blocks' means.
    """
    height, width = data.shape
    shape = -(-height // BLOCK), -(-width // BLOCK)
    mean, number = np.empty(shape, np.float32), np.empty(shape, np.float32)
    _block_means(data, masked, mean, number)
    empty, step = number == 0, max(4, side // BLOCK)
    usual, grown = float(np.sqrt(np.median(number[~empty]))), empty
    for _ in range(BLOCK_ROUNDS):
        sky = sep.Background(mean, mask=grown, bw=step, bh=step, fw=3, fh=3)
        rms = float(sky.globalrms) * usual
        bright = (mean - sky.back()) * np.sqrt(number) > SOURCE_THRESHOLD * rms
        # A single block above the threshold is often noise: masking it would bias the sky low.
        labels, _ = ndimage.label(bright, structure=np.ones((3, 3)))
        bright &= np.bincount(labels.ravel())[labels] > 1
        grown = ndimage.binary_dilation(bright, structure=np.ones((3, 3)))
        if np.count_nonzero(~(grown | empty)) < LEAST_SKY * grown.size:
            break
        grown |= empty
    grown &= ~empty
    return np.asarray(grown.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width])


@compiled
def _copy_good(
    image: NDArray[np.floating],
    bad: NDArray[np.bool_],
    data: NDArray[np.float32],
    masked: NDArray[np.bool_],
) -> int:
    """Copy the good pixels, 0 in place of the others, and say which these are; return how many are good."""
    number = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            value = np.float32(image[y, x])
            good = (not bad[y, x]) and abs(value) < np.float32(np.inf)
            data[y, x] = value if good else np.float32(0.0)
            masked[y, x] = not good
            number += 1 if good else 0
    return number


@compiled
def _block_means(
    data: NDArray[np.float32],
    masked: NDArray[np.bool_],
    mean: NDArray[np.float32],
    number: NDArray[np.float32],
) -> None:
    """Fill the mean of the good pixels of each block, and how many they are."""
    height, width = data.shape
    total, count = np.empty(width, np.float32), np.empty(width, np.float32)
    for j in range(mean.shape[0]):
        total[:] = np.float32(0.0)
        count[:] = np.float32(0.0)
        for y in range(j * BLOCK, min(height, (j + 1) * BLOCK)):
            line, hidden = data[y], masked[y]
            for x in range(width):
                total[x] += line[x]
                count[x] += np.float32(0.0) if hidden[x] else np.float32(1.0)
        for i in range(mean.shape[1]):
            value, weight = np.float32(0.0), np.float32(0.0)
            for x in range(i * BLOCK, min(width, (i + 1) * BLOCK)):
                value += total[x]
                weight += count[x]
            mean[j, i] = value / weight if weight > 0 else np.float32(0.0)
            number[j, i] = weight
