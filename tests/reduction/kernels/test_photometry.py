from __future__ import annotations

import numpy as np
import pytest

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels.photometry import (
    BLENDED,
    EDGE,
    FAILED,
    MASKED,
    aperture_correction,
    aperture_photometry,
    forced_psf_photometry,
    psf_photometry,
)
from tololo.reduction.kernels.psf import PixelPsf

from .starfield import grid_stars, moffat, moffat_psf, observe

FWHM = 4.2
PSF = moffat_psf(35, FWHM)
INSIDE = moffat((35, 35), np.array([[17.0, 17.0, 1.0]]), FWHM, oversampling=11).sum()
SHAPE = (850, 850)


@pytest.fixture(scope="module")
def lone_stars() -> tuple:
    stars = grid_stars(1, 45, SHAPE, 3.4, 5.0)
    return stars, observe(moffat(SHAPE, stars, FWHM), stars, 2)


def test_fluxes_and_positions_are_unbiased_and_errors_true(lone_stars: tuple) -> None:
    stars, field = lone_stars
    start = stars[:, :2] + np.random.default_rng(3).normal(0, 0.3, (len(stars), 2))
    found = psf_photometry(field.image, field.variance, field.bad, PSF, *start.T)
    good = (found["flags"] & (MASKED | FAILED)) == 0
    # What the neighbours 45 pixels away leave in the stamps is below a thousandth of a star.
    pull = (found["flux"] - INSIDE * stars[:, 2]) / found["flux_err"]
    assert good.sum() > 250
    weight = 1 / (found["flux_err"] / found["flux"]) ** 2
    ratio = found["flux"] / (INSIDE * stars[:, 2])
    assert abs((weight * ratio)[good].sum() / weight[good].sum() - 1) < 0.002
    assert abs(pull[good].mean()) < 0.25
    assert abs(pull[good].std() - 1) < 0.15
    for name, truth in (("x", stars[:, 0]), ("y", stars[:, 1])):
        offset = (found[name] - truth)[good] / found[f"{name}_err"][good]
        assert abs(offset.std() - 1) < 0.15
        assert abs(offset.mean()) < 0.2
    assert abs(np.median(found["chi2"][good]) - 1) < 0.03
    assert abs(np.median(found["fwhm"][good]) / PSF.fwhm(0, 0) - 1) < 0.01
    extended = found["extendedness"] / found["extendedness_err"]
    assert abs(extended[good].std() - 1) < 0.2


def test_forced_photometry_of_nothing_scatters_about_zero() -> None:
    field = observe(np.zeros((400, 400)), np.empty((0, 3)), 6)
    places = grid_stars(7, 22, (400, 400), 1, 1)
    found = forced_psf_photometry(field.image, field.variance, field.bad, PSF, places[:, 0], places[:, 1])
    pull = found["flux"] / found["flux_err"]
    assert abs(pull.std() - 1) < 0.12
    assert abs(pull.mean()) < 0.2
    np.testing.assert_array_equal(found["x"], places[:, 0])
    assert np.isnan(found["x_err"]).all()


def test_blends_are_fitted_together() -> None:
    rng = np.random.default_rng(11)
    first = grid_stars(12, 60, (700, 700), 4.0, 4.7)
    angle = rng.uniform(0, 2 * np.pi, len(first))
    second = first + np.column_stack([1.3 * FWHM * np.cos(angle), 1.3 * FWHM * np.sin(angle), 0 * angle])
    second[:, 2] *= rng.uniform(0.2, 1, len(first))
    stars = np.concatenate([first, second])
    field = observe(moffat((700, 700), stars, FWHM), stars, 13)
    start = stars[:, :2] + rng.normal(0, 0.25, (len(stars), 2))
    found = psf_photometry(field.image, field.variance, field.bad, PSF, *start.T)
    good = (found["flags"] & (MASKED | FAILED)) == 0
    assert (found["flags"] & BLENDED).all()
    pull = ((found["flux"] - INSIDE * stars[:, 2]) / found["flux_err"])[good]
    assert abs(np.median(pull)) < 0.25
    assert 0.8 < 1.4826 * np.median(np.abs(pull)) < 1.2
    assert np.median(found["flux"][good] / stars[good, 2]) / INSIDE == pytest.approx(1, abs=0.01)


