"""Kron-like fluxes against the light that was drawn."""

from __future__ import annotations

import numpy as np
import pytest

from tololo.reduction.kernels.kron import kron_photometry

from .starfield import grid_stars, moffat, observe

SHAPE = (400, 400)


def test_stars_of_all_sizes_give_the_same_part_of_their_light() -> None:
    part = {}
    for fwhm in (4.0, 8.0):
        stars = grid_stars(3, 80, SHAPE, 5.0, 5.3)
        field = observe(moffat(SHAPE, stars, fwhm), stars, seed=2)
        stars = stars[np.abs(stars[:, 0] - SHAPE[1] // 3) > 30]  # the masked column
        sums = kron_photometry(
            field.image,
            field.variance,
            field.bad,
            stars[:, 0],
            stars[:, 1],
            np.full(len(stars), fwhm / 2.355),
            smallest=6.0,
        )
        ratio = sums["flux"] / stars[:, 2]
        assert np.std(ratio) < 0.02
        assert sums["radius"] == pytest.approx(np.median(sums["radius"]), rel=0.15)
        part[fwhm] = float(np.median(ratio))
    assert 0.9 < part[4.0] < 1.0
    assert part[8.0] == pytest.approx(part[4.0], abs=0.03)


def test_noise_does_not_shrink_or_blow_up_the_circle() -> None:
    rng = np.random.default_rng(4)
    image = rng.normal(0, 30, SHAPE)
    x, y = rng.uniform(20, 380, (2, 50))
    sums = kron_photometry(
        image, np.full(SHAPE, 900.0), np.zeros(SHAPE, bool), x, y, np.full(50, 1.7), smallest=6.0
    )
    assert (sums["radius"] >= 6.0).all()
    assert (sums["radius"] <= 6.0 + 6.0 * 1.7).all()
    pull = sums["flux"] / sums["flux_err"]
    assert 0.7 < np.std(pull) < 1.3


def test_masked_pixels_and_no_sources() -> None:
    stars = np.array([[200.0, 200.0, 1e5]])
    field = observe(moffat(SHAPE, stars, 4.0), stars, seed=1)
    field.bad[198:201, 203] = True
    field.image[field.bad] = 1e6
    keys = {"sigma": np.array([1.7]), "smallest": 6.0}
    (one,) = kron_photometry(field.image, field.variance, field.bad, stars[:, 0], stars[:, 1], **keys)
    assert one["flux"] == pytest.approx(0.95e5, rel=0.06)
    assert one["masked_fraction"] > 0
    empty = np.empty(0)
    assert (
        len(kron_photometry(field.image, field.variance, field.bad, empty, empty, empty, smallest=6.0)) == 0
    )
