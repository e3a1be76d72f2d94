"""Ids of sources: unique over all visits and detectors, and the same whenever they are made again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DETECTOR_BITS = 7
COUNTER_BITS = 25


def source_ids(visit: int, detector: int, n: int) -> NDArray[np.int64]:
    """Return the ids of n sources of a detector: visit, detector (7 bits), running number (25 bits)."""
    first = ((visit << DETECTOR_BITS) | detector) << COUNTER_BITS
    return np.int64(first) + np.arange(n, dtype=np.int64)
