"""The sky background of an image and its noise, on a mesh that leaves the sources out."""

from __future__ import annotations

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import ndimage

from tololo.facility.errors import BadInputError

BLOCK = 4
"""Side in pixels of the blocks in which sources are looked for: a block shows fainter haloes than a pixel."""
SOURCE_THRESHOLD = 3.0
MIN_GOOD_PIXELS = 100


def estimate_background(
    image: NDArray[np.floating], bad: NDArray[np.bool_], mesh: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Estimate the sky level and the noise per pixel.

    Two passes over a sigma-clipped mesh (SExtractor's estimator, through `sep`): the second one leaves out
    what rises above the first, in blocks of 4 x 4 pixels, grown by one block. What that mask swallows of
    whole meshes is bridged from their neighbours.

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
    if image.ndim != 2 or image.shape != bad.shape:
        raise BadInputError(f"Image {image.shape} and mask {bad.shape} do not have one two-dimensional shape")
    data = np.array(image, dtype=np.float32, order="C")
    masked = bad | ~np.isfinite(data)
    n_good = data.size - int(np.count_nonzero(masked))
    if n_good < MIN_GOOD_PIXELS:
        raise BadInputError(
            f"Only {n_good} of {data.size} pixels are good, too few for a background",
            remedy="check the mask planes that are counted as bad",
        )
    data[masked] = 0.0
    side = max(16, min(mesh, min(data.shape) // 3))
    first = sep.Background(data, mask=masked, bw=side, bh=side, fw=3, fh=3)
    sources = find_bright_blocks(data - first.back(), masked, float(first.globalrms))
    left_out = masked | sources
    if np.count_nonzero(~left_out) < max(MIN_GOOD_PIXELS, 0.02 * data.size):
        left_out = masked
    second = sep.Background(data, mask=left_out, bw=side, bh=side, fw=3, fh=3)
    return second.back(), second.rms()


def find_bright_blocks(
    residual: NDArray[np.float32], masked: NDArray[np.bool_], rms: float
) -> NDArray[np.bool_]:
    """Return the pixels of blocks, grown by one, whose mean is above the threshold in its own noise."""
    height, width = residual.shape
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    padding = ((0, rows * BLOCK - height), (0, columns * BLOCK - width))
    values = np.pad(np.where(masked, np.float32(0), residual), padding)
    weights = np.pad((~masked).astype(np.float32), padding)
    shape = (rows, BLOCK, columns, BLOCK)
    number = np.einsum("abcd->ac", weights.reshape(shape))
    mean = np.einsum("abcd->ac", values.reshape(shape)) / np.maximum(number, 1)
    bright = mean * np.sqrt(number) > SOURCE_THRESHOLD * rms
    # A single block above the threshold is often noise: masking it would bias the sky low.
    labels, _ = ndimage.label(bright, structure=np.ones((3, 3)))
    bright &= np.bincount(labels.ravel())[labels] > 1
    grown = ndimage.binary_dilation(bright, structure=np.ones((3, 3)))
    return np.asarray(grown.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width])
