from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.detection import detect_sources, find_peaks, matched_filter, separate

from .starfield import moffat, moffat_psf, observe, random_stars

PSF = moffat_psf(25, 4.2)


def test_separable_kernel_is_the_kernel() -> None:
    kernel = PSF.kernel(0, 0)
    columns, rows = separate(kernel)
    assert np.abs(columns.T @ rows - kernel).max() < 4e-3 * kernel.max()


def test_score_is_a_signal_to_noise_everywhere() -> None:
    rng = np.random.default_rng(5)
    variance = np.ones((300, 300)) * np.linspace(1, 9, 300)
    bad = np.zeros(variance.shape, dtype=bool)
    bad[100] = bad[:, 200:202] = True
    image = rng.normal(size=variance.shape) * np.sqrt(variance)
    image[bad] = 1e6
    score, flux, flux_variance = matched_filter(image, variance, bad, PSF.kernel(0, 0))
    usable = np.isfinite(flux_variance)
    assert (~usable).sum() < 0.02 * usable.size
    for part in (np.s_[5:95, :100], np.s_[98:103], np.s_[:, 198:204], np.s_[:3], np.s_[:, 250:]):
        values = score[part][usable[part]]
        assert abs(values.std() - 1) < 0.12, part
        assert abs(values.mean()) < 0.25
    np.testing.assert_allclose(
        score[usable], flux[usable] / np.sqrt(flux_variance[usable]), rtol=1e-4, atol=1e-4
    )


def test_flux_at_a_star_is_unbiased_beside_bad_pixels() -> None:
    stars = np.array([[50.0, 50.0, 1000.0], [120.0, 50.0, 1000.0]])
    image = moffat((100, 170), stars, 4.2)
    bad = np.zeros(image.shape, dtype=bool)
    bad[:, 122] = True
    image[bad] = -1e5
    _, flux, _ = matched_filter(image, np.ones(image.shape), bad, PSF.kernel(0, 0))
    inside = moffat((25, 25), np.array([[12.0, 12.0, 1.0]]), 4.2, oversampling=11).sum()
    np.testing.assert_allclose([flux[50, 50], flux[50, 120]], 1000 * inside, rtol=0.01)


def test_no_score_where_most_of_the_star_is_bad() -> None:
    bad = np.zeros((60, 60), dtype=bool)
    bad[20:40, 20:40] = True
    score, flux, flux_variance = matched_filter(np.ones((60, 60)), np.ones((60, 60)), bad, PSF.kernel(0, 0))
    assert score[30, 30] == 0
    assert flux[30, 30] == 0
    assert np.isinf(flux_variance[30, 30])


def test_peaks_of_both_signs_once_each() -> None:
    score = np.zeros((40, 40))
    score[10, 10] = score[10, 11] = 9.0
    score[20, 30] = -8.0
    score[1, 1] = 20.0
    x, y, value = find_peaks(score, 5.0, both_signs=True, edge=3)
    assert sorted(zip(y.round(), value, strict=True)) == [(10.0, 9.0), (20.0, -8.0)]
    assert abs(x[0] - 10.5) < 0.01
    assert find_peaks(score, 5.0, edge=3)[0].size == 1


def test_completeness_and_false_detections() -> None:
    shape = (800, 800)
    stars = random_stars(7, 160, shape, 2.6, 4.5, border=12)
    field = observe(moffat(shape, stars, 4.2), stars, 8)
    sources = detect_sources(field.image, field.variance, field.bad, PSF)
    snr = stars[:, 2] * np.sqrt((PSF.kernel(0, 0) ** 2).sum() / 1000)
    on_column = np.abs(stars[:, 0] - shape[1] // 3) < 2
    distance, _ = cKDTree(np.column_stack([sources["x"], sources["y"]])).query(stars[:, :2])
    for low, high, part in ((7, 10, 0.85), (10, np.inf, 0.97)):
        chosen = (snr > low) & (snr < high) & ~on_column
        assert chosen.sum() >= 10
        assert (distance[chosen] < 2).mean() >= part
    away, _ = cKDTree(stars[:, :2]).query(np.column_stack([sources["x"], sources["y"]]))
    assert (away > 2.5).sum() <= 2
    empty = observe(np.zeros(shape), stars[:0], 9)
    assert detect_sources(empty.image, empty.variance, empty.bad, PSF, threshold=5.5).size == 0


@pytest.mark.parametrize("ratio", [1.0, 0.15])
def test_neighbours_are_separate(ratio: float) -> None:
    stars = np.array([[60.3, 60.0, 3e4], [60.3 + 1.6 * 4.2, 60.0, ratio * 3e4]])
    field = observe(moffat((120, 160), stars, 4.2), stars, 4)
    sources = detect_sources(field.image, field.variance, field.bad, PSF)
    assert sources.size == 2
    for x, y, _ in stars:
        assert np.hypot(sources["x"] - x, sources["y"] - y).min() < 0.7


def test_shapes_are_checked() -> None:
    image = np.zeros((20, 20))
    with pytest.raises(BadInputError, match="shape"):
        matched_filter(image, image[:-1], image > 0, PSF.kernel(0, 0))
    with pytest.raises(BadInputError, match="odd"):
        matched_filter(image, image, image > 0, np.ones((4, 4)))
