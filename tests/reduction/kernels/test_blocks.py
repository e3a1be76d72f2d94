from __future__ import annotations

import numpy as np
import pytest

from tololo.reduction.kernels.blocks import ROW_STEP, block_medians, pair_noise, usable_pixels


def test_medians_are_those_of_numpy_and_of_what_is_finite() -> None:
    image = np.random.default_rng(1).normal(5, 1, (70, 50)).astype(np.float32)
    sampled = image[::ROW_STEP]
    image[0:10, 0:20] = np.nan
    image[32:64, 32:50] = np.nan
    found = block_medians(image, 32)
    assert found.shape == (3, 2)
    assert found[0, 0] == np.nanmedian(sampled[:8, :32])
    assert found[2, 1] == np.median(sampled[16:, 32:])
    assert np.isnan(found[1, 1])
    assert np.isfinite(found).sum() == 5


def test_unusable_pixels_are_no_numbers_and_saturated_ones_are_counted() -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    bits = np.zeros((3, 4), np.int32)
    bits[0, 0], bits[1, 1], bits[2, 2] = 1, 2, 4
    found, saturated = usable_pixels(image, bits, 1 | 2, 2, 0.5)
    assert saturated == 1
    assert np.isnan(found[[0, 1], [0, 1]]).all()
    assert np.isfinite(found).sum() == 10
    assert found[2, 2] == 5


def test_the_noise_of_a_pair_is_measured_beside_outliers_and_structure() -> None:
    rng = np.random.default_rng(2)
    structure = 1000 + 30 * rng.normal(size=(256, 256))
    first = (structure + rng.normal(0, 3, (256, 256))).astype(np.float32)
    second = (structure + rng.normal(0, 4, (256, 256))).astype(np.float32)
    first[rng.random(first.shape) < 0.002] += 5000
    second[10:20, 10:40] = np.nan
    variance, one, other = pair_noise(first, second, 32)
    assert variance == pytest.approx(25, rel=0.02)
    assert one == pytest.approx(1000, rel=0.001)
    assert other == pytest.approx(1000, rel=0.001)
    assert pair_noise(first, second, 32, 3)[0] == pytest.approx(25, rel=0.04)


def test_whole_counts_are_no_hindrance() -> None:
    rng = np.random.default_rng(3)
    first, second = np.rint(rng.normal(100, 1.5, (2, 256, 256))).astype(np.float32)
    assert pair_noise(first, second, 32)[0] == pytest.approx(2 * (1.5**2 + 1 / 12), rel=0.02)


def test_without_pixels_nothing_is_known() -> None:
    empty = np.full((64, 64), np.nan, np.float32)
    assert np.isnan(pair_noise(empty, empty, 32)).all()
    assert np.isnan(block_medians(empty, 32)).all()
