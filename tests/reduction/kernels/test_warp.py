from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.warp import area_ratio, beside, grid_of, warp

from .difference_pair import moffat


def resample(image, transform, shape=None, bad=None, bits=None, variance=None, area=False, **options):
    shape = shape or image.shape
    step = 32
    grid = grid_of(transform, shape, step)
    bad = np.zeros(image.shape, bool) if bad is None else bad
    bits = np.zeros(image.shape, np.int32) if bits is None else bits
    variance = np.ones(image.shape, np.float32) if variance is None else variance
    scale = area_ratio(*grid, step) if area else 1.0
    return warp(image.astype(np.float32), variance, bits, bad, *grid, step, shape, scale, **options)


def field(rng, n=40, side=256, fwhm=4.0, offset=(0, 0)):
    stars = rng.uniform(30, side - 30, (n, 2))
    return stars, paint(stars, side, fwhm, offset)


def paint(stars, side, fwhm, offset=(0, 0)):
    image = np.zeros((side, side))
    for x, y in stars + np.asarray(offset):
        ix, iy = round(x), round(y)
        image[iy - 16 : iy + 17, ix - 16 : ix + 17] += 1000 * moffat(fwhm, x - ix, y - iy, side=33)
    return image


def test_a_shift_by_whole_pixels_copies():
    image = np.random.default_rng(1).normal(size=(100, 130))
    out = resample(image, lambda x, y: (x + 3, y - 2), shape=(100, 120))
    np.testing.assert_allclose(out.image[10:90, 10:110], image[8:88, 13:113], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.variance[10:90, 10:110], 1.0, rtol=1e-6)


def test_a_shift_by_a_fraction_matches_the_stars_painted_there():
    stars, image = field(np.random.default_rng(2))
    truth = paint(stars, 256, 4.0, (-0.37, 0.21))
    out = resample(image, lambda x, y: (x + 0.37, y - 0.21))
    peak = 1000 * moffat(4.0).max()
    assert np.abs(out.image - truth)[20:-20, 20:-20].max() < 0.01 * peak


def test_flux_is_kept_by_rotation_and_scaling_only_with_the_area():
    _, image = field(np.random.default_rng(3), n=12, side=300, fwhm=5.0)
    angle, size = np.radians(20), 0.8  # an output pixel is 0.8 x 0.8 input pixels

    def transform(x, y):
        u, v = (x - 200) * size, (y - 200) * size
        return 150 + np.cos(angle) * u - np.sin(angle) * v, 150 + np.sin(angle) * u + np.cos(angle) * v

    kept = resample(image, transform, shape=(420, 420), area=True)
    bright = resample(image, transform, shape=(420, 420))
    total = np.nansum(kept.image)
    assert total == pytest.approx(image.sum(), rel=2e-3)
    assert np.nansum(bright.image) == pytest.approx(image.sum() / size**2, rel=2e-3)
    inside = np.s_[150:250, 150:250]
    np.testing.assert_allclose(kept.variance[inside] / bright.variance[inside], size**4, rtol=1e-3)


def test_the_variance_is_that_of_many_realisations():
    rng = np.random.default_rng(4)
    variance = rng.uniform(1, 5, (40, 40)).astype(np.float32)
    runs = [
        resample(
            rng.normal(size=variance.shape) * np.sqrt(variance),
            lambda x, y: (x + 0.3, y + 0.45),
            variance=variance,
        )
        for _ in range(2000)
    ]
    inside = np.s_[5:35, 5:35]
    measured = np.var([r.image[inside] for r in runs], axis=0)
    expected = runs[0].variance[inside]
    assert np.median(measured / expected) == pytest.approx(1.0, abs=0.01)
    assert np.std(measured / expected) < 0.04  # the scatter of a variance from 2000 runs is 0.032


def test_a_bad_pixel_gives_its_bit_to_its_core_and_its_light_to_none():
    _, image = field(np.random.default_rng(5))
    bad, bits = np.zeros(image.shape, bool), np.zeros(image.shape, np.int32)
    x, y = 100, 90
    bad[y, x], bits[y, x] = True, 8
    spoiled = image.copy()
    spoiled[y, x] = 1e9
    clean = resample(image, lambda x, y: (x + 0.4, y + 0.4))
    out = resample(spoiled, lambda x, y: (x + 0.4, y + 0.4), bad=bad, bits=bits)
    marked = np.argwhere(out.mask_bits)
    np.testing.assert_array_equal(marked, [[y - 1, x - 1], [y - 1, x], [y, x - 1], [y, x]])
    assert np.nanmax(np.abs(out.image[80:100, 90:110])) < 10 * np.abs(clean.image[80:100, 90:110]).max() + 1
    reached = out.coverage < 1
    assert reached[y - 3 : y + 3, x - 3 : x + 3].all()
    inner = np.s_[20:-20, 20:-20]
    assert np.count_nonzero(reached[inner]) == 36


