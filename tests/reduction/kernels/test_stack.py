from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.order import median_variance_factor
from tololo.reduction.kernels.stack import stack

from .difference_pair import moffat

SIDE = 300


def inputs(n, seed=1, sigma=None, side=SIDE):
    rng = np.random.default_rng(seed)
    sigma = np.ones(n) if sigma is None else np.asarray(sigma, float)
    images = (rng.normal(size=(n, side, side)) * sigma[:, None, None]).astype(np.float32)
    variances = np.broadcast_to(sigma[:, None, None] ** 2, images.shape).astype(np.float32)
    return images, variances, np.zeros(images.shape, np.int32)


def test_mean_weights_and_variance():
    sigma = np.array([1.0, 2.0, 3.0])
    images, variances, masks = inputs(3, sigma=sigma)
    weights = 1 / sigma**2
    out = stack(images, variances, masks, weights, "mean")
    expected = np.tensordot(weights, images.astype(float), 1) / weights.sum()
    np.testing.assert_allclose(out.image, expected, atol=1e-5)
    assert out.image.var() == pytest.approx(float(out.variance[0, 0]), rel=0.02)
    np.testing.assert_allclose(out.variance, 1 / weights.sum(), rtol=1e-5)
    assert (out.n_used == 3).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 13, 20, 21, 30])
def test_median_and_its_variance(n):
    images, variances, masks = inputs(n, seed=n, side=200)
    out = stack(images, variances, masks, None, "median")
    np.testing.assert_allclose(out.image, np.median(images, axis=0), atol=1e-6)
    # The scatter of a variance from 40000 pixels is 0.7 %.
    assert out.image.var() == pytest.approx(float(out.variance.mean()), rel=0.025)


def test_median_variance_of_unequal_inputs():
    sigma = np.linspace(0.5, 2.0, 15)
    out = stack(*inputs(15, sigma=sigma), None, "median")
    assert out.image.var() == pytest.approx(float(out.variance.mean()), rel=0.05)


def test_median_factor_goes_to_half_pi():
    assert median_variance_factor(1) == 1
    assert median_variance_factor(10_001) == pytest.approx(np.pi / 2, rel=1e-3)
    assert all(0 < median_variance_factor(n + 2) - median_variance_factor(n) < 0.15 for n in range(3, 60))


def test_minimum_takes_variance_and_mask_from_where_it_took_the_value():
    images, variances, masks = inputs(4, sigma=[1, 2, 3, 4])
    masks += (1 << np.arange(4))[:, None, None].astype(np.int32)
    out = stack(images, variances, masks, None, "min")
    np.testing.assert_array_equal(out.image, images.min(axis=0))
    which = images.argmin(axis=0)
    np.testing.assert_array_equal(out.variance, (which + 1.0) ** 2)
    np.testing.assert_array_equal(out.mask, 1 << which)
    assert (out.n_used == 4).all()


@pytest.mark.parametrize("method", ["mean", "median", "meanclip", "min"])
def test_one_input_is_its_own_stack(method):
    images, variances, masks = inputs(1, sigma=[2.0])
    masks[:] = np.arange(SIDE, dtype=np.int32)
    images[0, 10:20], variances[0, 30:40] = np.nan, np.inf
    given = np.ones((SIDE, 1), bool)
    given[10:20], given[30:40] = False, False
    # What a result has to overwrite is seldom zero.
    for _ in range(3):
        scrap = [np.full((SIDE, SIDE), 7, kind) for kind in (np.float32, np.float32, np.int16, np.int32)]
        del scrap
        out = stack(images, variances, masks, [3.0], method, clipped_bit=1024)
        np.testing.assert_allclose(out.image, np.where(given, images[0], np.nan), rtol=1e-6)
        np.testing.assert_allclose(out.variance, np.where(given, variances[0], np.nan), rtol=1e-6)
        np.testing.assert_array_equal(out.mask, np.where(given, masks[0], 0))
        np.testing.assert_array_equal(out.n_used, np.where(given, 1, 0) * np.ones_like(masks[0]))
        assert out.clipped.tolist() == [0]


@pytest.mark.parametrize("method", ["mean", "median", "meanclip", "min"])
def test_pixels_without_data_are_not_used(method):
    images, variances, masks = inputs(3)
    masks[0] = 4
    images[0, 10:20] = np.nan
    variances[1, 10:20] = np.inf
    images[:, 30:40] = np.nan
    out = stack(images, variances, masks, None, method, clipped_bit=64)
    np.testing.assert_array_equal(out.image[10:20], images[2, 10:20])
    assert (out.n_used[10:20] == 1).all()
    assert (out.mask[10:20] == 0).all()
    assert np.isnan(out.image[30:40]).all()
    assert np.isnan(out.variance[30:40]).all()
    assert (out.n_used[30:40] == 0).all()


@pytest.mark.parametrize("bad_one", [0, 1, 2])
@pytest.mark.parametrize("offset", [30.0, -30.0])
def test_one_bad_frame_of_three_is_rejected_not_averaged(bad_one, offset):
    images, variances, masks = inputs(3)
    masks[bad_one, 50:100, 50:100] = 2
    images[bad_one, 50:100, 50:100] += offset
    out = stack(images, variances, masks, None, "meanclip", clipped_bit=64)
    others = np.delete(images, bad_one, axis=0).mean(axis=0)
    box = np.s_[50:100, 50:100]
    np.testing.assert_allclose(out.image[box], others[box], atol=1e-5)
    assert (out.n_used[box] == 2).all()
    assert (out.mask[box] == 64).all()
    np.testing.assert_allclose(out.variance[box], 0.5, rtol=1e-6)
    away = np.s_[110:, 110:]
    assert np.mean(out.n_used[away] < 3) < 2e-3
    assert abs(out.image[away].mean()) < 0.01


