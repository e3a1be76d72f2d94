"""What resampling does to noise: the covariance that it leaves between pixels, predicted or measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

LAGS = 12
"""Largest distance in pixels, along a row or a column, for which a covariance is kept."""

TAPS, STEPS = 6, 16
"""Pixels under a Lanczos-3 kernel, and sub-pixel phases over which its effect is averaged."""

TILE = 512
"""Side of the pieces of an image on which a covariance is measured."""

LIGHT = 1.5
"""Where the mean of 5 x 5 pixels is above this many sigma of a pixel, or nearby, there is light."""

LEAST_DARK = 0.02
"""Part of the pixels that must be dark for a covariance to be measured on them."""


def resampled_covariance(scales: Sequence[float]) -> NDArray[np.float64]:
    """Return the covariance of noise that was white before it was resampled (Lanczos 3) once or more.

    Each output pixel is a weighted sum of input pixels, and neighbours share some. With the weights w(p, i)
    at the sub-pixel phase p, the covariance of two pixels of a row at the distance d is the mean over p of
    sum_i w(p, i) w(p + d, i), as Fruchter & Hook (2002, PASP 114, 144) work it out for drizzled images. A
    second resampling sums the covariances of the first with the same weights.

    Parameters
    ----------
    scales : sequence of `float`
        Width of an output pixel in input pixels, of each resampling in turn.

    Returns
    -------
    covariance : `numpy.ndarray`, (2 LAGS + 1, 2 LAGS + 1)
        By distance in y and x, in units of the variance plane that `warp.warp` propagates as if pixels were
        independent: 1 in the middle after one time, more after two.

    Notes
    -----
    The mean over phases, of each phase in units of its own variance, holds where phases vary, by distortion,
    rotation or dither; the mean of many inputs has the covariance of one. Rows and columns are alike.
    """
    line = _resampled_line(tuple(round(float(scale), 2) for scale in scales))
    return np.asarray(np.outer(line, line))


@lru_cache(maxsize=64)
def _resampled_line(scales: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the covariance along a row."""
    lags = np.arange(-LAGS, LAGS + 1, dtype=np.float64)
    line = np.where(lags == 0, 1.0, 0.0)
    phase = ((np.arange(STEPS) + 0.5) / STEPS)[:, None]
    for scale in scales:
        shared = np.stack([_overlap(phase, scale * lags - j) for j in lags], axis=-1) @ line
        own = _overlap(phase, np.zeros(1))
        other = _overlap(phase + scale * lags, np.zeros(1))
        line = (shared / np.sqrt(own * other)).mean(axis=0)
    return np.asarray(line)


def _overlap(phase: NDArray[np.float64], distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sum_i w(p, i) w(p + distance, i); phase and distance are broadcast."""
    first, second = np.broadcast_arrays(phase, phase + distance)
    total = np.zeros(first.shape)
    pixel = np.floor(first)
    for tap in range(1 - TAPS // 2, 1 + TAPS // 2):
        total += _weight(first, pixel + tap) * _weight(second, pixel + tap)
    return total


def _weight(position: NDArray[np.float64], pixel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weight of a pixel in what is interpolated at a position; those of all pixels sum to one."""
    fraction = position - np.floor(position)
    taps = np.arange(1 - TAPS // 2, 1 + TAPS // 2)
    whole = _lanczos(fraction[..., None] - taps).sum(axis=-1)
    return _lanczos(position - pixel) / whole


def _lanczos(t: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(t) < TAPS // 2, np.sinc(t) * np.sinc(t / (TAPS // 2)), 0.0)


def measured_covariance(
    image: NDArray[np.float32], variance: NDArray[np.float32], bad: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """Return the covariance of an image's noise as its dark pixels show it.

    For images whose way of resampling is not known, or was more than that. In a crowded field faint stars
    pass for correlated noise.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, (ny, nx)
        Background-subtracted.
    bad : `numpy.ndarray` of `bool`, (ny, nx)
        Pixels to leave out.

    Returns
    -------
    covariance : `numpy.ndarray`, (2 LAGS + 1, 2 LAGS + 1), or `None`
        In units of ``variance``; `None` where there are not enough dark pixels.
    """
    ny, nx = image.shape
    side = TILE + LAGS
    shared, number = np.zeros((2, side, side))
    for y in np.linspace(0, max(0, ny - TILE), min(2, -(-ny // TILE)), dtype=int):
        for x in np.linspace(0, max(0, nx - TILE), min(2, -(-nx // TILE)), dtype=int):
            piece = np.s_[y : y + TILE, x : x + TILE]
            score, dark = _dark(image[piece], variance[piece], bad[piece])
            shared += _own_products(score, side)
            number += _own_products(dark.astype(float), side)
    lags = np.ix_(*[np.arange(-LAGS, LAGS + 1)] * 2)
    if number[0, 0] < LEAST_DARK * min(4 * TILE**2, ny * nx):
        return None
    return np.asarray(shared[lags] / number[lags])


def _own_products(plane: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return the sums of products of pixels at every distance, wrapped around at ``side``."""
    return np.asarray(fft.irfft2(np.abs(fft.rfft2(plane, s=(side, side))) ** 2, s=(side, side)))


def _dark(
    image: NDArray[np.float32], variance: NDArray[np.float32], bad: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return image over noise, 0 where there is light or no good pixel, and where it holds."""
    usable = ~bad & np.isfinite(image) & (variance > 0)
    score = np.where(usable, image / np.sqrt(np.where(usable, variance, 1.0)), 0.0).astype(float)
    if not usable.any():
        return score, usable
    score = np.where(usable, score - np.median(score[usable]), 0.0)
    lit = ndimage.maximum_filter(ndimage.uniform_filter(score, 5) > LIGHT, 4 * LAGS + 1)
    dark = usable & ~lit & (np.abs(score) < 5.0)
    return np.where(dark, score - (score[dark].mean() if dark.any() else 0.0), 0.0), dark