def test_a_pixel_that_is_not_finite_is_bad_without_being_told():
    image = np.ones((60, 60))
    image[30, 30] = np.nan
    out = resample(image, lambda x, y: (x + 0.5, y + 0.5))
    np.testing.assert_allclose(out.image[10:50, 10:50], 1.0, atol=1e-5)


def test_no_data_in_holes_and_outside():
    bad = np.zeros((80, 80), bool)
    bad[30:50, 30:50] = True
    out = resample(np.ones((80, 80)), lambda x, y: (x - 20.5, y), shape=(80, 140), bad=bad)
    assert np.isnan(out.image[33:47, 54:67]).all()
    assert np.isnan(out.variance[33:47, 54:67]).all()
    assert np.isnan(out.image[:, :20]).all()
    assert np.isnan(out.image[:, 101:]).all()
    assert (out.coverage[:, :20] == 0).all()
    assert np.isfinite(out.image[5:25, 25:95]).all()


def test_the_mask_keeps_its_type():
    bits = np.zeros((50, 50), np.uint8)
    assert resample(np.ones((50, 50)), lambda x, y: (x, y), bits=bits).mask_bits.dtype == np.uint8


def test_planes_and_grids_that_do_not_fit_are_refused():
    plane = np.ones((50, 50), np.float32)
    grid = grid_of(lambda x, y: (x, y), (50, 50), 32)
    bits, bad = np.zeros((50, 50), np.int32), np.zeros((50, 50), bool)
    with pytest.raises(BadInputError, match="differ in shape"):
        warp(plane, plane[:40], bits, bad, *grid, 32, (50, 50))
    with pytest.raises(BadInputError, match="grid does not fit"):
        warp(plane, plane, bits, bad, *grid, 32, (90, 50))


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_each_way_round_gives_the_same_pixels(turn, mirrored):
    """Turned and mirrored inputs are read along other axes; rows of neighbours are worked out together."""
    rng = np.random.default_rng(7)
    image = rng.normal(size=(150, 170))
    bad = rng.random(image.shape) < 1e-3
    plain = resample(image, lambda x, y: (1.001 * x + 0.004 * y + 8.3, y - 0.003 * x + 9.6), (120, 140), bad)
    planes = [np.fliplr(plane) if mirrored else plane for plane in (image, bad)]
    there = [np.ascontiguousarray(np.rot90(plane, turn // 90)) for plane in planes]
    ny, nx = image.shape

    def transform(x, y):
        u, v = 1.001 * x + 0.004 * y + 8.3, y - 0.003 * x + 9.6
        u = nx - 1 - u if mirrored else u
        return {0: (u, v), 90: (v, nx - 1 - u), 180: (nx - 1 - u, ny - 1 - v), 270: (ny - 1 - v, u)}[turn]

    out = resample(there[0], transform, (120, 140), there[1])
    # Positions are rounded to a 4096th of a pixel, to either side.
    np.testing.assert_allclose(out.image, plain.image, atol=5e-3)
    np.testing.assert_allclose(out.variance, plain.variance, atol=5e-3)


def test_only_the_part_that_is_reached_is_looked_at():
    rng = np.random.default_rng(8)
    image = rng.normal(size=(300, 300))
    bits = np.arange(90_000, dtype=np.int32).reshape(image.shape)
    whole = resample(image, lambda x, y: (x + 0.4, y + 0.3), (300, 300), bits=bits)
    part = resample(image, lambda x, y: (x + 100.4, y + 80.3), (100, 120), bits=bits)
    np.testing.assert_allclose(part.image, whole.image[80:180, 100:220], atol=1e-5)
    np.testing.assert_array_equal(part.mask_bits, whole.mask_bits[80:180, 100:220])
    far = resample(image, lambda x, y: (x + 5000, y), (50, 50))
    assert np.isnan(far.image).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (60, 129)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 1.0])
def test_what_lies_beside_a_mask_is_as_a_square_dilates_it(shape, share):
    mask = np.random.default_rng(7).random(shape) < share
    np.testing.assert_array_equal(beside(mask, 3), ndimage.binary_dilation(mask, np.ones((7, 7))))
