"""Warping: resample an image, its variance and its mask onto another pixel grid with a Lanczos-3 kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.compiled import compiled, compiled_fast

TAPS = 6
"""Pixels per axis under a Lanczos-3 kernel."""

PHASES = 4096
"""Sub-pixel steps of the weight table: positions are rounded by at most 1.2e-4 pixel, as good as the grid."""

STEP = 32
"""Default spacing of the grid in output pixels; bilinear interpolation of a TPV map errs by 1.5e-4 pixel."""

Transform = Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[ArrayLike, ArrayLike]]


class Warped(NamedTuple):
    """A resampled image; all planes have the output shape."""

    image: NDArray[np.float32]
    """NaN where there is no data."""

    variance: NDArray[np.float32]
    """NaN where there is no data."""

    mask_bits: NDArray[Any]
    """Bits of the input pixels under the main lobe of the kernel, in the type of the input."""

    coverage: NDArray[np.float32]
    """Share of the kernel's |weight| that fell on good pixels: 1 inside, 0 where there is no data."""


def grid_of(
    transform: Transform, shape: tuple[int, int], step: int = STEP
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sample a pixel map at every ``step``-th output pixel, one node beyond the last pixel included.

    Parameters
    ----------
    transform : callable
        Takes arrays of output pixel x and y, returns the input pixel x and y (zero-based, centres at
        integers). For two WCSs: ``lambda x, y: source.all_world2pix(*target.all_pix2world(x, y, 0), 0)``.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the output.
    step : `int`
        Node spacing in output pixels.

    Returns
    -------
    grid_x, grid_y : `numpy.ndarray`, (ceil(ny / step) + 1, ceil(nx / step) + 1)
        Input positions of the nodes, in pixels.
    """
    ny, nx = shape
    x, y = np.meshgrid(
        np.arange(math.ceil(nx / step) + 1, dtype=float) * step,
        np.arange(math.ceil(ny / step) + 1, dtype=float) * step,
    )
    grid_x, grid_y = transform(x.ravel(), y.ravel())
    return np.asarray(grid_x, float).reshape(x.shape), np.asarray(grid_y, float).reshape(x.shape)


def area_ratio(
    grid_x: NDArray[np.float64], grid_y: NDArray[np.float64], step: int = STEP
) -> NDArray[np.float64]:
    """Area of one output pixel in input pixels at each node: the Jacobian of the map, by finite differences.

    Parameters
    ----------
    grid_x, grid_y : `numpy.ndarray`, (my, mx)
        As `grid_of` returns them.
    step : `int`
        Node spacing in output pixels.

    Returns
    -------
    ratio : `numpy.ndarray`, (my, mx)
    """
    xy, xx = np.gradient(grid_x, step)
    yy, yx = np.gradient(grid_y, step)
    return np.asarray(np.abs(xx * yy - xy * yx))


def noise_power(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the power that resampling leaves of white noise along one axis, averaged over pixel positions.

    Parameters
    ----------
    frequency : `numpy.ndarray`
        Cycles a pixel.
    """
    waves = np.exp(-2j * np.pi * np.arange(TAPS)[:, None] * frequency)
    return np.asarray((np.abs(_WEIGHTS[: PHASES : PHASES // 64] @ waves) ** 2).mean(axis=0))


def warp(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask_bits: NDArray[Any],
    bad: NDArray[np.bool_],
    grid_x: NDArray[np.float64],
    grid_y: NDArray[np.float64],
    step: int,
    shape: tuple[int, int],
    area: float | NDArray[np.float64] = 1.0,
    max_lost: float = 0.5,
) -> Warped:
    """Resample an image onto a grid of which the input positions are known.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, (ny, nx)
        Input planes; pixels that are not finite count as bad.
    mask_bits : `numpy.ndarray` of an integer type, (ny, nx)
        Each output pixel gets the bits of the 2 x 2 input pixels under the main lobe of its kernel.
    bad : `numpy.ndarray` of `bool`, (ny, nx)
        Pixels without weight; the weights of the others are raised to sum to one.
    grid_x, grid_y : `numpy.ndarray`
        Input positions of the output pixels (i * step, j * step), from `grid_of`.
    step : `int`
        Node spacing in output pixels.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the output.
    area : `float` or `numpy.ndarray` of the grid's shape
        What the resampled surface brightness is multiplied with. An interpolated image keeps the value per
        pixel; a star keeps its flux only if each output pixel is scaled with its area in input pixels
        (`area_ratio`). The default 1 is for images whose pixel is a surface brightness or whose grids have
        equal pixels; which of the two an image is depends on how it was flat-fielded, so the caller says it.
    max_lost : `float`
        Where more than this share of the sum of |weight| falls on bad pixels or beyond the edge there is no
        data.

    Returns
    -------
    warped : `Warped`

    Raises
    ------
    BadInputError
        If planes or grids differ in shape or do not cover the output.

    Notes
    -----
    The kernel is L(x) L(y) with L(t) = sinc(t) sinc(t / 3), normalised to unit sum. Variance is propagated as
    the sum of weight^2 variance: exact for one pixel, but neighbours become correlated and that is not kept.
    """
    if not image.shape == variance.shape == mask_bits.shape == bad.shape:
        raise BadInputError(
            "Image, variance, mask and bad pixels differ in shape",
            f"{image.shape}, {variance.shape}, {mask_bits.shape}, {bad.shape}",
            "pass planes of one image",
        )
    nodes = (math.ceil(shape[0] / step) + 1, math.ceil(shape[1] / step) + 1)
    if grid_x.shape != nodes or grid_y.shape != nodes:
        raise BadInputError(
            "The grid does not fit the output",
            f"grids {grid_x.shape} and {grid_y.shape}, output {shape} with step {step} needs {nodes}",
            "make it with grid_of(transform, shape, step)",
        )
    if _is_turned(grid_x, grid_y):
        # Detectors lie across the sky's axes: read along the rows of the memory, that is twice as fast.
        image, variance, mask_bits, bad = image.T, variance.T, mask_bits.T, bad.T
        grid_x, grid_y = grid_y, grid_x
    scale = np.ascontiguousarray(np.broadcast_to(np.asarray(area, float), nodes))
    image = np.ascontiguousarray(image, np.float32)
    variance = np.ascontiguousarray(variance, np.float32)
    out = np.empty(shape, np.float32)
    out_variance = np.empty(shape, np.float32)
    bits = np.empty(shape, mask_bits.dtype)
    coverage = np.empty(shape, np.float32)
    touched = _touched(image, variance, np.ascontiguousarray(bad))
    _resample(
        image,
        variance,
        np.ascontiguousarray(mask_bits),
        touched,
        np.ascontiguousarray(grid_x, float),
        np.ascontiguousarray(grid_y, float),
        scale,
        step,
        _WEIGHTS,
        max_lost,
        out,
        out_variance,
        bits,
        coverage,
    )
    return Warped(out, out_variance, bits, coverage)


def _is_turned(grid_x: NDArray[np.float64], grid_y: NDArray[np.float64]) -> bool:
    """Tell whether the rows of the output run along the columns of the input."""
    along, across = (float(np.abs(np.diff(grid, axis=1)).sum()) for grid in (grid_x, grid_y))
    return across > along


def _weight_table() -> NDArray[np.float32]:
    """Lanczos-3 weights of the six pixels around a point, by its fraction of a pixel; (PHASES + 1, TAPS)."""
    fraction = np.arange(PHASES + 1)[:, None] / PHASES
    t = fraction - (np.arange(TAPS) - 2)
    weights = np.where(np.abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


_WEIGHTS = _weight_table()


@compiled
def _touched(
    image: NDArray[np.float32], variance: NDArray[np.float32], bad: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Mark bad pixels with 2 and every pixel whose kernel window (-2..3 in x and y) holds one with bit 1."""
    ny, nx = image.shape
    touched = np.zeros((ny, nx), np.uint8)
    for y in range(ny):
        for x in range(nx):
            if bad[y, x] or not (math.isfinite(image[y, x]) and math.isfinite(variance[y, x])):
                touched[y, x] |= 2
                for j in range(max(0, y - 3), min(ny, y + 3)):
                    for i in range(max(0, x - 3), min(nx, x + 3)):
                        touched[j, i] |= 1
    return touched


@compiled_fast
def _clean_sum(
    plane: NDArray[np.float32],
    start: np.uint64,
    width: np.uint64,
    weights: NDArray[np.float32],
    a: np.uint64,
    b: np.uint64,
) -> Any:
    """Sum of the 6 x 6 weighted pixels from index ``start``; x weights from index a, y weights from b.

    Columns are summed first, side by side in one vector register; unsigned indices spare the wrap-around
    tests.
    """
    c0 = c1 = c2 = c3 = c4 = c5 = np.float32(0.0)
    for j in range(6):
        w = weights[b + np.uint64(j)]
        c0 += w * plane[start]
        c1 += w * plane[start + np.uint64(1)]
        c2 += w * plane[start + np.uint64(2)]
        c3 += w * plane[start + np.uint64(3)]
        c4 += w * plane[start + np.uint64(4)]
        c5 += w * plane[start + np.uint64(5)]
        start += width
    return (
        weights[a] * c0
        + weights[a + np.uint64(1)] * c1
        + weights[a + np.uint64(2)] * c2
        + weights[a + np.uint64(3)] * c3
        + weights[a + np.uint64(4)] * c4
        + weights[a + np.uint64(5)] * c5
    )


@compiled
def _patchy_sum(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask_bits: NDArray[Any],
    touched: NDArray[np.uint8],
    x: int,
    y: int,
    wx: NDArray[np.float32],
    wy: NDArray[np.float32],
) -> tuple[float, float, float, Any]:
    """Value, variance, share of good |weight| and mask bits of a window with bad or missing pixels."""
    ny, nx = image.shape
    total, kept, reach, flux, noise = 0.0, 0.0, 0.0, 0.0, 0.0
    bits = mask_bits[y, x] ^ mask_bits[y, x]
    for j in range(max(0, 2 - y), min(6, ny - y + 2)):
        for i in range(max(0, 2 - x), min(6, nx - x + 2)):
            w = wx[i] * wy[j]
            py, px = y + j - 2, x + i - 2
            if 2 <= j <= 3 and 2 <= i <= 3:
                bits |= mask_bits[py, px]
            if touched[py, px] & 2 == 0:
                kept += abs(w)
                total += w
                flux += w * image[py, px]
                noise += w * w * variance[py, px]
    reach = np.sum(np.abs(wx)) * np.sum(np.abs(wy))
    if total < 0.25:
        return 0.0, 0.0, 0.0, bits
    return flux / total, noise / (total * total), kept / reach, bits


@compiled
def _resample(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask_bits: NDArray[Any],
    touched: NDArray[np.uint8],
    grid_x: NDArray[np.float64],
    grid_y: NDArray[np.float64],
    scale: NDArray[np.float64],
    step: int,
    weights: NDArray[np.float32],
    max_lost: float,
    out: NDArray[np.float32],
    out_variance: NDArray[np.float32],
    bits: NDArray[Any],
    coverage: NDArray[np.float32],
) -> None:
    """Fill the output planes row by row."""
    ny, nx = image.shape
    squares = (weights * weights).ravel()
    flat_weights, flat_image, flat_variance = weights.ravel(), image.ravel(), variance.ravel()
    phases = weights.shape[0] - 1
    nodes = grid_x.shape[1]
    node_x, node_y, node_s = np.empty(nodes), np.empty(nodes), np.empty(nodes)
    for y in range(out.shape[0]):
        cell, part = y // step, (y % step) / step
        for i in range(nodes):
            node_x[i] = grid_x[cell, i] + part * (grid_x[cell + 1, i] - grid_x[cell, i])
            node_y[i] = grid_y[cell, i] + part * (grid_y[cell + 1, i] - grid_y[cell, i])
            node_s[i] = scale[cell, i] + part * (scale[cell + 1, i] - scale[cell, i])
        for x in range(out.shape[1]):
            if x % step == 0:
                i = x // step
                sx, sy, s = node_x[i], node_y[i], node_s[i]
                dx = (node_x[i + 1] - sx) / step
                dy = (node_y[i + 1] - sy) / step
                ds = (node_s[i + 1] - s) / step
            else:
                sx, sy, s = sx + dx, sy + dy, s + ds
            out[y, x], out_variance[y, x], bits[y, x], coverage[y, x] = np.nan, np.nan, 0, 0.0
            if not (-0.5 <= sx <= nx - 0.5 and -0.5 <= sy <= ny - 0.5):
                continue
            # At the very edge the window is anchored on the first or the last pixel.
            ix = min(max(math.floor(sx), 0), nx - 1)
            iy = min(max(math.floor(sy), 0), ny - 1)
            kx = int(min(max(sx - ix, 0.0), 1.0) * phases + 0.5)
            ky = int(min(max(sy - iy, 0.0), 1.0) * phases + 0.5)
            if 2 <= ix < nx - 3 and 2 <= iy < ny - 3 and touched[iy, ix] & 1 == 0:
                start, width = np.uint64((iy - 2) * nx + ix - 2), np.uint64(nx)
                a, b = np.uint64(kx * 6), np.uint64(ky * 6)
                out[y, x] = s * _clean_sum(flat_image, start, width, flat_weights, a, b)
                out_variance[y, x] = s * s * _clean_sum(flat_variance, start, width, squares, a, b)
                coverage[y, x] = 1.0
                bits[y, x] = (
                    mask_bits[iy, ix]
                    | mask_bits[iy, ix + 1]
                    | mask_bits[iy + 1, ix]
                    | mask_bits[iy + 1, ix + 1]
                )
                continue
            flux, noise, share, found = _patchy_sum(
                image, variance, mask_bits, touched, ix, iy, weights[kx], weights[ky]
            )
            bits[y, x] = found
            if share > 0.0 and share >= 1.0 - max_lost:
                out[y, x], out_variance[y, x], coverage[y, x] = s * flux, s * s * noise, share
