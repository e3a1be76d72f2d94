"""What the mask planes say about the pixels of a detection."""

from __future__ import annotations

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
        ring = 0
        # A ring at this distance holds nothing nearer than its own number less half a pixel.
        while ring <= far and ring - 0.5 < out[s]:
            for b in range(-ring, ring + 1):
                jump = 1 if abs(b) == ring else 2 * ring
                a = -ring
                while a <= ring:
                    i, j = ci + a, cj + b
                    if 0 <= i < nx and 0 <= j < ny and bits[j, i] & plane:
                        out[s] = min(out[s], np.hypot(i - x[s], j - y[s]))
                    a += max(1, jump)
            ring += 1
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