def test_masked_and_edge_stars_are_flagged_but_right() -> None:
    stars = np.array([[70.0, 60.0, 1e5], [0.6, 100.0, 1e5], [100.2, 100.4, 1e5], [110.0, 30.0, 1e5]])
    field = observe(moffat((150, 150), stars, FWHM), stars, 20)
    field.bad[:, 71] = True
    field.bad[90:110, 90:110] = True
    field.image[field.bad] = -1e6
    found = psf_photometry(field.image, field.variance, field.bad, PSF, stars[:, 0], stars[:, 1])
    assert [bool(f & MASKED) for f in found["flags"]] == [True, True, True, False]
    assert [bool(f & EDGE) for f in found["flags"]] == [False, True, False, False]
    assert [bool(f & FAILED) for f in found["flags"]] == [False, False, True, False]
    np.testing.assert_allclose(found["flux"][[0, 1, 3]], INSIDE * 1e5, rtol=0.025)
    assert np.isnan(found["flux"][2])
    outside = forced_psf_photometry(
        field.image, field.variance, field.bad, PSF, np.array([900.0]), np.array([0.0])
    )
    assert outside["flags"][0] & FAILED


def test_galaxies_are_extended() -> None:
    galaxies = grid_stars(15, 80, (400, 400), 4.5, 4.8)
    field = observe(moffat((400, 400), galaxies, 1.4 * FWHM), galaxies, 16)
    found = psf_photometry(field.image, field.variance, field.bad, PSF, galaxies[:, 0], galaxies[:, 1])
    good = found["flags"] == 0
    assert (found["extendedness"] / found["extendedness_err"])[good].min() > 10
    np.testing.assert_allclose(found["fwhm"][good], 1.4 * FWHM, rtol=0.08)


def test_apertures(lone_stars: tuple) -> None:
    stars, field = lone_stars
    sums = aperture_photometry(field.image, field.variance, field.bad, stars[:, 0], stars[:, 1], [6.0, 12.0])
    inside = [
        moffat((61, 61), np.array([[30.0, 30.0, 1.0]]), FWHM, oversampling=11)[
            np.hypot(*np.mgrid[-30:31, -30:31]) < radius
        ].sum()
        for radius in (6.0, 12.0)
    ]
    clean = sums["masked_fraction"].max(axis=1) < 1e-6
    for k, part in enumerate(inside):
        pull = (sums["flux"][clean, k] - part * stars[clean, 2]) / sums["flux_err"][clean, k]
        assert abs(np.median(pull)) < 0.4
        assert abs(1.4826 * np.median(np.abs(pull - np.median(pull))) - 1) < 0.2
    assert (sums["masked_fraction"][~clean, 1] > 0).all()
    off = aperture_photometry(
        field.image, field.variance, field.bad, np.array([-50.0]), np.array([9.0]), [5.0]
    )
    assert np.isnan(off["flux"][0, 0])
    assert off["masked_fraction"][0, 0] == 1


def test_aperture_correction() -> None:
    rng = np.random.default_rng(4)
    flux = 10 ** rng.uniform(3, 5, 40)
    error = 0.01 * flux
    aperture = 1.08 * flux + rng.normal(size=40) * error
    aperture[:3] *= 1.5
    factor, uncertainty, n_used = aperture_correction(flux, aperture, error)
    assert abs(factor - 1.08) < 4 * uncertainty < 0.02
    assert 30 <= n_used <= 37
    with pytest.raises(NothingToDoError):
        aperture_correction(-flux, aperture, error)


def test_positions_must_be_finite() -> None:
    image = np.ones((50, 50))
    with pytest.raises(BadInputError, match="finite"):
        psf_photometry(image, image, image < 0, PSF, np.array([np.nan]), np.array([3.0]))


def test_errors_of_x_and_y_go_together_for_a_star_that_lies_askew() -> None:
    grid = np.arange(-12, 13)
    x, y = np.meshgrid(grid, grid)
    kernel = np.exp(-0.5 * ((x + y) ** 2 / 2 / 2.6**2 + (x - y) ** 2 / 2 / 1.8**2))
    psf, rng = PixelPsf((kernel / kernel.sum())[None]), np.random.default_rng(6)
    where = np.stack(np.meshgrid(np.arange(30, 870, 40), np.arange(30, 870, 40)), -1).reshape(-1, 2) + 0.2
    image = rng.normal(0, 10, (900, 900))
    for star in where:
        stamp, x0, y0 = psf.stamp(*star)
        image[y0 : y0 + 25, x0 : x0 + 25] += 4000 * stamp
    fit = psf_photometry(
        image, np.full(image.shape, 100.0), np.zeros(image.shape, bool), psf, *where.T, shapes=False
    )
    off = np.column_stack([fit["x"], fit["y"]]) - where
    assert np.median(fit["xy_cov"]) == pytest.approx(np.mean(off[:, 0] * off[:, 1]), rel=0.25)
    assert np.median(fit["xy_cov"]) > 0
    assert np.isnan(fit["extendedness"]).all()
