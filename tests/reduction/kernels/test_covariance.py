"""Noise that was resampled: predicted and measured covariances against what it does."""

from __future__ import annotations

import numpy as np
import pytest

from tololo.reduction.kernels.covariance import LAGS, measured_covariance, resampled_covariance

from .difference_pair import moffat, resampled_noise


def lag(covariance, dy, dx):
    return covariance[LAGS + dy, LAGS + dx]


def test_the_prediction_is_what_two_resamplings_do():
    noise, variance = resampled_noise(900, 2.0, visits=3)
    score = noise / np.sqrt(variance)
    predicted = resampled_covariance([1.0, 1.0])
    for dy, dx in ((0, 0), (0, 1), (1, 0), (0, 2), (2, 0), (1, 1), (0, 3)):
        products = score[dy:, dx:] * score[: score.shape[0] - dy, : score.shape[1] - dx]
        assert lag(predicted, dy, dx) == pytest.approx(products.mean(), abs=0.012), (dy, dx)
    assert lag(predicted, 0, 0) > 1.05
    assert lag(predicted, 0, 1) > 0.2


def test_no_resampling_leaves_white_noise_and_one_the_variance_plane_s_own():
    white = resampled_covariance([])
    assert lag(white, 0, 0) == 1.0
    assert np.count_nonzero(white) == 1
    assert lag(resampled_covariance([0.76]), 0, 0) == pytest.approx(1.0)
    # Smaller output pixels share more.
    assert lag(resampled_covariance([0.76]), 0, 1) > lag(resampled_covariance([1.0]), 0, 1) + 0.1


def test_dark_pixels_show_the_covariance_between_stars():
    side = 600
    noise, variance = resampled_noise(side, 1.0)
    rng = np.random.default_rng(3)
    bad = rng.random((side, side)) < 0.01
    for x, y, flux in zip(*rng.uniform(40, side - 40, (2, 60)), 10 ** rng.uniform(2, 5, 60), strict=True):
        box = np.s_[round(y) - 32 : round(y) + 33, round(x) - 32 : round(x) + 33]
        noise[box] += flux * moffat(4.0)
    noise[bad] = np.nan
    measured = measured_covariance(noise, variance, bad)
    np.testing.assert_allclose(measured, resampled_covariance([1.0, 1.0]), atol=0.03)


def test_nothing_dark_is_nothing_known():
    image = np.full((200, 200), np.nan, np.float32)
    one = np.ones((200, 200), np.float32)
    assert measured_covariance(image, one, np.ones((200, 200), bool)) is None