def test_of_two_that_disagree_the_brighter_goes():
    images, variances, masks = inputs(2)
    images[1, 20:30, 20:30] += 50
    out = stack(images, variances, masks, None, "meanclip", clipped_bit=1)
    np.testing.assert_array_equal(out.image[20:30, 20:30], images[0, 20:30, 20:30])
    assert (out.mask[20:30, 20:30] == 1).all()


def test_the_faint_flanks_of_a_trail_go_with_it():
    images, variances, masks = inputs(5, seed=3)
    images[2] += 25 * np.exp(-0.5 * ((np.arange(SIDE) - 150) / 1.0) ** 2)[:, None].astype(np.float32)
    clipped = stack(images, variances, masks, None, "meanclip", clipped_bit=1)
    plain = stack(images, variances, masks, None, "mean")
    profile = clipped.image.mean(axis=1)
    assert plain.image.mean(axis=1)[150] == pytest.approx(5.0, rel=0.05)
    assert np.abs(profile[146:155]).max() < 0.25


def test_stars_of_good_and_bad_seeing_are_not_taken_for_outliers():
    images, variances, masks = inputs(5, seed=4)
    for k, fwhm in enumerate([4.0, 4.2, 4.4, 4.6, 4.8]):
        star = (30_000 * moffat(fwhm, side=33)).astype(np.float32)
        for y in range(40, SIDE - 40, 50):
            for x in range(40, SIDE - 40, 50):
                images[k, y - 16 : y + 17, x - 16 : x + 17] += star
                variances[k, y - 16 : y + 17, x - 16 : x + 17] += star / 100
    out = stack(images, variances, masks, None, "meanclip", clipped_bit=1)
    cores = [out.n_used[y - 2 : y + 3, x - 2 : x + 3] for y in range(40, 260, 50) for x in range(40, 260, 50)]
    assert np.mean(np.array(cores) == 5) > 0.98


def test_clipping_leaves_gaussian_noise_nearly_alone():
    images, variances, masks = inputs(12, seed=6)
    out = stack(images, variances, masks, None, "meanclip", clipped_bit=1)
    assert np.mean(out.n_used < 12) < 3e-3
    assert out.image.var() == pytest.approx(1 / 12, rel=0.02)


def test_lists_of_planes_and_other_integer_masks():
    images, variances, masks = inputs(3)
    out = stack(list(images), list(variances), [m.astype(np.uint8) for m in masks], [1, 1, 1], "mean")
    np.testing.assert_allclose(out.image, images.mean(axis=0), atol=1e-6)
    assert out.mask.dtype == np.uint8


def test_what_cannot_be_stacked_is_refused():
    images, variances, masks = inputs(3, side=10)
    with pytest.raises(BadInputError, match="Unknown stacking method 'average'"):
        stack(images, variances, masks, None, "average")
    with pytest.raises(BadInputError, match="0 images"):
        stack([], [], [], None, "mean")
    with pytest.raises(BadInputError, match="differ in shape"):
        stack([images[0], images[1][:5]], variances[:2], masks[:2], None, "mean")
    with pytest.raises(BadInputError, match="Weights"):
        stack(images, variances, masks, [1, 1, 0], "mean")


def clipped_slowly(images, variances, n_sigma, allowance):
    """Clip pixel by pixel, in plain words; without the neighbours."""
    rejected = np.zeros(images.shape, bool)
    for y, x in np.ndindex(images.shape[1:]):
        left = [p for p in range(len(images)) if np.isfinite(images[p, y, x] + variances[p, y, x])]
        for _ in range(len(left) // 2):
            pulls = []
            for p in left:
                others = [q for q in left if q != p]
                middle = np.median(images[others, y, x].astype(float))
                m = len(others)
                spread = median_variance_factor(m) * variances[others, y, x].astype(float).sum() / m**2
                expected = variances[p, y, x] + spread + (allowance * middle) ** 2
                pulls.append((images[p, y, x] - middle) ** 2 / expected)
            if max(pulls) <= n_sigma**2:
                break
            worst = left.pop(int(np.argmax(pulls)))
            rejected[worst, y, x] = True
    return rejected


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9, 20])
def test_fast_clipping_rejects_what_the_definition_says(n):
    rng = np.random.default_rng(n)
    images, variances, masks = inputs(n, seed=n, sigma=rng.uniform(0.7, 1.5, n), side=60)
    images += rng.uniform(-20, 200, images.shape[1:]).astype(np.float32)
    hit = rng.random(images.shape) < 0.02
    images[hit] += rng.uniform(-60, 60, int(hit.sum())).astype(np.float32)
    images[rng.random(images.shape) < 0.01] = np.nan
    expected = clipped_slowly(images, variances, 4.0, 0.02)
    out = stack(images, variances, masks, None, "meanclip", psf_allowance=0.02)
    used = np.isfinite(images).sum(axis=0) - expected.sum(axis=0)
    # Around what is rejected the neighbours are tested too, for that input only.
    alone = ndimage.maximum_filter(expected.any(axis=0), 3) == expected.any(axis=0)
    assert alone.sum() > 500
    np.testing.assert_array_equal(out.n_used[alone], used[alone])
    assert (out.n_used <= used).all()


def test_rows_that_are_copied_give_what_arrays_in_memory_give():
    images, variances, masks = inputs(5, seed=9)
    images[2, 100:140, 15:18] += 40
    whole = stack(images, variances, masks, None, "meanclip", clipped_bit=2)
    listed = stack(list(images), list(variances), list(masks), None, "meanclip", clipped_bit=2)
    for one, other in zip(whole, listed, strict=True):
        np.testing.assert_array_equal(one, other)
