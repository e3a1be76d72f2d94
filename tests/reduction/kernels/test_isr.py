from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tololo.reduction.kernels.isr import measure_overscan, smooth

NOISE = 1.6
HEIGHT = 4096


def overscan(level: NDArray[np.float64], seed: int = 1, width: int = 50) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    pixels = level[:, None] + rng.normal(0, NOISE, (level.size, width))
    return np.asarray(np.rint(pixels), dtype=np.uint16)


Y = np.arange(HEIGHT)
DRIFTS = {
    "flat": np.zeros(HEIGHT),
    "slope": 10.0 * Y / HEIGHT,
    "wave": 3.0 * np.sin(Y / 100),
    "jump": np.where(Y > 2098, 15.0, 0.0),
    "walk": np.cumsum(np.random.default_rng(7).normal(0, 0.03, HEIGHT)),
    "jitter": np.random.default_rng(8).normal(0, 2.0, HEIGHT),
}
LEFT = {"flat": 0.3, "slope": 0.35, "wave": 0.5, "jump": 0.3, "walk": 0.45, "jitter": 1.45}
"""Error of the levels, at most, in that of a row's own mean."""


@pytest.mark.parametrize("kind", DRIFTS)
def test_levels_follow_what_is_there_with_less_noise_than_a_row_alone(kind: str) -> None:
    level = 2000.0 + DRIFTS[kind]
    found = measure_overscan(overscan(level), 45000.0)
    alone = np.hypot(NOISE, 12**-0.5) / np.sqrt(40)
    assert not found.problem
    assert np.std(found.rows - level) < LEFT[kind] * alone
    assert abs(np.mean(found.rows - level)) < 4 * alone / np.sqrt(HEIGHT)
    assert abs(found.noise / np.hypot(NOISE, 12**-0.5) - 1) < 0.01


def test_trails_of_charge_at_the_edge_do_not_count() -> None:
    level = np.full(HEIGHT, 2000.0)
    pixels = overscan(level)
    pixels[:, :3] += np.array([60, 20, 7], dtype=np.uint16)
    pixels[:, -2:] += 5
    found = measure_overscan(pixels, 45000.0)
    assert abs(np.mean(found.rows) - 2000) < 0.02


def test_odd_pixels_of_a_row_do_not_count() -> None:
    pixels = overscan(np.full(HEIGHT, 2000.0))
    pixels[::3, 20] = 65535
    pixels[::5, 30] = 0
    found = measure_overscan(pixels, 45000.0)
    assert np.abs(found.rows - 2000).max() < 0.8
    assert found.rows.std() < 0.1


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (np.full((100, 50), 65535, np.uint16), "saturated"),
        (np.full((100, 50), 2000, np.uint16), "constant"),
        (np.full((100, 3), 2000, np.uint16), "too few"),
        (np.zeros((0, 50), np.uint16), "too few"),
        (np.arange(5000, dtype=np.uint16).reshape(100, 50) * 7919 % 40000, "differs"),
    ],
)
def test_what_is_no_overscan_is_said(pixels: NDArray[np.uint16], problem: str) -> None:
    found = measure_overscan(pixels, 45000.0)
    assert problem in found.problem
    assert found.rows.shape == (pixels.shape[0],)


def test_smoothing_keeps_a_jump_and_says_how_far_it_reached() -> None:
    truth = np.where(np.arange(400) >= 200, 8.0, 0.0)
    smoothed, number = smooth(truth + np.random.default_rng(3).normal(size=400), np.ones(400))
    assert np.std(smoothed - truth) < 0.35
    assert np.abs(smoothed - truth)[195:205].max() < 3
    assert 50 < np.median(number) <= 200
