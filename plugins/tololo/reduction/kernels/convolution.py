"""Convolution with a kernel that changes from block to block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.compiled import compiled_fast

GROUP = 7
"""Kernel columns that are multiplied in one pass: seven products per load and store of the sum."""


def pad(plane: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Repeat the edge pixels outwards by a kernel's radius, on the right by seven columns more."""
    return np.pad(plane, ((radius, radius), (radius, radius + GROUP)), mode="edge")


def convolve_blocks(
    plane: NDArray[np.float32], kernels: NDArray[np.float64], block: int, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Convolve each block of an image with its own kernel.

    Parameters
    ----------
    plane : `numpy.ndarray`, (ny + 2r, nx + 2r + 7)
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
    expected = (shape[0] + size - 1, shape[1] + size - 1 + GROUP)
    blocks = (-(-shape[0] // block), -(-shape[1] // block))
    if plane.shape != expected or kernels.shape[:2] != blocks:
        raise BadInputError(
            f"A plane {plane.shape} with {kernels.shape[:2]} kernels for an image {shape}",
            "convolution",
            f"pad the plane to {expected} and give {blocks} kernels",
        )
    width = -(-size // GROUP) * GROUP
    flipped = np.zeros((*blocks, size, width), np.float32)
    flipped[..., :size] = kernels[..., ::-1, ::-1]
    out = np.empty(shape, np.float32)
    _convolve(plane, flipped, block, out)
    return out


@compiled_fast
def _convolve(
    image: NDArray[np.float32], kernels: NDArray[np.float32], block: int, out: NDArray[np.float32]
) -> None:
    """Correlate each block with its kernel, seven columns of the kernel at a time."""
    ny, nx = out.shape
    size, width = kernels.shape[2:]
    total = np.empty(block, np.float32)
    for by in range(kernels.shape[0]):
        for bx in range(kernels.shape[1]):
            first, n = bx * block, min(block, nx - bx * block)
            for y in range(by * block, min(ny, (by + 1) * block)):
                total[:] = 0.0
                for j in range(size):
                    line = kernels[by, bx, j]
                    for g in range(0, width, 7):
                        k0, k1, k2, k3 = line[g], line[g + 1], line[g + 2], line[g + 3]
                        k4, k5, k6 = line[g + 4], line[g + 5], line[g + 6]
                        source = image[y + j, first + g : first + g + n + 6]
                        for x in range(n):
                            total[x] += (
                                k0 * source[x]
                                + k1 * source[x + 1]
                                + k2 * source[x + 2]
                                + k3 * source[x + 3]
                                + k4 * source[x + 4]
                                + k5 * source[x + 5]
                                + k6 * source[x + 6]
                            )
                out[y, first : first + n] = total[:n]
