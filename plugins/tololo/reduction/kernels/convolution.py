"""Convolution with a kernel that changes from block to block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.compiled import compiled_fast

ROWS, COLUMNS = 4, 3
"""Rows of the result and columns of the kernel worked on in one pass: twelve products per four loads."""

MARGIN = max(ROWS, COLUMNS) - 1
"""Rows and columns beyond a kernel's reach that a plane needs, below and on the right."""


def pad(plane: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Repeat the edge pixels outwards by a kernel's radius, below and on the right by `MARGIN` more."""
    return np.pad(plane, ((radius, radius + MARGIN), (radius, radius + MARGIN)), mode="edge")


def trim(kernels: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Cut rings off kernels that hold less than a part ``tolerance`` of the absolute sum in each of them.

    Parameters
    ----------
    kernels : `numpy.ndarray`, (..., 2r + 1, 2r + 1)
    tolerance : `float`

    Returns
    -------
    trimmed : `numpy.ndarray`, (..., 2s + 1, 2s + 1)
        With s between 1 and r; not rescaled.
    """
    weight = np.abs(kernels)
    whole = weight.sum(axis=(-2, -1))
    radius = kernels.shape[-1] // 2
    keep = radius
    while keep > 1:
        inner = slice(radius - keep + 1, radius + keep)
        if (weight[..., inner, inner].sum(axis=(-2, -1)) < (1 - tolerance) * whole).any():
            break
        keep -= 1
    kept = slice(radius - keep, radius + keep + 1)
    return kernels[..., kept, kept]


def convolve_blocks(
    plane: NDArray[np.float32], kernels: NDArray[np.float64], block: int, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Convolve each block of an image with its own kernel.

    Parameters
    ----------
    plane : `numpy.ndarray`, (ny + 2r + 3, nx + 2r + 3)
        As `pad` makes it, all values finite. The variance of a convolved image whose pixels are independent
        is the variance convolved with the kernels squared.
    kernels : `numpy.ndarray`, (blocks in y, blocks in x, 2r + 1, 2r + 1)
        ``out[y, x] = sum_ji kernel[j, i] plane[y - (j - r), x - (i - r)]``.
    block : `int`
        Side of a block in pixels.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the image without the padding.

    Returns
    -------
    convolved : `numpy.ndarray`, (ny, nx)

    Raises
    ------
    BadInputError
        If the padding or the number of kernels does not fit.
    """
    size = kernels.shape[-1]
    expected = (shape[0] + size - 1 + MARGIN, shape[1] + size - 1 + MARGIN)
    blocks = (-(-shape[0] // block), -(-shape[1] // block))
    if plane.shape != expected or kernels.shape[:2] != blocks:
        raise BadInputError(
            f"A plane {plane.shape} with {kernels.shape[:2]} kernels for an image {shape}",
            "convolution",
            f"pad the plane to {expected} and give {blocks} kernels",
        )
    # Rows of zeros above and below: each of the rows in a pass starts one row of the kernel later.
    flipped = np.zeros((*blocks, size + 2 * (ROWS - 1), -(-size // COLUMNS) * COLUMNS), np.float32)
    flipped[..., ROWS - 1 : ROWS - 1 + size, :size] = kernels[..., ::-1, ::-1]
    out = np.empty(shape, np.float32)
    _convolve(plane, flipped, block, out)
    return out


@compiled_fast
def _convolve(
    image: NDArray[np.float32], kernels: NDArray[np.float32], block: int, out: NDArray[np.float32]
) -> None:
    """Correlate each block with its kernel: four rows of it, three columns of the kernel at a time."""
    ny, nx = out.shape
    height, width = kernels.shape[2:]
    r0, r1 = np.empty(block, np.float32), np.empty(block, np.float32)
    r2, r3 = np.empty(block, np.float32), np.empty(block, np.float32)
    for by in range(kernels.shape[0]):
        for bx in range(kernels.shape[1]):
            first, n = bx * block, min(block, nx - bx * block)
            last = min(ny, (by + 1) * block)
            for y in range(by * block, last, 4):
                r0[:] = 0.0
                r1[:] = 0.0
                r2[:] = 0.0
                r3[:] = 0.0
                for j in range(height - 3):
                    k0, k1, k2, k3 = (
                        kernels[by, bx, j + 3],
                        kernels[by, bx, j + 2],
                        kernels[by, bx, j + 1],
                        kernels[by, bx, j],
                    )
                    for g in range(0, width, 3):
                        a0, a1, a2 = k0[g], k0[g + 1], k0[g + 2]
                        b0, b1, b2 = k1[g], k1[g + 1], k1[g + 2]
                        c0, c1, c2 = k2[g], k2[g + 1], k2[g + 2]
                        d0, d1, d2 = k3[g], k3[g + 1], k3[g + 2]
                        source = image[y + j, first + g : first + g + n + 2]
                        for x in range(n):
                            s0, s1, s2 = source[x], source[x + 1], source[x + 2]
                            r0[x] += a0 * s0 + a1 * s1 + a2 * s2
                            r1[x] += b0 * s0 + b1 * s1 + b2 * s2
                            r2[x] += c0 * s0 + c1 * s1 + c2 * s2
                            r3[x] += d0 * s0 + d1 * s1 + d2 * s2
                out[y, first : first + n] = r0[:n]
                if y + 1 < last:
                    out[y + 1, first : first + n] = r1[:n]
                if y + 2 < last:
                    out[y + 2, first : first + n] = r2[:n]
                if y + 3 < last:
                    out[y + 3, first : first + n] = r3[:n]
