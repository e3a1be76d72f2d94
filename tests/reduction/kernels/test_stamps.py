from __future__ import annotations

import numpy as np
import pytest

from tololo.reduction.kernels.interpolation import shift
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.stamps import (
    add_light,
    corner_of,
    move_into,
    stamp_at,
    variance_line,
    weigh_into,
)

from .starfield import moffat_psf

SIZE = 25


@pytest.fixture(scope="module")
def psf() -> PixelPsf:
    """A PSF that varies over the image."""
    kernel = moffat_psf(SIZE, 4.2).coefficients[0]
    slope = moffat_psf(SIZE, 4.6).coefficients[0] - kernel
    return PixelPsf(np.stack([kernel, slope, -slope]), 1, (100.0, 100.0), (100.0, 100.0))


def stamp(psf: PixelPsf, x: float, y: float) -> tuple[np.ndarray, int, int]:
    x0, y0 = corner_of(x, y, SIZE)
    work, out = np.empty((2, SIZE, SIZE), np.float32), np.empty((SIZE, SIZE), np.float32)
    stamp_at(psf.coefficients.astype(np.float32), psf.frame, x, y, x0, y0, work, out)
    return out, x0, y0


@pytest.mark.parametrize(("x", "y"), [(50.0, 60.0), (150.4, 20.49), (3.2, 198.7), (99.51, 0.5)])
def test_it_is_the_stamp_of_the_psf(psf: PixelPsf, x: float, y: float) -> None:
    expected, x0, y0 = psf.stamp(x, y)
    out, *corner = stamp(psf, x, y)
    assert corner == [x0, y0]
    np.testing.assert_allclose(out, expected, atol=2e-6 * expected.max())


def test_light_falls_on_the_image_as_far_as_it_reaches(psf: PixelPsf) -> None:
    for x, y in ((50.0, 60.0), (1.0, 60.0), (50.0, 118.0), (-20.0, 60.0), (50.0, 300.0)):
        out, x0, y0 = stamp(psf, x, y)
        image, whole = np.zeros((120, 90), np.float32), np.zeros((500, 500), np.float32)
        add_light(image, out, x0, y0, 100.0)
        whole[y0 + 50 : y0 + 50 + SIZE, x0 + 50 : x0 + 50 + SIZE] = 100 * out
        np.testing.assert_allclose(image, whole[50:170, 50:140], rtol=1e-6)


def test_the_variance_is_the_line_behind_the_noise(psf: PixelPsf) -> None:
    out, x0, y0 = stamp(psf, 40.0, 50.0)
    noise = np.full((100, 100), 900.0, np.float32)
    add_light(noise, out, x0, y0, 5e4)
    masked = np.zeros(noise.shape, bool)
    masked[50] = True
    number, light, a, b = variance_line(noise, masked, out, x0, y0)
    assert number == SIZE * (SIZE - 1)
    assert light == pytest.approx(out.sum() - out[50 - y0].sum(), rel=1e-5)
    assert (a, b) == pytest.approx((900.0, 5e4), rel=1e-3)
    weight = np.empty((SIZE, SIZE), np.float32)
    weigh_into(noise, masked, out, x0, y0, weight)
    inside = np.s_[y0 : y0 + SIZE, x0 : x0 + SIZE]
    np.testing.assert_allclose(weight, np.where(masked, 0, 1 / noise)[inside], rtol=2e-3)
    masked[:] = True
    assert weigh_into(noise, masked, out, x0, y0, weight)[0] == 0
    np.testing.assert_array_equal(weight, 0)


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.3, -0.45), (-0.5, 0.5), (1.0, -1.0)])
def test_an_image_is_moved_with_all_that_reaches_its_edge(dx: float, dy: float) -> None:
    # Noise up to the edge: nothing may come round from the other side.
    image = np.random.default_rng(3).normal(size=(SIZE, SIZE)).astype(np.float32)
    out = np.full_like(image, np.nan)
    move_into(image, dx, dy, out)
    np.testing.assert_allclose(out, shift(image, dx, dy), atol=5e-6)
