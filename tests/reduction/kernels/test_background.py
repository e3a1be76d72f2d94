from __future__ import annotations

import numpy as np
import pytest

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.background import estimate_background

from .starfield import moffat, observe, random_stars


@pytest.mark.parametrize("shape", [(250, 250), (181, 250), (700, 900)])
def test_sky_with_gradient_among_stars(shape: tuple[int, int]) -> None:
    number = shape[0] * shape[1] // 5000
    stars = random_stars(3, number, shape, 2.8, 4.8)
    field = observe(moffat(shape, stars, 4.2), stars, 1)
    y, x = np.mgrid[: shape[0], : shape[1]]
    sky = 2000 + 0.02 * x - 0.05 * y
    level, rms = estimate_background(field.image + sky, field.bad)
    noise = np.sqrt(1000.0)
    inner = np.s_[20:-20, 20:-20]
    assert abs(np.median((level - sky)[inner])) < 0.05 * noise
    assert (level - sky)[inner].std() < 0.12 * noise
    assert abs(np.median(rms) / noise - 1) < 0.05
    assert level.dtype == np.float32


def test_a_star_over_several_meshes_does_not_lift_the_sky() -> None:
    y, x = np.mgrid[:500, :500]
    halo = 5e4 / (1 + ((x - 250) ** 2 + (y - 250) ** 2) / 625) ** 2.5
    field = observe(halo, np.empty((0, 3)), 2)
    level, _ = estimate_background(field.image + 500, field.bad)
    near = np.hypot(x - 250, y - 250) < 40
    assert np.median(halo[near]) > 1000
    assert abs(np.median(level[near]) - 500) < 0.8 * np.sqrt(1000.0)
    assert abs(np.median(level) - 500) < 0.1 * np.sqrt(1000.0)


def test_bad_pixels_do_not_count_and_byte_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(100, 5, (250, 250))
    bad = np.zeros(image.shape, dtype=bool)
    bad[:, 100:160] = True
    image[bad] = np.nan
    level, rms = estimate_background(image.astype(">f4"), bad)
    assert abs(level[:, 130].mean() - 100) < 0.5
    assert abs(rms.mean() - 5) < 0.2


def test_nothing_but_bad_pixels_is_refused() -> None:
    image = np.zeros((100, 100))
    with pytest.raises(BadInputError, match="pixels are good"):
        estimate_background(image, np.ones(image.shape, dtype=bool))
    with pytest.raises(BadInputError, match="shape"):
        estimate_background(image, np.zeros((100, 99), dtype=bool))
