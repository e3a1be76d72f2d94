"""The three planes of an image as the compiled functions want them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.compiled import compiled

type Float32Image = NDArray[np.float32]


def check_planes(
    image: NDArray[np.floating], variance: NDArray[np.floating], bad: NDArray[np.bool_]
) -> tuple[Float32Image, Float32Image, NDArray[np.bool_]]:
    """Return image, variance and mask as native, contiguous arrays of one shape.

    Pixels whose value is not finite, or whose variance is not finite and positive, are bad as well; they get
    the value 0 and the variance 1, so that nothing that multiplies them by zero makes a NaN.

    Raises
    ------
    BadInputError
        The shapes differ or are not two-dimensional.
    """
    if image.ndim != 2 or not image.shape == variance.shape == bad.shape:
        raise BadInputError(
            f"Image {image.shape}, variance {variance.shape} and mask {bad.shape} "
            "do not have one two-dimensional shape"
        )
    data = np.ascontiguousarray(image, dtype=np.float32)
    noise = np.ascontiguousarray(variance, dtype=np.float32)
    masked = np.ascontiguousarray(bad, dtype=np.bool_)
    if count_unusable(data.reshape(-1), noise.reshape(-1)):
        data, noise, masked = data.copy(), noise.copy(), masked.copy()
        _blank_unusable(data.reshape(-1), noise.reshape(-1), masked.reshape(-1))
    return data, noise, masked


@compiled
def _blank_unusable(data: NDArray[np.float32], noise: NDArray[np.float32], masked: NDArray[np.bool_]) -> None:
    """Mask the pixels that `count_unusable` counts, and give them 0 and the variance 1."""
    limit = np.float32(np.inf)
    for i in range(data.size):
        usable = (abs(data[i]) < limit) & (noise[i] > np.float32(0.0)) & (noise[i] < limit)
        data[i] = data[i] if usable else np.float32(0.0)
        noise[i] = noise[i] if usable else np.float32(1.0)
        masked[i] |= not usable


@compiled
def count_unusable(data: NDArray[np.float32], noise: NDArray[np.float32]) -> int:
    """Count the pixels without a finite value and a finite positive variance."""
    number = 0
    limit = np.float32(np.inf)
    for i in range(data.size):
        usable = (abs(data[i]) < limit) & (noise[i] > np.float32(0.0)) & (noise[i] < limit)
        number += 0 if usable else 1
    return number
