"""The least that each step of a quantum can cost on this machine: coding of pixels, and traffic of memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import night_ours as ours
import numpy as np

RAW_PIXELS, PIXELS = 2160 * 4146, 2048 * 4096

BYTES = {
    ours.ISR: ("raw, bias, its variance, flat and defects read, three planes written", 2.2 + 13 + 12),
    ours.COSMIC_RAYS: ("image and variance read once", 8),
    ours.BACKGROUND: ("image and mask read, and what is left written", 9),
    ours.DETECTION: ("image, variance and mask read once", 9),
    ours.PSF: ("image, variance and mask read once", 9),
    ours.PHOTOMETRY: ("image, variance and mask read once, and what is left written", 13),
}
"""What has to pass between processor and memory, bytes for each pixel of the CCD."""

CODED = {
    ours.READ_RAW: ("RICE decoding of the raw", RAW_PIXELS),
    ours.READ_BIAS: ("RICE decoding of two planes", 2 * PIXELS),
    ours.READ_FLAT: ("RICE decoding of two planes", 2 * PIXELS),
    ours.WRITE: ("RICE coding of three planes", 3 * PIXELS),
}
"""Pixels that have to be coded or decoded, at the speed of funpack."""


def bandwidth(runs: int = 7) -> float:
    """Measure how fast this machine copies memory, bytes read and written per second (STREAM's copy)."""
    source = np.ones(40_000_000, np.float32)
    target = np.zeros_like(source)
    times = []
    for _ in range(runs):
        began = time.process_time()
        np.copyto(target, source)
        times.append(time.process_time() - began)
    return 2 * source.nbytes / min(times)


def limits(bytes_per_s: float, funpack_s: float | None) -> dict[str, tuple[str, float]]:
    """Return by step what bounds it, and the bound in seconds; of coding only where there is funpack."""
    found = {step: (what, size * PIXELS / bytes_per_s) for step, (what, size) in BYTES.items()}
    if funpack_s:
        found |= {step: (what, count / RAW_PIXELS * funpack_s) for step, (what, count) in CODED.items()}
    return found


def distances(
    bounds: Mapping[str, tuple[str, float]], spent: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Compare with what was spent (seconds by step): the bound, and how many times that it was."""
    return {
        step: {"limit": what, "limit_s": round(bound, 4), "times_limit": round(spent[step] / bound, 1)}
        for step, (what, bound) in bounds.items()
        if step in spent
    }
