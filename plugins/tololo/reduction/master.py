"""The combination of the exposures of one detector: clipped mean, its scatter, and what sticks out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table
from lsst.images import Image, MaskedImage
from numpy.typing import NDArray
from scipy import ndimage

from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT, pack_mask
from tololo.reduction.kernels.blocks import block_medians
from tololo.reduction.kernels.stack import Stacked, stack
from tololo.reduction.master_frames import BLOCK, Plane

SEGMENT = 256
"""Rows over which a column is looked at: hot columns begin anywhere."""

NEIGHBOURS = 15
"""Columns whose median a column is compared with."""


@dataclass(frozen=True)
class Master:
    """A master, its metrics (one row for each amplifier) and what was left out, with the reason."""

    planes: Planes
    metrics: Table
    refused: dict[int, str]


@dataclass(frozen=True)
class NoiseRows:
    """The variance of an input, computed when rows of it are asked for: floor + slope * signal.

    ``parts`` has the columns of each amplifier with its floor and slope.
    """

    image: Plane
    parts: tuple[tuple[slice, float, float], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(ny, nx)."""
        return self.image.shape

    def __getitem__(self, rows: slice, /) -> Plane:
        variance = np.full(self.image[rows].shape, np.nan, np.float32)
        for columns, floor, slope in self.parts:
            part = self.image[rows, columns]
            variance[:, columns] = np.float32(floor) + np.float32(slope) * np.maximum(part, np.float32(0))
        return variance


def combine_frames(
    images: Sequence[Plane], noise: Sequence[NoiseRows], weights: Sequence[float], n_sigma: float
) -> tuple[Stacked, Plane]:
    """Combine by clipped mean, and compare the scatter of the inputs with their variances.

    Parameters
    ----------
    images : sequence of `numpy.ndarray`, (ny, nx)
        Equally scaled; NaN where a pixel cannot be used.
    noise : sequence of `NoiseRows`
        Their variances.
    weights : sequence of `float`
        One for each input.
    n_sigma : `float`
        Where to clip.

    Returns
    -------
    stacked : `~tololo.reduction.kernels.stack.Stacked`
    scatter : `numpy.ndarray`, (ny, nx)
        Chi-square of all inputs about the mean over its degrees of freedom: 1 on average where the variances
        are right. What was clipped counts too.
    """
    shape = images[0].shape
    masks = [np.broadcast_to(np.int32(0), shape)] * len(images)
    stacked = stack(
        images, noise, masks, weights, n_sigma=n_sigma, psf_allowance=0.0, clipped_bit=BIT["CLIPPED"]
    )
    scatter = np.empty(shape, np.float32)
    for start in range(0, shape[0], BLOCK):
        rows = slice(start, start + BLOCK)
        mean = stacked.image[rows]
        chi2 = np.zeros(mean.shape, np.float32)
        number = np.zeros(mean.shape, np.float32)
        for image, variance in zip(images, noise, strict=True):
            part = (image[rows] - mean) ** 2 / variance[rows]
            finite = np.isfinite(part)
            number += finite
            chi2 += np.where(finite, part, np.float32(0))
        with np.errstate(invalid="ignore", divide="ignore"):
            scatter[rows] = np.where(number > 1, chi2 / (number - 1), np.float32(np.nan))
    return stacked, scatter


def local_level(image: Plane) -> Plane:
    """Return the median of the block around each pixel, blocks without data being bridged."""
    medians = block_medians(image, BLOCK)
    known = np.isfinite(medians)
    if not known.any():
        return np.full(image.shape, np.nan, np.float32)
    if not known.all():
        nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        medians = medians[tuple(nearest)]
    whole = np.repeat(np.repeat(medians, BLOCK, axis=0), BLOCK, axis=1)
    return np.asarray(whole[: image.shape[0], : image.shape[1]])


def odd_columns(image: Plane, threshold: float) -> NDArray[np.bool_]:
    """Find pieces of columns that lie off their neighbours by more than a threshold, in the image's unit."""
    odd = np.zeros(image.shape, np.bool_)
    for start in range(0, image.shape[0], SEGMENT):
        rows = slice(start, start + SEGMENT)
        levels = np.median(np.nan_to_num(image[rows]), axis=0)
        around = ndimage.median_filter(levels, size=min(NEIGHBOURS, levels.size), mode="nearest")
        odd[rows, np.abs(levels - around) > threshold] = True
    return odd


def row_and_column_rms(image: Plane) -> tuple[float, float]:
    """Return the scatter of the row medians and of the column medians of an amplifier."""
    filled = np.where(np.isfinite(image), image, np.nanmedian(image))
    return float(np.std(np.median(filled, axis=1))), float(np.std(np.median(filled, axis=0)))


def master_planes(stacked: Stacked, bad: NDArray[np.bool_], fill: float) -> Planes:
    """Return the planes of a master: bad pixels are BAD, those without data hold ``fill`` and are NO_DATA."""
    empty = ~np.isfinite(stacked.image) | ~np.isfinite(stacked.variance)
    bits = stacked.mask.astype(np.int32)
    bits[bad | empty] |= BIT["BAD"]
    bits[empty] |= BIT["NO_DATA"]
    image = np.where(empty, np.float32(fill), stacked.image)
    variance = np.where(empty, np.float32(1), stacked.variance)
    return Planes(image, variance, bits)


def master_image(planes: Planes, unit: u.UnitBase, metadata: Mapping[str, Any]) -> MaskedImage:
    """Assemble the image that the Butler keeps of a master calibration."""
    return MaskedImage(
        Image(planes.image, bbox=planes.bbox, unit=unit),
        mask=pack_mask(planes.bits, planes.bbox),
        variance=Image(planes.variance, bbox=planes.bbox, unit=unit**2),
        metadata=dict(metadata),
    )
