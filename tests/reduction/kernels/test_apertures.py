from __future__ import annotations

import math

import numpy as np
import pytest

from tololo.reduction.kernels.apertures import circle_sums, first_moments, overlap


def sums(x: float, y: float, radius: float, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    out = np.full((1, 3), np.nan)
    data = np.ones(shape, np.float32)
    circle_sums(data, 2 * data, np.zeros(shape, bool), *np.array([[x], [y], [radius]]), out)
    return out[0]


@pytest.mark.parametrize("radius", [0.2, 0.5, 0.75, 1.0, math.sqrt(0.5), 2.5, 7.3])
@pytest.mark.parametrize("center", [(20.0, 15.0), (20.5, 15.5), (20.3, 14.9)])
def test_the_pixels_of_a_circle_are_its_area(center: tuple[float, float], radius: float) -> None:
    light, square, area = sums(*center, radius)
    assert area == pytest.approx(math.pi * radius**2, rel=1e-9)
    assert (light, square) == pytest.approx((area, 2 * area))


def test_one_pixel_against_many_small_ones() -> None:
    rng = np.random.default_rng(2)
    fine = (np.arange(400) + 0.5) / 400 - 0.5
    for x, y, radius in zip(*rng.uniform(-3, 3, (2, 40)), rng.uniform(0.3, 3, 40), strict=True):
        inside = (x + fine) ** 2 + (y + fine[:, None]) ** 2 < radius**2
        assert overlap(x, y, radius) == pytest.approx(inside.mean(), abs=2e-3)


def test_what_is_outside_or_bad_does_not_count() -> None:
    assert sums(0.0, 0.0, 3.0)[2] < math.pi * 9 / 2
    np.testing.assert_array_equal(sums(-50.0, 10.0, 3.0), 0)
    np.testing.assert_array_equal(sums(math.nan, 10.0, 3.0), 0)
    data, out = np.full((30, 30), np.nan, np.float32), np.empty((1, 3))
    data[:, :15] = 1.0
    circle_sums(data, data, ~np.isfinite(data), *np.array([[14.5], [15.0], [5.0]]), out)
    np.testing.assert_allclose(out[0], math.pi * 25 / 2, rtol=1e-9)


def test_the_mean_distance_of_the_light() -> None:
    y, x = np.mgrid[:61, :61]
    light = np.exp(-((x - 30.2) ** 2 + (y - 29.7) ** 2) / (2 * 3.0**2)).astype(np.float32)
    moments = np.empty(2)
    bad = np.zeros(light.shape, bool)
    first_moments(light, bad, np.array([30.2, math.nan]), np.array([29.7, 1.0]), np.full(2, 20.0), moments)
    # Of a Gaussian: sigma times the root of pi / 2.
    assert moments[0] == pytest.approx(3.0 * math.sqrt(math.pi / 2), rel=1e-3)
    assert moments[1] == 0
    first_moments(-light, bad, np.array([30.2]), np.array([29.7]), np.full(1, 20.0), moments)
    assert moments[0] == 0
