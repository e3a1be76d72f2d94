"""What the mask planes say about the pixels of a detection."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.compiled import compiled

OBJECTIONABLE = ("bad", "saturated", "edge", "cr", "interpolated", "nodata")
"""Flags of which any sets the general flag pixelFlags."""

NO_CENTRE = ("bad", "edge", "saturatedTemplate", "inexactPsf")
"""Flags that the LSST schema, or its habit, does not have for the 3 x 3 central pixels."""

FAR = 50
"""Pixels within which distances are measured; what is farther counts as so far."""


@compiled
def joined_bits(
    science: NDArray[np.int32],
    template: NDArray[np.int32],
    difference: NDArray[np.float32],
    bad: NDArray[np.bool_],
    planes: tuple[int, int, int, int, int],
) -> NDArray[np.int32]:
    """Join the masks of science image and template, (ny, nx), and what the subtraction has spoiled.

    Parameters
    ----------
    science, template : `numpy.ndarray`, (ny, nx), int32
        Bits of both.
    difference, bad : `numpy.ndarray`, (ny, nx)
        Of the subtraction: where it is NaN there is no data, and what it holds for bad without a reason in
        the science image's bits is suspect.
    planes : `tuple` [`int`]
        Bits for saturated, for saturated in the template, for no data, for suspect, and for the template's
        plane that goes over as it is.
    """
    saturated, saturated_template, no_data, suspect, kept = planes
    bits = np.empty(science.shape, np.int32)
    for y in range(science.shape[0]):
        own, other, line, hidden, out = science[y], template[y], difference[y], bad[y], bits[y]
        for x in range(out.size):
            value = own[x]
            value |= np.int32(saturated_template) if other[x] & np.int32(saturated) else np.int32(0)
            value |= np.int32(0) if abs(line[x]) < np.float32(np.inf) else np.int32(no_data)
            value |= np.int32(suspect) if hidden[x] & (value == 0) else np.int32(0)
            out[x] = value | (other[x] & np.int32(kept))
    return bits


@compiled
def bits_near(
    bits: NDArray[np.int32], i: NDArray[np.int64], j: NDArray[np.int64], reach: int
) -> NDArray[np.int64]:
    """Join the bits of the pixels in the squares of (2 reach + 1)^2 pixels around positions, (n,)."""
    ny, nx = bits.shape
    out = np.zeros(i.size, np.int64)
    for s in range(i.size):
        for y in range(max(0, j[s] - reach), min(ny, j[s] + reach + 1)):
            for x in range(max(0, i[s] - reach), min(nx, i[s] + reach + 1)):
                out[s] |= bits[y, x]
    return out


@compiled
def distance_to(
    bits: NDArray[np.int32],
    plane: int,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    outside: bool,
    far: int,
) -> NDArray[np.float64]:
    """Return the distance in pixels to the nearest pixel that has a bit of ``plane``, at most ``far``.

    With ``outside``, what lies beside the image has it, too.
    """
    ny, nx = bits.shape
    out = np.full(x.size, float(far))
    for s in range(x.size):
        ci, cj = round(x[s]), round(y[s])
        if outside:
            # Pixel -1 is the first one outside.
            side = min(x[s], y[s], nx - 1 - x[s], ny - 1 - y[s]) + 1.0
            out[s] = min(out[s], max(0.0, side))
        low, high = max(0, ci - far), min(nx, ci + far + 1)
        for j in range(max(0, cj - far), min(ny, cj + far + 1)):
            line, joined = bits[j, low:high], np.int32(0)
            for i in range(line.size):
                joined |= line[i]
            if joined & plane and abs(j - y[s]) < out[s]:
                for i in range(line.size):
                    if line[i] & plane:
                        out[s] = min(out[s], np.hypot(low + i - x[s], j - y[s]))
    return out


@compiled
def good_pixels(
    bad: NDArray[np.bool_], i: NDArray[np.int64], j: NDArray[np.int64], reach: int
) -> NDArray[np.int64]:
    """Count the good pixels in the squares of (2 reach + 1)^2 pixels around positions, (n,)."""
    ny, nx = bad.shape
    out = np.zeros(i.size, np.int64)
    for s in range(i.size):
        for y in range(max(0, j[s] - reach), min(ny, j[s] + reach + 1)):
            for x in range(max(0, i[s] - reach), min(nx, i[s] + reach + 1)):
                out[s] += not bad[y, x]
    return out


@compiled
def log_noise(
    noise: NDArray[np.float32],
    bad: NDArray[np.bool_],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    reach: int,
) -> NDArray[np.float64]:
    """Sum ln(2 pi variance) over the good pixels that `good_pixels` counts, (n,)."""
    ny, nx = bad.shape
    out = np.zeros(i.size)
    for s in range(i.size):
        for y in range(max(0, j[s] - reach), min(ny, j[s] + reach + 1)):
            for x in range(max(0, i[s] - reach), min(nx, i[s] + reach + 1)):
                if not bad[y, x]:
                    out[s] += math.log(2.0 * math.pi * noise[y, x])
    return out


def pixel_flags(
    bits: NDArray[np.int32],
    planes: Mapping[str, int],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    reach: int,
) -> dict[str, NDArray[np.bool_]]:
    """Return the columns ``pixelFlags*`` of the DiaSource table.

    Parameters
    ----------
    bits : `numpy.ndarray`, (ny, nx), int32
        Joined mask of the difference.
    planes : mapping of `str` to `int`
        Value of the bits of each flag.
    i, j : `numpy.ndarray`, (n,)
        Central pixels.
    reach : `int`
        Half width of the footprint, pixels.

    Returns
    -------
    flags : `dict` [`str`, `numpy.ndarray`]
        ``pixelFlags_<name>``: in the footprint (for ``edge``, also where it reaches over the image's edge);
        ``pixelFlags_<name>Center``: in the 3 x 3 central pixels; ``pixelFlags``: any that objects;
        ``pixelFlags_offimage``.
    """
    ny, nx = bits.shape
    footprint, centre = bits_near(bits, i, j, reach), bits_near(bits, i, j, 1)
    flags: dict[str, NDArray[np.bool_]] = {}
    for name, value in planes.items():
        flags[f"pixelFlags_{name}"] = (footprint & value) != 0
        if name not in NO_CENTRE:
            flags[f"pixelFlags_{name}Center"] = (centre & value) != 0
    over = (i < reach) | (j < reach) | (i >= nx - reach) | (j >= ny - reach)
    flags["pixelFlags_edge"] = flags.get("pixelFlags_edge", np.zeros(i.size, bool)) | over
    flags["pixelFlags_offimage"] = (i < 0) | (j < 0) | (i >= nx) | (j >= ny)
    set_ = [flags[f"pixelFlags_{name}"] for name in OBJECTIONABLE if f"pixelFlags_{name}" in flags]
    flags["pixelFlags"] = np.any(set_, axis=0)
    return flags
