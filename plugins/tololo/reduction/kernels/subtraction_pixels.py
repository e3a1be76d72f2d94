"""The passes over the pixels that image subtraction makes, each touching a pixel once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.convolution import trim

MODEL_ERROR = 0.01
"""Part of a pixel's light that counts as noise in the fit: the brightest star must not decide alone."""

HIDDEN = 2.0
"""A bad pixel may hide this many sigma of noise, or its bridged value if that is more."""

TOLERATED = 0.5
"""Hidden light, spread by the kernel, up to this many sigma does not make an output pixel bad."""


FAINT_RING = 5e-3
"""Rings of the kernel with a smaller part of its absolute sum carry nothing that a bad pixel hides."""


CHUNK = 64
"""Pixels of a row that are looked at together: most hold no bad one."""


@compiled
def any_of(line: NDArray[np.bool_]) -> bool:
    """Tell whether a part of a row holds a pixel that is set."""
    found = False
    for i in range(line.size):
        found |= line[i]
    return found


@compiled
def bridge(plane: NDArray[np.float32], bad: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Copy an image with its bad pixels interpolated linearly along the row between their good neighbours."""
    ny, nx = plane.shape
    out = plane.copy()
    for y in range(ny):
        x = 0
        while x < nx:
            if x % CHUNK == 0 and not any_of(bad[y, x : x + CHUNK]):
                x += CHUNK
                continue
            if not bad[y, x]:
                x += 1
                continue
            first = x
            while x < nx and bad[y, x]:
                x += 1
            left = plane[y, first - 1] if first > 0 else (plane[y, x] if x < nx else np.float32(0.0))
            right = plane[y, x] if x < nx else left
            if first == 0 and x == nx and y > 0:
                out[y] = out[y - 1]
                continue
            for i in range(first, x):
                out[y, i] = left + (right - left) * np.float32((i - first + 1) / (x - first + 1))
    return out


@compiled
def fit_weights(
    sharp: NDArray[np.float32],
    sharp_variance: NDArray[np.float32],
    sharp_bad: NDArray[np.bool_],
    broad: NDArray[np.float32],
    broad_variance: NDArray[np.float32],
    broad_bad: NDArray[np.bool_],
    blur: float,
    reach: int,
) -> NDArray[np.float32]:
    """Return 1 / variance for the kernel fit; 0 on bad pixels and within ``reach`` of those to be convolved.

    ``blur`` is a guess of the sum of the kernel's squares, by which convolution lowers the variance.
    """
    ny, nx = sharp.shape
    weight = np.empty((ny, nx), np.float32)
    for y in range(ny):
        for x in range(nx):
            model = MODEL_ERROR * max(broad[y, x], np.float32(0.0))
            weight[y, x] = 1.0 / (broad_variance[y, x] + blur * sharp_variance[y, x] + model * model)
            if broad_bad[y, x]:
                weight[y, x] = 0.0
    for y in range(ny):
        for first in range(0, nx, CHUNK):
            if not any_of(sharp_bad[y, first : first + CHUNK]):
                continue
            for x in range(first, min(nx, first + CHUNK)):
                if sharp_bad[y, x]:
                    weight[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = 0.0
    return weight


@compiled
def star_quality(
    stars: NDArray[np.float64],
    image: NDArray[np.float32],
    weight: NDArray[np.float32],
    radius: float,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the signal to noise of stars in an aperture, and whether no pixel there lacks weight."""
    ny, nx = image.shape
    snr, whole = np.zeros(stars.shape[0]), np.zeros(stars.shape[0], np.bool_)
    reach = math.ceil(radius)
    for s in range(stars.shape[0]):
        x, y = round(stars[s, 0]), round(stars[s, 1])
        if not (reach <= x < nx - reach and reach <= y < ny - reach):
            continue
        light, noise = 0.0, 0.0
        whole[s] = True
        for j in range(-reach, reach + 1):
            for i in range(-reach, reach + 1):
                if i * i + j * j > radius * radius:
                    continue
                if weight[y + j, x + i] <= 0.0:
                    whole[s] = False
                else:
                    light += image[y + j, x + i]
                    noise += 1.0 / weight[y + j, x + i]
        snr[s] = light / math.sqrt(noise) if noise > 0.0 else 0.0
    return snr, whole


@compiled
def combine(
    smooth: NDArray[np.float32],
    smooth_variance: NDArray[np.float32],
    broad: NDArray[np.float32],
    broad_variance: NDArray[np.float32],
    science_smoothed: bool,
    kernel_sum: float,
    plane: tuple[float, float, float],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return difference, its variance, the matched template and its variance, in the science image's scale.

    ``plane`` is the fitted background difference: value at pixel (0, 0) and slopes in x and y.
    """
    ny, nx = smooth.shape
    difference, variance = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.float32)
    template, template_variance = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.float32)
    scale = np.float32(1.0 / kernel_sum)
    slope = np.float32(plane[1])
    for y in range(ny):
        level = np.float32(plane[0] + plane[2] * y)
        for x in range(nx):
            sky = level + slope * np.float32(x)
            if science_smoothed:
                template[y, x] = (broad[y, x] - sky) * scale
                template_variance[y, x] = broad_variance[y, x] * scale * scale
                difference[y, x] = smooth[y, x] * scale - template[y, x]
                variance[y, x] = smooth_variance[y, x] * scale * scale + template_variance[y, x]
            else:
                template[y, x] = smooth[y, x] + sky
                template_variance[y, x] = smooth_variance[y, x]
                difference[y, x] = broad[y, x] - template[y, x]
                variance[y, x] = broad_variance[y, x] + smooth_variance[y, x]
    return difference, variance, template, template_variance


def spread_bad(
    padded: NDArray[np.float32],
    sharp_bad: NDArray[np.bool_],
    kernels: NDArray[np.float64],
    block: int,
    scale: float,
    variance: NDArray[np.float32],
    bad: NDArray[np.bool_],
) -> None:
    """Mark in ``bad`` the pixels that the kernel reaches from bad pixels or from beyond the edge with weight.

    Parameters
    ----------
    padded : `numpy.ndarray`, (ny + 2r + 3, nx + 2r + 3)
        The convolved image with bad pixels bridged, padded: its values say how much light a bad pixel may
        hide.
    sharp_bad : `numpy.ndarray` of `bool`, (ny, nx)
        Its bad pixels.
    kernels : `numpy.ndarray`, (by, bx, size, size)
        Matching kernels by block.
    block : `int`
        Side of a block.
    scale : `float`
        Factor from the convolved image to the difference.
    variance : `numpy.ndarray`, (ny, nx)
        Of the difference.
    bad : `numpy.ndarray` of `bool`, (ny, nx)
        Changed in place.
    """
    reach = trim(np.abs(kernels), FAINT_RING).astype(np.float32)
    radius, beyond = reach.shape[-1] // 2, (kernels.shape[-1] - reach.shape[-1]) // 2
    outline = np.pad(sharp_bad, radius, constant_values=True)
    step = max(1, bad.size // 50_000)
    usable = ~bad.ravel()[::step]
    noise = float(np.sqrt(np.median(variance.ravel()[::step][usable]))) if usable.any() else 1.0
    level = float(np.median(padded.ravel()[::step]))
    if np.count_nonzero(sharp_bad) > 0.05 * sharp_bad.size:
        # The inside of wide holes reaches nothing but the hole: leave it out.
        outline &= ndimage.distance_transform_cdt(outline, "chessboard") <= radius + 1
        bad |= sharp_bad & ~outline[radius:-radius, radius:-radius]
    hidden = np.zeros(bad.shape, np.float32)
    _spread(outline, padded, beyond, level, noise, abs(scale), reach, block, hidden)
    _mark(hidden, variance, bad)


@compiled
def _mark(hidden: NDArray[np.float32], variance: NDArray[np.float32], bad: NDArray[np.bool_]) -> None:
    """Mark pixels with too much hidden light for their noise."""
    limit = np.float32(TOLERATED * TOLERATED)
    for y in range(bad.shape[0]):
        for x in range(bad.shape[1]):
            bad[y, x] |= hidden[y, x] * hidden[y, x] > limit * variance[y, x]


@compiled
def fill(
    plane: NDArray[np.float32], where: NDArray[np.bool_], value: float, radius: int, extra: int
) -> NDArray[np.float32]:
    """Copy an image with ``value`` in some pixels and as a border, below and on the right ``extra`` wider."""
    ny, nx = plane.shape
    out = np.full((ny + 2 * radius + extra, nx + 2 * radius + extra), np.float32(value))
    for y in range(ny):
        target, source, hidden = out[y + radius, radius : radius + nx], plane[y], where[y]
        for x in range(nx):
            target[x] = np.float32(value) if hidden[x] else source[x]
    return out


@compiled
def blank(
    difference: NDArray[np.float32], science: NDArray[np.float32], template: NDArray[np.float32]
) -> None:
    """Write NaN where the science image or the template has none but NaN to offer."""
    limit = np.float32(np.inf)
    for y in range(difference.shape[0]):
        line, own, other = difference[y], science[y], template[y]
        for x in range(line.size):
            known = (abs(own[x]) < limit) & (abs(other[x]) < limit)
            line[x] = line[x] if known else np.float32(np.nan)


@compiled
def _spread(
    outline: NDArray[np.bool_],
    values: NDArray[np.float32],
    beyond: int,
    level: float,
    noise: float,
    scale: float,
    kernels: NDArray[np.float32],
    block: int,
    hidden: NDArray[np.float32],
) -> None:
    """Add up what the bad pixels may hide, spread by the absolute kernel.

    ``values`` has ``beyond`` rows and columns more than ``outline`` on each side.
    """
    ny, nx = hidden.shape
    size = kernels.shape[2]
    radius = size // 2
    for py in range(outline.shape[0]):
        for px in range(outline.shape[1]):
            if not outline[py, px]:
                continue
            y, x = py - radius, px - radius
            by = min(max(y, 0), ny - 1) // block
            bx = min(max(x, 0), nx - 1) // block
            light = np.float32(max(scale * abs(values[py + beyond, px + beyond] - level), HIDDEN * noise))
            first, last = max(0, x - radius), min(nx, x + radius + 1)
            for j in range(max(0, y - radius), min(ny, y + radius + 1)):
                line = kernels[by, bx, j - y + radius, first - x + radius : last - x + radius]
                target = hidden[j, first:last]
                for i in range(target.size):
                    target[i] += light * line[i]
