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

RUN = 128
"""Largest number of neighbouring output pixels that are worked out side by side; fewer than 8 never are."""

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
    rows, columns = (_reached(*axis) for axis in zip((grid_y, grid_x), image.shape, strict=True))
    image, variance = (np.asarray(p[rows, columns], np.float32) for p in (image, variance))
    mask_bits, bad = mask_bits[rows, columns], bad[rows, columns]
    grid_x, grid_y = grid_x - columns.start, grid_y - rows.start
    planes: list[NDArray[Any]] = [image, variance, mask_bits, _touched(image, variance, bad)]
    if _is_turned(grid_x, grid_y):
        # Detectors lie across the sky's axes: read along the rows of the memory, that is much faster.
        planes = [plane.T for plane in planes]
        grid_x, grid_y = grid_y, grid_x
    if grid_x[:, -1].mean() < grid_x[:, 0].mean():  # and forwards
        planes = [plane[:, ::-1] for plane in planes]
        grid_x = planes[0].shape[1] - 1 - grid_x
    planes = [np.ascontiguousarray(plane) for plane in planes]
    scale = np.ascontiguousarray(np.broadcast_to(np.asarray(area, float), nodes))
    out = np.empty(shape, np.float32)
    out_variance = np.empty(shape, np.float32)
    bits = np.empty(shape, mask_bits.dtype)
    coverage = np.empty(shape, np.float32)
    _resample(
        planes[0],
        planes[1],
        planes[2],
        planes[3],
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


def _reached(grid: NDArray[np.float64], size: int) -> slice:
    """Return the part of an axis of the input that kernels at the positions of a grid reach."""
    if not np.isfinite(grid).all():
        return slice(0, size)
    first = min(max(math.floor(grid.min()) - TAPS, 0), size - 1)
    return slice(first, max(first + 1, min(math.ceil(grid.max()) + TAPS + 1, size)))


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
    """Mark bad pixels with 2 and every pixel of which a kernel may reach one with bit 1."""
    ny, nx = image.shape
    touched = np.zeros((ny, nx), np.uint8)
    for y in range(ny):
        for x in range(nx):
            if bad[y, x] or not (math.isfinite(image[y, x]) and math.isfinite(variance[y, x])):
                touched[y, x] |= 2
                for j in range(max(0, y - 3), min(ny, y + 4)):
                    for i in range(max(0, x - 3), min(nx, x + 4)):
                        touched[j, i] |= 1
    return touched


@compiled
def beside(where: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return the pixels of a mask and all within ``reach`` rows and columns of them.

    Only where the mask changes from a pixel to the next there is anything to do.
    """
    ny, nx = where.shape
    wide = where.copy()
    for y in range(ny):
        own, below = where[y], where[min(y + 1, ny - 1)]
        for first in range(0, nx, RUN):
            last, changes = min(nx, first + RUN), False
            for x in range(first, last):
                changes |= own[x] ^ below[x]
            for x in range(first, min(last, nx - 1)):
                changes |= own[x] ^ own[x + 1]
            if not changes:
                continue
            for x in range(first, last):
                if own[x] != below[x]:
                    j = y if own[x] else y + 1
                    wide[max(0, j - reach) : j + reach + 1, max(0, x - reach) : x + reach + 1] = True
                if x + 1 < nx and own[x] != own[x + 1]:
                    i = x if own[x] else x + 1
                    wide[max(0, y - reach) : y + reach + 1, max(0, i - reach) : i + reach + 1] = True
    return wide


@compiled_fast
def _add_row(
    plane: NDArray[np.float32],
    start: np.uint64,
    wx: NDArray[np.float32],
    wy: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    """Add one row of the kernels of neighbouring output pixels, whose windows begin at ``start`` and after.

    ``wx`` holds the weights of the columns, tap after tap; ``wy`` those of this row. Unsigned indices spare
    the test for negative ones, which would keep the sums out of the vector registers.
    """
    for k in range(total.size):
        x = np.uint64(k)
        at = start + x
        total[x] += wy[x] * (
            wx[x] * plane[at]
            + wx[np.uint64(RUN) + x] * plane[at + np.uint64(1)]
            + wx[np.uint64(2 * RUN) + x] * plane[at + np.uint64(2)]
            + wx[np.uint64(3 * RUN) + x] * plane[at + np.uint64(3)]
            + wx[np.uint64(4 * RUN) + x] * plane[at + np.uint64(4)]
            + wx[np.uint64(5 * RUN) + x] * plane[at + np.uint64(5)]
        )


@compiled_fast
def _fetch(weights: NDArray[np.float32], phase: NDArray[np.int64], found: NDArray[np.float32]) -> None:
    """Fill the weights of the taps of neighbouring output pixels, `RUN` apart from tap to tap."""
    for k in range(phase.size):
        x, a = np.uint64(k), np.uint64(TAPS * phase[k])
        for tap in range(TAPS):
            t = np.uint64(tap)
            found[t * np.uint64(RUN) + x] = weights[a + t]


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
def _along(row: int, grid: NDArray[np.float64], step: int, values: NDArray[np.float64]) -> None:
    """Interpolate a grid linearly at the pixels of an output row."""
    cell, part = row // step, (row % step) / step
    for i in range(grid.shape[1] - 1):
        first = grid[cell, i] + part * (grid[cell + 1, i] - grid[cell, i])
        second = grid[cell, i + 1] + part * (grid[cell + 1, i + 1] - grid[cell, i + 1])
        slope = (second - first) / step
        here = values[i * step : (i + 1) * step]
        for k in range(here.size):
            here[k] = first + k * slope


@compiled
def _find(
    position: NDArray[np.float64], size: int, pixel: NDArray[np.int64], phase: NDArray[np.int64]
) -> None:
    """Fill of positions along an axis the pixel that each comes after, and its phase; -1 beyond the axis.

    Within half a pixel of the first and the last pixel's centre it is that pixel.
    """
    end = size - 1.0
    for k in range(position.size):
        at = position[k]
        near = 0.0 if at < 0.0 else (end if at > end else at)
        whole = int(near)
        phase[k] = int((near - whole) * PHASES + 0.5)
        pixel[k] = whole if abs(at - near) <= 0.5 else -1


@compiled
def _run_length(pixel: NDArray[np.int64], x: int, touched: NDArray[np.uint8], inside: tuple[int, int]) -> int:
    """Return how many output pixels from ``x`` on have whole windows that lie side by side in the input."""
    ny, nx = inside
    ix, iy, length = pixel[0, x], pixel[1, x], 0
    if not 2 <= iy < ny - 3:
        return 0
    for k in range(min(RUN, pixel.shape[1] - x)):
        if not (
            pixel[0, x + k] == ix + k
            and pixel[1, x + k] == iy
            and 2 <= ix + k < nx - 3
            and touched[iy, ix + k] & 1 == 0
        ):
            break
        length = k + 1
    return length


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
    """Fill the output planes row by row.

    Where two grids differ by little more than a shift, the windows of neighbouring output pixels are
    neighbours too, for many pixels at a time: these are worked out together, by vector instructions.
    """
    inside, nx = image.shape, image.shape[1]
    flat_image, flat_variance, flat_weights = image.ravel(), variance.ravel(), weights.ravel()
    length = out.shape[1]
    pixel, phase = np.empty((2, length), np.int64), np.empty((2, length), np.int64)
    position, area = np.empty(length), np.empty(length)
    wx = np.zeros(TAPS * RUN, np.float32)
    wy = np.zeros(TAPS * RUN, np.float32)
    for y in range(out.shape[0]):
        _along(y, grid_x, step, position)
        _find(position, inside[1], pixel[0], phase[0])
        _along(y, grid_y, step, position)
        _find(position, inside[0], pixel[1], phase[1])
        _along(y, scale, step, area)
        x = 0
        while x < length:
            size = _run_length(pixel, x, touched, inside)
            if size == 0:
                flux, noise, share, found = np.nan, np.nan, 0.0, bits[y, x] ^ bits[y, x]
                if pixel[0, x] >= 0 and pixel[1, x] >= 0:
                    flux, noise, share, found = _patchy_sum(
                        image,
                        variance,
                        mask_bits,
                        touched,
                        pixel[0, x],
                        pixel[1, x],
                        weights[phase[0, x]],
                        weights[phase[1, x]],
                    )
                bits[y, x] = found
                if share > 0.0 and share >= 1.0 - max_lost:
                    out[y, x], out_variance[y, x] = area[x] * flux, area[x] * area[x] * noise
                    coverage[y, x] = share
                else:
                    out[y, x], out_variance[y, x], coverage[y, x] = np.nan, np.nan, 0.0
                x += 1
                continue
            _fetch(flat_weights, phase[0, x : x + size], wx)
            _fetch(flat_weights, phase[1, x : x + size], wy)
            ix, iy = pixel[0, x], pixel[1, x]
            total, noises = out[y, x : x + size], out_variance[y, x : x + size]
            total[:], noises[:], coverage[y, x : x + size] = 0.0, 0.0, 1.0
            for tap in range(TAPS):
                _add_row(
                    flat_image,
                    np.uint64((iy - 2 + tap) * nx + ix - 2),
                    wx,
                    wy[tap * RUN : tap * RUN + size],
                    total,
                )
            wx *= wx
            wy *= wy
            for tap in range(TAPS):
                line = wy[tap * RUN : tap * RUN + size]
                _add_row(flat_variance, np.uint64((iy - 2 + tap) * nx + ix - 2), wx, line, noises)
            for k in range(size):
                s = np.float32(area[x + k])
                total[k] *= s
                noises[k] *= s * s
            here, below = mask_bits[iy, ix : ix + size + 1], mask_bits[iy + 1, ix : ix + size + 1]
            flags = bits[y, x : x + size]
            for k in range(size):
                flags[k] = here[k] | here[k + 1] | below[k] | below[k + 1]
            x += size
