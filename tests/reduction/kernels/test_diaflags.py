from __future__ import annotations

import numpy as np
import pytest

from tololo.reduction.kernels.diaflags import (
    FAR,
    distance_to,
    good_pixels,
    joined_bits,
    log_noise,
    pixel_flags,
)

PLANES = {"bad": 1, "saturated": 2, "edge": 4, "suspect": 8}


def test_flags_of_footprint_and_centre():
    bits = np.zeros((60, 80), np.int32)
    bits[30, 44], bits[31, 40], bits[10, 10] = 2, 8, 1
    flags = pixel_flags(bits, PLANES, np.array([40, 70]), np.array([30, 50]), 4)
    assert flags["pixelFlags_saturated"].tolist() == [True, False]
    assert flags["pixelFlags_saturatedCenter"].tolist() == [False, False]
    assert flags["pixelFlags_suspectCenter"].tolist() == [True, False]
    assert not flags["pixelFlags_bad"].any()
    assert "pixelFlags_badCenter" not in flags
    # A suspect pixel alone is no objection.
    assert flags["pixelFlags"].tolist() == [True, False]


def test_a_footprint_that_reaches_over_the_edge():
    flags = pixel_flags(np.zeros((60, 80), np.int32), PLANES, np.array([3, 40]), np.array([30, 58]), 4)
    assert flags["pixelFlags_edge"].all()
    assert flags["pixelFlags"].all()
    assert not flags["pixelFlags_offimage"].any()


@pytest.mark.parametrize("outside", [True, False])
def test_distances_are_those_of_a_plain_search(outside):
    random = np.random.default_rng(5)
    bits = (random.random((70, 90)) < 0.004).astype(np.int32)
    x, y = random.uniform(0, 89, 60), random.uniform(0, 69, 60)
    j, i = np.nonzero(bits)
    expected = np.minimum(np.hypot(i - x[:, None], j - y[:, None]).min(axis=1), FAR)
    if outside:
        border = np.min([x, y, 89 - x, 69 - y], axis=0) + 1
        expected = np.minimum(expected, border)
    np.testing.assert_allclose(distance_to(bits, 1, x, y, outside, FAR), expected)
    assert (distance_to(bits, 2, x, y, False, FAR) == FAR).all()


def test_good_pixels_are_counted_within_the_image():
    bad = np.zeros((20, 20), bool)
    bad[10, 10] = True
    assert good_pixels(bad, np.array([10, 0]), np.array([10, 0]), 2).tolist() == [24, 9]


def test_the_log_of_the_noise_is_that_of_the_good_pixels():
    noise, bad = np.full((20, 20), 3.0, np.float32), np.zeros((20, 20), bool)
    bad[10, 10], noise[9, 9] = True, 7.0
    found = log_noise(noise, bad, np.array([10, 0]), np.array([10, 0]), 2)
    np.testing.assert_allclose(
        found, [23 * np.log(6 * np.pi) + np.log(14 * np.pi), 9 * np.log(6 * np.pi)], rtol=1e-6
    )


def test_masks_are_joined():
    saturated, of_template, no_data, suspect, kept = planes = (1, 2, 4, 8, 16)
    science, template = np.zeros((2, 5), np.int32), np.zeros((2, 5), np.int32)
    difference, bad = np.zeros((2, 5), np.float32), np.zeros((2, 5), bool)
    template[0, 0], template[0, 1], template[0, 2] = saturated, kept, 32
    difference[0, 3], difference[0, 4] = np.nan, np.inf
    science[1, 0] = saturated
    bad[0, 3:] = bad[1, :2] = True
    joined = joined_bits(science, template, difference, bad, planes)
    # What is bad for a reason that is known already is not suspect besides.
    assert joined.tolist() == [[of_template, kept, 0, no_data, no_data], [saturated, suspect, 0, 0, 0]]
    assert science[0].tolist() == [0] * 5
